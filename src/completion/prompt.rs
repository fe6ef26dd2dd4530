//! `prompt` in its four forms. Texts stay JSON text: a dialect splices them into its own body without decoding.

use serde::Serialize;
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

    fn read_list(value: &RawValue) -> Option<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
        let starts = |start: u8| {
            items
                .iter()
                .all(|item| item.get().as_bytes().first() == Some(&start))
        };
        let owned = || items.iter().map(|&item| item.to_owned()).collect();
        match items.first()?.get().as_bytes().first()? {
            b'"' if starts(b'"') => Some(Self::Texts(owned())),
            b'[' if items.iter().all(|item| is_token_list(item)) => Some(Self::TokenLists(owned())),
            b'0'..=b'9' if is_token_list(value) => Some(Self::Tokens(value.to_owned())),
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
    serde_json::from_str::<Vec<u32>>(value.get()).is_ok_and(|tokens| !tokens.is_empty())
}
