//! How a condition's query is read: see [`condition`](crate::route::condition) for what it means.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{node::Node, schema::Step, tree::Tree};
use crate::route::condition::{Order, Query, Subject, Test, number};

impl Tree<'_> {
    /// Reads a query; what it has wrong is noted, at its place.
    pub(super) fn query(&mut self, node: &Node) -> Query {
        if !matches!(node, Node::Map(_)) {
            self.tell("A query must be an object.");
        }
        let mut parts = Vec::new();
        for (name, value) in node.fields() {
            self.enter(Step::Field(name.clone()));
            parts.extend(match name.as_str() {
                "$and" => Some(Query::All(self.queries(value))),
                "$or" => Some(Query::Any(self.queries(value))),
                other => self.field_query(other, value),
            });
            self.leave();
        }
        Query::All(parts)
    }

    fn queries(&mut self, node: &Node) -> Vec<Query> {
        if !matches!(node, Node::List(_)) {
            self.tell("It takes an array of queries.");
        }
        let mut queries = Vec::new();
        for (place, item) in node.items().iter().enumerate() {
            self.enter(Step::Item(place));
            queries.push(self.query(item));
            self.leave();
        }
        queries
    }

    fn field_query(&mut self, name: &str, value: &Node) -> Option<Query> {
        if name.starts_with('$') {
            self.tell(UNKNOWN_OPERATOR);
            return None;
        }
        let mut parts = name.split('.').map(str::to_owned);
        let root = parts.next().unwrap_or_default();
        let way: Vec<String> = parts.collect();
        let subject = match (root.as_str(), way.as_slice()) {
            ("metadata", [_, ..]) => Subject::Metadata(way),
            ("params", [_, ..]) => Subject::Param(way),
            ("url", [path]) if path == "pathname" => Subject::Path,
            _ => {
                self.tell("A query looks at metadata.NAME, params.NAME or url.pathname.");
                return None;
            }
        };
        let tests = match value {
            Node::Map(operators) => {
                let read = |(name, operand): &(String, Node)| {
                    self.enter(Step::Field(name.clone()));
                    let test = self.test(name, operand);
                    self.leave();
                    test
                };
                operators.iter().filter_map(read).collect()
            }
            Node::List(_) => {
                self.tell("An array is no value to compare with; `$in` takes one.");
                return None;
            }
            plain => vec![Test::Is(plain.to_value())],
        };
        Some(Query::Field(subject, tests))
    }

    fn test(&mut self, name: &str, operand: &Node) -> Option<Test> {
        let order = |order| number(&operand.to_value()).map(|limit| Test::Order(order, limit));
        let values = || -> Vec<Value> { operand.items().iter().map(Node::to_value).collect() };
        let test = match (name, operand) {
            ("$eq", plain) => Some(Test::Is(plain.to_value())),
            ("$ne", plain) => Some(Test::IsNot(plain.to_value())),
            ("$gt", _) => order(Order::Above),
            ("$gte", _) => order(Order::AtLeast),
            ("$lt", _) => order(Order::Below),
            ("$lte", _) => order(Order::AtMost),
            ("$in", Node::List(_)) => Some(Test::In(values())),
            ("$nin", Node::List(_)) => Some(Test::NotIn(values())),
            ("$regex", Node::Text(pattern)) => self.regex(pattern).map(Test::Matches),
            ("$in" | "$nin" | "$regex", _) => None,
            _ => {
                self.tell(UNKNOWN_OPERATOR);
                return None;
            }
        };
        if test.is_none() {
            self.tell(match name {
                "$in" | "$nin" => "It takes an array.",
                "$regex" => "It takes a regular expression without look-around and back references, of at most 1024 bytes; a config has at most 32.",
                _ => "It takes a number.",
            });
        }
        test
    }

    fn regex(&mut self, pattern: &str) -> Option<Regex> {
        self.regexes += 1;
        let short = pattern.len() <= MAX_PATTERN_BYTES && self.regexes <= MAX_REGEXES;
        let mut builder = RegexBuilder::new(pattern);
        builder
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES);
        short.then(|| builder.build().ok()).flatten()
    }
}

const UNKNOWN_OPERATOR: &str = "Unsupported operator used in the query router";
const MAX_PATTERN_BYTES: usize = 1024;
/// A client's config is compiled for each of its requests.
const MAX_REGEXES: usize = 32;
/// Of one compiled; `\w` alone takes a few KiB.
const MAX_REGEX_BYTES: usize = 256 << 10;
