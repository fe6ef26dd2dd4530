//! `hedge` of a config: `{"after": 300}`, or `{"quantile": 0.95}`, or both. Where it stands says whom the second call goes to:
//! at a target, to the same one; beside a strategy, to another of its targets.

use std::time::Duration;

use super::{node::Node, schema::Step, tree::Tree};
use crate::route::hedge::Hedge;

impl Tree<'_> {
    /// What a node with a strategy says.
    pub(super) fn hedge_among(&mut self, node: &Node, mode: &str, targets: usize) -> Option<Hedge> {
        let hedge = self.hedge(node)?;
        if !matches!(mode, "fallback" | "loadbalance") {
            self.tell_of(HEDGE, NO_EFFECT);
        } else if targets < 2 {
            self.tell_of(HEDGE, NO_OTHER);
        }
        Some(hedge)
    }

    /// What a node says.
    pub(super) fn hedge(&mut self, node: &Node) -> Option<Hedge> {
        let hedge = node.get(HEDGE)?;
        self.enter(Step::Field(HEDGE.to_owned()));
        let read = self.read_hedge(hedge);
        self.leave();
        read
    }

    fn read_hedge(&mut self, node: &Node) -> Option<Hedge> {
        self.only(node, &["after", "quantile"]);
        let (after, quantile) = (node.get("after"), node.get("quantile"));
        if after.or(quantile).is_none() {
            self.tell("It needs `after`, in milliseconds, or `quantile`, such as 0.95.");
            return None;
        }
        let wait = after.and_then(Node::whole).map(Duration::from_millis);
        let wait = wait.filter(|wait| *wait <= MAX_WAIT);
        if after.is_some() && wait.is_none() {
            self.tell_of(
                "after",
                "It must be a whole number of milliseconds, at most 60000.",
            );
        }
        let share = quantile.and_then(Node::number);
        let share = share.filter(|share| (LEAST_SHARE..1.0).contains(share));
        if quantile.is_some() && share.is_none() {
            self.tell_of("quantile", "It must be a number from 0.5 to below 1.");
        }
        Some(Hedge {
            after: wait.unwrap_or_default(),
            quantile: share,
        })
    }
}

const HEDGE: &str = "hedge";
const NO_EFFECT: &str =
    "It has an effect at a target, and beside a strategy of the mode fallback or loadbalance.";
const NO_OTHER: &str = "There is no other target that a second call could go to; at the target itself, it goes there again.";
/// Who waits longer wants a deadline.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Below it, most calls would be made twice.
const LEAST_SHARE: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, portkey},
        route::Route,
    };

    fn read(text: &str) -> Result<Route, Vec<String>> {
        let read = portkey::route(text, None, &Config::default());
        read.map(|route| Route::clone(&route)).map_err(|error| {
            let body: serde_json::Value = serde_json::from_slice(&error.body()).unwrap();
            vec![body.to_string()]
        })
    }

    fn leaf(hedge: &str) -> String {
        format!(r#"{{"provider":"openai","hedge":{hedge}}}"#)
    }

    #[test]
    fn a_wait_a_share_or_both() {
        for (text, after, quantile) in [
            (r#"{"after":300}"#, 300, None),
            (r#"{"after":0}"#, 0, None),
            (r#"{"quantile":0.95}"#, 0, Some(0.95)),
            (r#"{"after":50,"quantile":0.5}"#, 50, Some(0.5)),
        ] {
            let Ok(Route::Leaf(leaf)) = read(&leaf(text)) else {
                panic!("{text}");
            };
            let after = Duration::from_millis(after);
            assert_eq!(leaf.hedge, Some(Hedge { after, quantile }), "{text}");
        }
    }

    #[test]
    fn it_stands_beside_a_strategy_or_at_a_target_and_is_not_handed_down() {
        let two = |strategy: &str| {
            format!(
                r#"{{"strategy":{strategy},"hedge":{{"after":1}},"targets":[{{"provider":"openai"}},{{"provider":"groq"}}]}}"#
            )
        };
        let Ok(Route::Fallback { hedge, targets, .. }) = read(&two(r#"{"mode":"fallback"}"#))
        else {
            panic!("a fallback");
        };
        assert!(hedge.is_some());
        assert!(targets.iter().all(|target| match target {
            Route::Leaf(leaf) => leaf.hedge.is_none(),
            _ => false,
        }));
        let Ok(Route::Balance(balanced)) = read(&two(r#"{"mode":"loadbalance"}"#)) else {
            panic!("a balance");
        };
        assert!(balanced.hedge.is_some());
        let told = read(&two(r#"{"mode":"single"}"#)).unwrap_err();
        assert!(told[0].contains("fallback or loadbalance"), "{told:?}");
    }

    #[test]
    fn what_is_no_hedge_is_told_by_its_place() {
        let alone = r#"{"strategy":{"mode":"fallback"},"hedge":{"after":1},"targets":[{"provider":"openai"}]}"#;
        for (text, said) in [
            (leaf("{}"), "It needs `after`"),
            (leaf("true"), "It needs `after`"),
            (leaf(r#"{"after":60001}"#), "hedge,after"),
            (leaf(r#"{"after":-1}"#), "hedge,after"),
            (leaf(r#"{"after":"300ms"}"#), "hedge,after"),
            (leaf(r#"{"quantile":1}"#), "hedge,quantile"),
            (leaf(r#"{"quantile":0.4}"#), "hedge,quantile"),
            (leaf(r#"{"after":1,"at_most":2}"#), "hedge,at_most"),
            (alone.to_owned(), "no other target"),
        ] {
            let told = read(&text).expect_err(&text);
            assert!(told[0].contains(said), "{text}: {told:?}");
        }
    }
}
