//! Who is called: the conf's model map, and the tree of a config's strategies.

pub mod condition;
pub mod hedge;
pub mod leaf;
pub mod plan;
pub mod retry;
pub mod rules;

use std::sync::Arc;

use http::HeaderName;

use crate::{
    pattern,
    route::{condition::Query, hedge::Hedge, leaf::Leaf, plan::Trigger},
};

/// A config: a tree whose leaves are targets.
#[derive(Clone, Debug)]
pub enum Route {
    Leaf(Arc<Leaf>),
    /// The next one, where one ended as `on` says.
    Fallback {
        on: Trigger,
        targets: Vec<Route>,
        /// When the next one is called beside one that keeps silent.
        hedge: Option<Hedge>,
    },
    /// One of several.
    Balance(Balanced),
    /// The target of the first condition that holds, else the default; both by their place among the targets.
    Conditional {
        conditions: Vec<(Query, usize)>,
        default: Option<usize>,
        targets: Vec<Route>,
    },
}

impl Route {
    /// That of its first leaf; 0: it has none.
    pub fn id(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.id,
            Self::Fallback { targets, .. } | Self::Conditional { targets, .. } => {
                targets.first().map_or(0, Self::id)
            }
            Self::Balance(balanced) => balanced.targets.first().map_or(0, |target| target.id),
        }
    }
}

/// Targets of which one is called.
#[derive(Clone, Debug)]
pub struct Balanced {
    pub mode: Balance,
    /// Never empty, and their weights are not all 0.
    pub targets: Vec<Weighed>,
    /// What is remembered of the choice, such as whose turn it is.
    pub id: u64,
    /// When another one is called beside one that keeps silent.
    pub hedge: Option<Hedge>,
}

#[derive(Clone, Debug)]
pub struct Weighed {
    /// Finite, and at least 0: of 0, it is never chosen.
    pub weight: f64,
    pub route: Arc<Route>,
    /// Of the target, or of the first below it.
    pub id: u64,
}

/// How one of several targets is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By chance, in the proportion of the weights.
    Weighted,
    RoundRobin,
    LeastOutstanding,
    /// The quicker of two that chance picks.
    Latency,
    /// The same for the same client.
    Sticky {
        by: StickyBy,
    },
    /// The same for prompts that start alike.
    PrefixAffinity,
}

/// Whom a sticky choice knows again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// The body's `user`.
    User,
    Header(HeaderName),
}

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
