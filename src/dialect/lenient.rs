//! How OpenAI's copies are read: a figure in an odd form counts as absent, since a good text is worth more than it.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData, str::FromStr};

use memchr::memchr;
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};
use serde_json::value::RawValue;

use crate::{
    completion::Partial,
    dialect::{not_the_shape, openai::learn_head},
    error::Error,
};

/// Reads one object of an answer to its last byte. A field told twice counts as it was told last.
pub fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(json).map_err(not_the_shape)?;
    serde_json::from_str(text)
        .map(|Map(read)| read)
        .or_else(|error| {
            let fields: BTreeMap<String, &'a RawValue> = match error.is_data() {
                true => serde_json::from_str(text)?,
                false => return Err(error),
            };
            T::deserialize(MapDeserializer::new(fields.into_iter()))
        })
        .map_err(not_the_shape)
}

/// A JSON object. A derived reader takes the fields in a row, as a list, too.
pub struct Map<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

struct MapVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MapVisitor<T> {
    type Value = Map<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Map<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Map)
    }
}

/// Takes over what an answer says of itself; it is only read where nothing has been taken yet.
pub fn learn(partial: &mut Partial, id: Field<'_>, created: Field<'_>, model: Field<'_>) {
    if !partial.headed {
        learn_head(partial, id.word(), created.figure(), model.word());
    }
}

/// A field of whatever form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Field<'a>(Option<&'a RawValue>);

impl<'a> Field<'a> {
    /// Not there at all: a null is.
    pub fn is_absent(self) -> bool {
        self.0.is_none()
    }

    /// Its text; `None`: it is no string.
    pub fn word(self) -> Option<Cow<'a, str>> {
        let text: Text<'a> = serde_json::from_str(self.0?.get()).ok()?;
        Some(text.0)
    }

    /// Its number, be it in quotes; `None`: it is none of that type.
    pub fn figure<T: FromStr>(self) -> Option<T> {
        self.0?.get().trim_matches('"').parse().ok()
    }

    /// Its object, as it stands.
    pub fn object(self) -> Option<&'a RawValue> {
        self.0.filter(|value| value.get().starts_with('{'))
    }

    /// Whatever it is, but for null.
    pub fn told(self) -> Option<&'a RawValue> {
        self.0.filter(|value| value.get() != "null")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

/// A JSON string, borrowed where it holds no escapes. Half of a surrogate pair, as a model leaves it that was cut between
/// two tokens, becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As bytes: a string with half a pair in it is no `str`.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, text: &'de [u8]) -> Result<Text<'de>, E> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Text(Cow::Borrowed(text))),
            Err(_) => self.visit_bytes(text),
        }
    }

    fn visit_bytes<E: serde::de::Error>(self, text: &[u8]) -> Result<Text<'de>, E> {
        let text = String::from_utf8(text.to_vec())
            .or_else(|broken| String::from_utf8(replace_halves(broken.into_bytes())));
        text.map(|text| Text(Cow::Owned(text))).map_err(E::custom)
    }
}

/// Replaces each surrogate in `text`, which is UTF-8 otherwise. They are what starts with ED A0 to ED BF.
fn replace_halves(mut text: Vec<u8>) -> Vec<u8> {
    let mut rest = text.as_mut_slice();
    while let Some(at) = memchr(0xED, rest) {
        let unread = std::mem::take(&mut rest).get_mut(at..);
        let Some((unit, next)) = unread.and_then(<[u8]>::split_first_chunk_mut::<3>) else {
            break;
        };
        let [_, second, _] = *unit;
        if second >= 0xA0 {
            *unit = [0xEF, 0xBF, 0xBD];
        }
        rest = next;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_does_not_fail_a_text() {
        for (json, text) in [
            (r#""\ud83d""#, "\u{FFFD}"),
            (r#""a\ude00é""#, "a\u{FFFD}é"),
            (r#""\ud83d\ude00\ud7ff""#, "\u{1F600}\u{D7FF}"),
            (r#""\ud83d\ud83d\ude00\n""#, "\u{FFFD}\u{1F600}\n"),
            (r#""é""#, "é"),
        ] {
            let read: Text<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(read.0, text, "{json}");
        }
        for json in ["5", "null", r#""\x""#, r#""\ud8"#, r#""\uzzzz""#] {
            assert!(serde_json::from_str::<Text<'_>>(json).is_err(), "{json}");
        }
        assert!(serde_json::from_slice::<Text<'_>>(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_field_in_an_odd_form_counts_as_absent() {
        #[derive(Deserialize)]
        struct Odd<'a> {
            #[serde(borrow, default)]
            a: Field<'a>,
        }
        for (json, figure, word) in [
            (r#"{"a":7}"#, Some(7), None),
            (r#"{"a":"7"}"#, Some(7), Some("7")),
            (r#"{"a":7.5}"#, None, None),
            (r#"{"a":null}"#, None, None),
            (r#"{"a":[]}"#, None, None),
            (r#"{"b":1}"#, None, None),
            (r#"{"a":[],"a":7}"#, Some(7), None),
        ] {
            let odd: Odd<'_> = read_object(json.as_bytes()).unwrap();
            assert_eq!(odd.a.figure::<u32>(), figure, "{json}");
            assert_eq!(odd.a.word().as_deref(), word, "{json}");
            assert_eq!(odd.a.is_absent(), json.contains("\"b\""));
        }
        for broken in [
            &b"{\"a\":1"[..],
            b"{\"a\":\"\xff\"}",
            b"{\"a\":1,\"a\":}",
            b"[1]",
            b"",
        ] {
            assert!(read_object::<Odd<'_>>(broken).is_err());
        }
    }
}
