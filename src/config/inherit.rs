//! What a node of a config says for all targets below it, and how what stands nearer counts.
//!
//! | field | what a target gets |
//! |---|---|
//! | `override_params`, `model` | all, name by name; the nearest counts |
//! | `retry`, `cb_config`, `forward_headers`, `unsupported`, `prompt_as`, `max_concurrent` | the nearest, whole |
//! | `request_timeout`, `custom_host` | the nearest that is not 0 or empty |
//! | `strict_open_ai_compliance` | the nearest |
//! | all others, `hedge` among them | its own alone |

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderName;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{headers::forwardable, node::Node, schema::Step, tree::Tree};
use crate::{
    completion::PromptAs,
    dialect::settle::Unsupported,
    route::{plan::Breaker, retry::Retry},
};

/// What a node hands down.
#[derive(Clone, Debug, Default)]
pub(super) struct Inherited {
    pub overrides: BTreeMap<String, Box<RawValue>>,
    pub retry: Retry,
    pub timeout: Option<Duration>,
    pub custom_host: Option<String>,
    pub forward: Vec<HeaderName>,
    pub strict: Option<bool>,
    pub breaker: Option<Breaker>,
    pub unsupported: Option<Unsupported>,
    pub prompt_as: Option<PromptAs>,
    pub max_concurrent: Option<u32>,
}

