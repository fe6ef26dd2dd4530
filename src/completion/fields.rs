//! A request body as the fields of one JSON object, each of them unread.

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    depth::{MAX_DEPTH, is_too_deep},
    error::{Error, Kind},
};

/// Reads a body into its fields, in their order.
pub fn read(body: &[u8]) -> Result<Vec<(String, &RawValue)>, Error> {
    if is_too_deep(body) {
        let message = format!("The request body is nested more than {MAX_DEPTH} levels deep.");
        return Err(Error::new(Kind::Invalid, message));
    }
    let fields = serde_json::from_slice::<Fields<'_>>(body);
    fields
        .map(|Fields(fields)| fields)
        .map_err(|error| not_an_object(&error))
}

struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(String, &'de RawValue)> = Vec::with_capacity(8);
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.len() >= MAX_FIELDS || fields.iter().any(|(seen, _)| *seen == name) {
                        return Err(serde::de::Error::custom(DUPLICATE));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn not_an_object(error: &serde_json::Error) -> Error {
    let message = if error.to_string().starts_with(DUPLICATE) {
        format!("The request body names a field twice, or more than {MAX_FIELDS} fields.")
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
const DUPLICATE: &str = "duplicate field";
