//! Which provider serves a model: the conf's model map.

#[allow(dead_code, reason = "the loop of attempts, which comes after it")]
pub mod retry;

use crate::pattern;

/// One line of the model map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRule {
    /// A model name; `*` stands for any run of characters.
    pub pattern: String,
    pub provider: String,
    /// What to ask the provider for; `None`: what the client asked for.
    pub model: Option<String>,
}

/// The model map. An exact name beats a pattern, a longer pattern beats a shorter one.
#[derive(Clone, Debug, Default)]
pub struct Models(Vec<ModelRule>);

impl Models {
    pub fn new(mut rules: Vec<ModelRule>) -> Self {
        rules.sort_by_key(|rule| pattern::rank(&rule.pattern));
        Self(rules)
    }

    pub fn find(&self, model: &str) -> Option<&ModelRule> {
        self.0
            .iter()
            .find(|rule| pattern::matches(&rule.pattern, model))
    }

    pub fn rules(&self) -> &[ModelRule] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_rule_wins() {
        let rule = |pattern: &str, provider: &str| ModelRule {
            pattern: pattern.into(),
            provider: provider.into(),
            model: None,
        };
        let models = Models::new(vec![
            rule("*", "any"),
            rule("llama-*", "some"),
            rule("llama-3", "one"),
        ]);
        let provider = |model: &str| models.find(model).unwrap().provider.clone();
        assert_eq!(
            [provider("llama-3"), provider("llama-2"), provider("x")],
            ["one", "some", "any"]
        );
    }
}