impl Tree<'_> {
    /// What holds at `node`, below `above`.
    pub(super) fn inherit(&mut self, node: &Node, above: &Inherited) -> Inherited {
        let mut here = above.clone();
        self.overrides(node, &mut here.overrides);
        if let Some(retry) = node.get("retry") {
            here.retry = self.within("retry", |tree| tree.retry(retry));
        }
        if let Some(millis) = node.get("request_timeout").and_then(Node::number) {
            here.timeout = self.timeout(millis).or(here.timeout);
        }
        if let Some(host) = node.get("custom_host").and_then(Node::text) {
            let host = Some(host.to_owned()).filter(|host| !host.is_empty());
            here.custom_host = host.or(here.custom_host);
        }
        if let Some(names) = node.get("forward_headers") {
            here.forward = self.within("forward_headers", |tree| tree.forward(names.items()));
        }
        let strict = node.get("strict_open_ai_compliance");
        here.strict = strict.and_then(Node::flag).or(here.strict);
        let nested = node
            .get("strategy")
            .and_then(|strategy| strategy.get("cb_config"));
        if let Some(breaker) = nested.or(node.get("cb_config")) {
            here.breaker = self.within("cb_config", |tree| tree.breaker(breaker));
        }
        if let Some(most) = node.get("max_concurrent") {
            here.max_concurrent = self.count("max_concurrent", most, 1);
        }
        here.unsupported = self.word(node, "unsupported").or(here.unsupported);
        here.prompt_as = self.word(node, "prompt_as").or(here.prompt_as);
        here
    }

    fn within<T>(&mut self, field: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.enter(Step::Field(field.to_owned()));
        let read = read(self);
        self.leave();
        read
    }

    fn overrides(&mut self, node: &Node, all: &mut BTreeMap<String, Box<RawValue>>) {
        match node.get("model") {
            None => {}
            Some(model @ Node::Text(_)) => {
                all.extend(model.to_json().map(|json| ("model".to_owned(), json)));
            }
            Some(_) => self.tell_of("model", "It must be a string."),
        }
        match node.get("override_params") {
            None => {}
            Some(Node::Map(fields)) => {
                let json = |(name, value): &(String, Node)| Some((name.clone(), value.to_json()?));
                all.extend(fields.iter().filter_map(json));
            }
            Some(_) => self.tell_of("override_params", "It must be an object."),
        }
    }

    fn retry(&mut self, node: &Node) -> Retry {
        self.only(
            node,
            &["attempts", "on_status_codes", "use_retry_after_header"],
        );
        let attempts = node.get("attempts");
        // Less than none is none, as for Portkey.
        let negative = attempts
            .and_then(Node::number)
            .is_some_and(|count| count < 0.0);
        let attempts = match attempts.filter(|_| !negative) {
            Some(count) => self.count("attempts", count, 0).unwrap_or_default(),
            None => 0,
        };
        if attempts > MAX_RETRIES {
            self.tell_of("attempts", format!("It must be at most {MAX_RETRIES}."));
        }
        let heed = node.get("use_retry_after_header").and_then(Node::flag);
        let codes = node.get("on_status_codes");
        Retry {
            attempts,
            on: codes.map(|codes| self.statuses("on_status_codes", codes)),
            heed_retry_after: heed.unwrap_or_default(),
        }
    }

    fn timeout(&mut self, millis: f64) -> Option<Duration> {
        if !(0.0..=MAX_TIMEOUT_MS).contains(&millis) {
            let message = "It must be from 0 to 86400000 milliseconds; 0 is none.";
            self.tell_of("request_timeout", message);
            return None;
        }
        let timeout = Duration::try_from_secs_f64(millis / 1000.0).ok();
        timeout.filter(|timeout| !timeout.is_zero())
    }

    fn forward(&mut self, names: &[Node]) -> Vec<HeaderName> {
        let mut headers = Vec::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            match forwardable(name.text().unwrap_or_default()) {
                Ok(header) => headers.push(header),
                Err(why) => {
                    self.enter(Step::Item(place));
                    self.tell(why);
                    self.leave();
                }
            }
        }
        headers
    }

    fn breaker(&mut self, node: &Node) -> Option<Breaker> {
        if !matches!(node, Node::Map(_)) {
            self.tell("It must be an object.");
            return None;
        }
        self.only(node, BREAKER);
        let mut count = |name: &str, least| {
            let value = node.get(name)?;
            self.count(name, value, least)
        };
        let (failures, minimum) = (count("failure_threshold", 1), count("minimum_requests", 1));
        let cooldown = count("cooldown_interval", 1).map(u64::from);
        let percentage = node.get("failure_threshold_percentage");
        let share = percentage
            .and_then(Node::number)
            .filter(|share| (0.0..=100.0).contains(share));
        if percentage.is_some() && share.is_none() {
            self.tell_of(
                "failure_threshold_percentage",
                "It must be a number from 0 to 100.",
            );
        }
        if node.get("failure_threshold").is_none() && percentage.is_none() {
            self.tell("It needs `failure_threshold` or `failure_threshold_percentage`.");
        }
        let codes = node.get("failure_status_codes");
        Some(Breaker {
            failures,
            percentage: share,
            minimum,
            cooldown: cooldown.map_or(DEFAULT_COOLDOWN, Duration::from_millis),
            statuses: codes.map(|codes| self.statuses("failure_status_codes", codes)),
        })
    }

    /// A list of statuses.
    pub(super) fn statuses(&mut self, field: &str, node: &Node) -> Arc<[u16]> {
        let mut statuses = Vec::new();
        if !matches!(node, Node::List(_)) {
            self.tell_of(field, "It must be an array of statuses.");
        }
        for item in node.items() {
            let status = item.whole().and_then(|status| u16::try_from(status).ok());
            match status.filter(|status| (100..600).contains(status)) {
                Some(status) => statuses.push(status),
                None => self.tell_of(field, "A status is a whole number from 100 to 599."),
            }
        }
        statuses.into()
    }

    fn count(&mut self, field: &str, node: &Node, least: u32) -> Option<u32> {
        let count = node.whole().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|&count| count >= least);
        if count.is_none() {
            self.tell_of(
                field,
                format!("It must be a whole number of at least {least}."),
            );
        }
        count
    }

    /// One of the words that `T` has.
    fn word<T: for<'de> Deserialize<'de>>(&mut self, node: &Node, field: &str) -> Option<T> {
        let value = node.get(field)?;
        let word = serde_json::from_value(value.to_value());
        // The parser's sentence would quote what stands there.
        let words = match field {
            "unsupported" => "It must be `reject` or `drop`.",
            _ => "It must be `message`, `continue` or `prefill`.",
        };
        word.map_err(|_| self.tell_of(field, words)).ok()
    }

    /// Refuses fields beside those of a list.
    pub(super) fn only(&mut self, node: &Node, names: &[&str]) {
        for (name, _) in node.fields() {
            if !names.contains(&name.as_str()) {
                self.tell_of(name, super::tree::NO_FIELD);
            }
        }
    }
}

const BREAKER: &[&str] = &[
    "failure_threshold",
    "failure_threshold_percentage",
    "cooldown_interval",
    "failure_status_codes",
    "minimum_requests",
];
/// Portkey documents 30 s as the least; tests and quick providers want less.
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);
/// Portkey documents 5.
const MAX_RETRIES: u32 = 10;
/// A day.
const MAX_TIMEOUT_MS: f64 = 86_400_000.0;
