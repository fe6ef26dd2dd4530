//! Conditions on a request: Portkey's queries, in the manner of MongoDB's.
//!
//! They look at `metadata.K`, `params.K` (the body as the client sent it) and `url.pathname`. Where Portkey's evaluation stops
//! early (`$and`, `$or` and `$regex` hide what stands beside them) all is evaluated here; a path may go deeper than two parts.

use regex::Regex;
use serde_json::Value;

use crate::route::plan::Facts;

/// What a request must be like.
#[derive(Clone, Debug)]
pub enum Query {
    All(Vec<Query>),
    Any(Vec<Query>),
    Field(Subject, Vec<Test>),
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A value of the client's metadata, and the way into it.
    Metadata(Vec<String>),
    /// A field of the body, and the way into it.
    Param(Vec<String>),
    Path,
}

#[derive(Clone, Debug)]
pub enum Test {
    /// Of the same type and value; lists and objects equal nothing.
    Is(Value),
    IsNot(Value),
    /// As numbers, which texts may begin with.
    Order(Order, f64),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    /// Somewhere in the text.
    Matches(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Above,
    AtLeast,
    Below,
    AtMost,
}

impl Query {
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::All(queries) => queries.iter().all(|query| query.holds(facts)),
            Self::Any(queries) => queries.iter().any(|query| query.holds(facts)),
            Self::Field(subject, tests) => {
                let value = subject.value(facts);
                tests.iter().all(|test| test.holds(value.as_ref()))
            }
        }
    }
}

impl Subject {
    fn value(&self, facts: &Facts<'_>) -> Option<Value> {
        match self {
            Self::Path => Some(Value::from(facts.path)),
            Self::Metadata(way) => {
                let (name, rest) = way.split_first()?;
                within(facts.metadata.get(name)?, rest).cloned()
            }
            Self::Param(way) => {
                let (name, rest) = way.split_first()?;
                let value: Value = serde_json::from_str(facts.param(name)?.get()).ok()?;
                within(&value, rest).cloned()
            }
        }
    }
}

fn within<'v>(value: &'v Value, way: &[String]) -> Option<&'v Value> {
    way.iter().try_fold(value, |value, name| value.get(name))
}

impl Test {
    /// `None`: the request does not name it.
    fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Is(wanted) => value.is_some_and(|value| same(value, wanted)),
            Self::IsNot(wanted) => !value.is_some_and(|value| same(value, wanted)),
            Self::Order(order, limit) => {
                let number = value.and_then(number);
                number.is_some_and(|number| order.holds(number, *limit))
            }
            Self::In(list) => value.is_some_and(|value| list.iter().any(|one| same(value, one))),
            Self::NotIn(list) => {
                !value.is_some_and(|value| list.iter().any(|one| same(value, one)))
            }
            Self::Matches(regex) => match value {
                Some(Value::String(text)) => regex.is_match(text),
                Some(Value::Number(number)) => regex.is_match(&number.to_string()),
                Some(Value::Bool(flag)) => regex.is_match(if *flag { "true" } else { "false" }),
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
            },
        }
    }
}

impl Order {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
        }
    }
}

/// JavaScript's `===`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(_) | Value::Object(_), _) => false,
        (left, right) => left == right,
    }
}

/// JavaScript's `parseFloat`: the number that a text begins with.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let text = text.trim_start();
            let end = text
                .find(|letter: char| !matches!(letter, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
            let text = text.get(..end.unwrap_or(text.len()))?;
            // The longest start that is a number: "1e" begins with 1.
            let starts = (1..=text.len().min(MAX_NUMBER_BYTES)).rev();
            let mut numbers = starts.filter_map(|end| text.get(..end)?.parse().ok());
            numbers.next()
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// More digits say nothing to a float.
const MAX_NUMBER_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_with_numbers() {
        for (text, wanted) in [
            ("6 apples", Some(6.0)),
            (" -1.5e1x", Some(-15.0)),
            ("1e", Some(1.0)),
            (".5", Some(0.5)),
            ("b", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(number(&Value::from(text)), wanted, "{text}");
        }
        assert_eq!(number(&Value::Bool(true)), None);
    }
}
