//! A request body as the fields of one JSON object, each of them unread.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    depth::{MAX_DEPTH, is_too_deep},
    error::{Error, Kind},
    surrogates::has_half,
};

/// Reads a body into its fields, in their order. Err: it is no JSON object, names a field twice, is nested too deep, or holds
/// half of a character.
pub fn read(body: &[u8]) -> Result<Vec<Field<'_>>, Error> {
    if is_too_deep(body) {
        let message = format!("The request body is nested more than {MAX_DEPTH} levels deep.");
        return Err(Error::new(Kind::Invalid, message));
    }
    let read = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str::<Fields<'_>>(text),
        // It says where the text is none.
        Err(_) => serde_json::from_slice(body),
    };
    let Fields { fields, twice } = read.map_err(|error| not_an_object(&error))?;
    if let Some(name) = twice {
        return Err(wrong(&name, "is named twice"));
    }
    if has_half(body) {
        let holds = |(_, value): &&Field<'_>| has_half(value.get().as_bytes());
        let name = fields.iter().find(holds).map(|(name, _)| &**name);
        return Err(wrong(name.unwrap_or_default(), HALF));
    }
    Ok(fields)
}

/// A field's name, and its value as it stands.
pub type Field<'a> = (Cow<'a, str>, &'a RawValue);

struct Fields<'a> {
    fields: Vec<Field<'a>>,
    /// A name that came again; what it stands for then is not read.
    twice: Option<Cow<'a, str>>,
}

/// A name, as it stands where it can.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a client's name for a field can be one of an API's: what is none is its own text, may be anything, and is not told.
pub fn is_plain(name: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letter)
}

fn wrong(name: &str, what: &str) -> Error {
    if is_plain(name) {
        return Error::invalid(name.to_owned(), format!("`{name}` {what}."));
    }
    Error::new(
        Kind::Invalid,
        format!("A field of the request body {what}."),
    )
}

/// An object that names nothing twice, and not more than [`MAX_ENTRIES`].
pub struct Distinct<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
    type Value = Distinct<V>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            let before = entries.insert(name, value);
            if before.is_some() || entries.len() > MAX_ENTRIES {
                return Err(serde::de::Error::custom("an entry too many"));
            }
        }
        Ok(Distinct(entries))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<Field<'de>> = Vec::with_capacity(8);
                let mut twice = None;
                while let Some((Name(name), value)) = map.next_entry::<_, &'de RawValue>()? {
                    if fields.iter().any(|(seen, _)| *seen == name) {
                        twice.get_or_insert(name);
                    } else if fields.len() < MAX_FIELDS {
                        fields.push((name, value));
                    } else {
                        return Err(serde::de::Error::custom(TOO_MANY));
                    }
                }
                Ok(Fields { fields, twice })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn not_an_object(error: &serde_json::Error) -> Error {
    let message = if error.to_string().starts_with(TOO_MANY) {
        format!("The request body has more than {MAX_FIELDS} fields.")
    } else if error.is_data() {
        "The request body must be a JSON object.".to_owned()
    } else {
        let (line, column) = (error.line(), error.column());
        format!("The request body is not valid JSON (line {line}, column {column}).")
    };
    Error::new(Kind::Invalid, message)
}

/// More than any API has; duplicates are found by walking the list, so it must stay short.
const MAX_FIELDS: usize = 256;
const TOO_MANY: &str = "too many fields";
/// Bytes of a field's name that is told.
const MAX_NAME: usize = 64;
/// OpenAI takes 300 biases, its copies some more.
pub const MAX_ENTRIES: usize = 1_024;
/// Editors that cut a text between two UTF-16 units make it.
const HALF: &str = "holds half of a surrogate pair, which is no text";
