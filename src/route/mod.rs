//! Which provider serves a model: the conf's model map.

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
        rules.sort_by_key(|rule| {
            (
                rule.pattern.contains('*'),
                std::cmp::Reverse(rule.pattern.len()),
            )
        });
        Self(rules)
    }

    pub fn find(&self, model: &str) -> Option<&ModelRule> {
        self.0.iter().find(|rule| matches(&rule.pattern, model))
    }

    pub fn rules(&self) -> &[ModelRule] {
        &self.0
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = text.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, text, hit) in [
            ("gpt-4", "gpt-4", true),
            ("gpt-4", "gpt-4o", false),
            ("gpt-*", "gpt-4o", true),
            ("*-instruct", "gpt-3.5-turbo-instruct", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), hit, "{pattern} {text}");
        }
    }

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
