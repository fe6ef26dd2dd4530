//! A config's text as a tree, whether it came as JSON or as YAML: what is valid is said once, for both.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Number, value::RawValue};

use crate::{
    completion::fields::is_plain,
    depth::{MAX_DEPTH, is_too_deep},
};

/// A value of JSON's kind. A mapping keeps its order, and names nothing twice: two readers could disagree.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Why a text is no [`Node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoNode {
    NoJson,
    /// JSON, but not to be read in one way only; says what is wrong, and quotes nothing.
    Refused(String),
}

impl Node {
    /// Reads JSON.
    pub fn read_json(text: &str) -> Result<Self, NoNode> {
        if is_too_deep(text.as_bytes()) {
            let message = format!("it is nested more than {MAX_DEPTH} levels deep");
            return Err(NoNode::Refused(message));
        }
        serde_json::from_str(text).map_err(|error| match error.is_data() {
            false => NoNode::NoJson,
            // A sentence of this file's, and behind it the reader's own word for the place.
            true => {
                let told = error.to_string();
                let (message, _) = told.rsplit_once(" at line ").unwrap_or((&told, ""));
                NoNode::Refused(message.to_owned())
            }
        })
    }

    /// A field of a mapping.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let mut fields = self.fields().iter();
        fields.find(|(own, _)| own == name).map(|(_, node)| node)
    }

    /// A mapping's fields; of anything else, none.
    pub fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Map(fields) => fields,
            _ => &[],
        }
    }

    /// A list's items; of anything else, none.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    /// A whole number of at least 0. `2.0` is one, as in JavaScript.
    pub fn whole(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_u64().or_else(|| {
                let value = number.as_f64().filter(|value| value.fract() == 0.0)?;
                format!("{value}").parse().ok()
            }),
            _ => None,
        }
    }

    /// The word for its kind that validators of JavaScript use.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }

    pub fn to_json(&self) -> Option<Box<RawValue>> {
        serde_json::value::to_raw_value(self).ok()
    }

    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Node, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("a number must be finite"));
        number.map(Node::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Node>()? {
            if fields.len() >= MAX_FIELDS {
                return Err(A::Error::custom("there are too many fields"));
            }
            if fields.iter().any(|(seen, _)| *seen == name) {
                return Err(A::Error::custom(twice(&name)));
            }
            fields.push((name, value));
        }
        Ok(Node::Map(fields))
    }
}

fn twice(name: &str) -> String {
    match is_plain(name) {
        true => format!("`{name}` is named twice"),
        false => "a field is named twice".to_owned(),
    }
}

/// More than a config has; duplicates are found by walking the list, so it must stay short.
const MAX_FIELDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_come_to_the_same() {
        let json = r#"{"a":[1,-2,0.5,true,null,"x"],"b":{"c":"d"}}"#;
        let node = Node::read_json(json).unwrap();
        assert_eq!(node.to_json().unwrap().get(), json);
        let yaml = "a: [1, -2, 0.5, true, null, x]\nb: { c: d }\n";
        assert_eq!(serde_yaml::from_str::<Node>(yaml).unwrap(), node);
        assert!(serde_yaml::from_str::<Node>("a: 1\na: 2\n").is_err());
        assert!(serde_yaml::from_str::<Node>("a: .nan\n").is_err());
    }

    #[test]
    fn what_is_no_json_is_none() {
        let told = |text: &str| Node::read_json(text).unwrap_err();
        for text in ["", "{", "pc-1", r#"{"a":"\ud83d"}"#] {
            assert_eq!(told(text), NoNode::NoJson, "{text}");
        }
        let deep = "[".repeat(65) + &"]".repeat(65);
        for (text, what) in [
            (&*deep, "64 levels"),
            (r#"{"api_key":1,"api_key":2}"#, "`api_key` is named twice"),
            (r#"{"a":{"b":[{"c":1,"c":2}]}}"#, "`c` is named twice"),
            (r#"{"sk-1":1,"sk-1":2}"#, "a field is named twice"),
        ] {
            let NoNode::Refused(message) = told(text) else {
                panic!("{text}")
            };
            assert!(message.ends_with(what) || text == deep, "{message}");
        }
        assert!(Node::read_json(&deep[1..129]).is_ok());
    }

    #[test]
    fn whole_numbers_are_told_by_their_value() {
        let whole = |text: &str| Node::read_json(text).unwrap().whole();
        assert_eq!(
            [whole("2"), whole("2.0"), whole("0")],
            [Some(2), Some(2), Some(0)]
        );
        assert_eq!([whole("-1"), whole("2.5"), whole("\"2\"")], [None; 3]);
    }
}
