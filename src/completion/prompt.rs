//! `prompt` in its four forms. Texts stay JSON text: a dialect splices them into its own body without decoding.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::error::Error;

/// What to complete. Texts are JSON string literals, token lists JSON arrays, all of them checked.
#[derive(Clone, Debug, Default)]
pub enum Prompt {
    /// Absent or null: the provider's own start of text.
    #[default]
    Absent,
    Text(Box<RawValue>),
    Texts(Vec<Box<RawValue>>),
    Tokens(Box<RawValue>),
    TokenLists(Vec<Box<RawValue>>),
}

impl Prompt {
    pub fn read(value: &RawValue) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(
                "prompt",
                "`prompt` must be a string, or a list of strings, of token ids or of lists of token ids.",
            )
        };
        match value.get().as_bytes().first() {
            Some(b'"') => Ok(Self::Text(value.to_owned())),
            Some(b'n') => Ok(Self::Absent),
            Some(b'[') => Self::read_list(value).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    /// How many prompts it is.
    pub fn count(&self) -> u32 {
        let count = match self {
            Self::Absent | Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(list) | Self::TokenLists(list) => list.len(),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Bytes of JSON text that it is made of.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Text(one) | Self::Tokens(one) => one.get().len(),
            Self::Texts(list) | Self::TokenLists(list) => {
                list.iter().map(|one| one.get().len()).sum()
            }
        }
    }

    /// Each of them alone.
    pub fn into_each(self) -> Vec<Self> {
        match self {
            Self::Absent | Self::Text(_) | Self::Tokens(_) => vec![self],
            Self::Texts(list) => list.into_iter().map(Self::Text).collect(),
            Self::TokenLists(list) => list.into_iter().map(Self::Tokens).collect(),
        }
    }

    /// The first item says what the list is of. Of tokens no list is made: it would have ten times the bytes of its text.
    fn read_list(value: &RawValue) -> Option<Self> {
        let items = || serde_json::from_str::<Vec<Box<RawValue>>>(value.get()).ok();
        let is_text = |item: &RawValue| item.get().starts_with('"');
        let inside = value.get().strip_prefix('[')?;
        match inside.trim_start().as_bytes().first()? {
            b'"' => items()
                .filter(|items| items.iter().all(|item| is_text(item)))
                .map(Self::Texts),
            b'[' => items()
                .filter(|items| items.iter().all(|item| is_token_list(item)))
                .map(Self::TokenLists),
            b'0'..=b'9' => is_token_list(value).then(|| Self::Tokens(value.to_owned())),
            _ => None,
        }
    }
}

impl Serialize for Prompt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Text(one) | Self::Tokens(one) => one.serialize(serializer),
            Self::Texts(list) | Self::TokenLists(list) => list.serialize(serializer),
        }
    }
}

fn is_token_list(value: &RawValue) -> bool {
    serde_json::from_str::<TokenCount>(value.get()).is_ok_and(|TokenCount(count)| count > 0)
}

/// How many tokens a list has, of which none is kept.
struct TokenCount(usize);

impl<'de> Deserialize<'de> for TokenCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = TokenCount;

            fn expecting(&self, words: &mut fmt::Formatter<'_>) -> fmt::Result {
                words.write_str("a list of token ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TokenCount, A::Error> {
                let mut count = 0;
                while list.next_element::<u32>()?.is_some() {
                    count += 1;
                }
                Ok(TokenCount(count))
            }
        }

        deserializer.deserialize_seq(Counting)
    }
}
