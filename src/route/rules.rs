//! The conf's own routes: which config a request gets that names neither a config nor a provider.

use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use crate::{
    pattern,
    route::{Route, plan::Facts},
};

/// The first rule that fits counts.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// A condition, and the route of the requests that meet it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub when: When,
    pub route: Arc<Route>,
}

/// All that is named has to fit; of a list of patterns, one. `*` stands for any run of characters.
#[derive(Clone, Debug, Default)]
pub struct When {
    /// Of the body's `model`; empty: any.
    pub models: Vec<String>,
    pub paths: Vec<String>,
    pub headers: Vec<(HeaderName, String)>,
    pub metadata: Vec<(String, String)>,
}

impl Rules {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, facts: &Facts<'_>) -> Option<&Arc<Route>> {
        let mut rules = self.0.iter();
        rules
            .find(|rule| rule.when.fits(facts))
            .map(|rule| &rule.route)
    }
}

impl When {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        let any = |patterns: &[String], text: &str| {
            patterns
                .iter()
                .any(|pattern| pattern::matches(pattern, text))
        };
        let model = || facts.text("model").unwrap_or_default();
        let header = |(name, wanted): &(HeaderName, String)| {
            let mut values = facts.headers.get_all(name).iter();
            values.any(|value| {
                value
                    .to_str()
                    .is_ok_and(|text| pattern::matches(wanted, text))
            })
        };
        let told = |(name, wanted): &(String, String)| match facts.metadata.get(name) {
            Some(Value::String(text)) => pattern::matches(wanted, text),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                pattern::matches(wanted, &value.to_string())
            }
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        };
        (self.models.is_empty() || any(&self.models, &model()))
            && (self.paths.is_empty() || any(&self.paths, facts.path))
            && self.headers.iter().all(header)
            && self.metadata.iter().all(told)
    }
}
