//! Token ids back into text, for providers that take no ids: by the `tokenizer.json` of a model, in the form of Hugging Face's
//! `tokenizers` (<https://huggingface.co/docs/tokenizers/api/tokenizer>).
//!
//! Special tokens stay in the text. A text may have several ways into ids, so that the provider need not come to the same ids;
//! it comes to the same text. Ids whose bytes are no text, such as half of a character, are refused: there is no text to
//! send for them.

use std::{fmt, sync::Arc};

use serde_json::value::RawValue;

use crate::{completion::Prompt, error::Error, pattern};

/// One model's vocabulary.
#[derive(Clone)]
pub struct Tokenizer(Arc<tokenizers::Tokenizer>);

/// The vocabularies of a conf, by patterns of model names: an exact name before a pattern, a longer pattern before a shorter.
#[derive(Clone, Debug, Default)]
pub struct Tokenizers(Vec<(String, Tokenizer)>);

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.0.get_vocab_size(true))
    }
}

impl Tokenizers {
    pub fn new(mut list: Vec<(String, Tokenizer)>) -> Self {
        list.sort_by_key(|(models, _)| pattern::rank(models));
        Self(list)
    }

    pub fn find(&self, model: &str) -> Option<&Tokenizer> {
        let found = self
            .0
            .iter()
            .find(|(models, _)| pattern::matches(models, model));
        found.map(|(_, tokenizer)| tokenizer)
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. The error says what is wrong with it.
    pub fn try_new(json: &str) -> Result<Self, String> {
        let read = tokenizers::Tokenizer::from_bytes(json);
        read.map(|tokenizer| Self(Arc::new(tokenizer)))
            .map_err(|error| format!("it is no tokenizer.json: {error}"))
    }

    /// `prompt` with its ids as text; one of text stays as it is.
    pub fn decode(&self, prompt: &Prompt) -> Result<Prompt, Error> {
        match prompt {
            Prompt::Tokens(ids) => self.text(ids).map(Prompt::Text),
            Prompt::TokenLists(lists) => {
                let texts = lists.iter().map(|ids| self.text(ids));
                texts.collect::<Result<_, _>>().map(Prompt::Texts)
            }
            Prompt::Absent | Prompt::Text(_) | Prompt::Texts(_) => Ok(prompt.clone()),
        }
    }

    fn text(&self, ids: &RawValue) -> Result<Box<RawValue>, Error> {
        let ids: Vec<u32> = serde_json::from_str(ids.get()).map_err(|_| no_text())?;
        // The decoder itself passes over an id that it does not know.
        if let Some(unknown) = ids.iter().find(|&&id| self.0.id_to_token(id).is_none()) {
            let message = format!("`prompt` holds the token id {unknown}, which the model lacks.");
            return Err(Error::invalid("prompt", message));
        }
        let text = self.0.decode(&ids, KEEP_SPECIAL).map_err(|_| no_text())?;
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Err(no_text());
        }
        serde_json::value::to_raw_value(&text).map_err(|_| no_text())
    }
}

fn no_text() -> Error {
    Error::invalid(
        "prompt",
        "`prompt` holds token ids that are no text: this provider takes text alone.",
    )
}

/// `skip_special_tokens` of the library.
const KEEP_SPECIAL: bool = false;

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level vocabulary of a few words; its end of text is special.
    const TINY: &str = include_str!("../../tests/fixtures/tokenizers/tiny.json");

    fn decode(json: &str) -> Result<String, Error> {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        let prompt = Prompt::read(&raw)?;
        let decoded = Tokenizer::try_new(TINY).unwrap().decode(&prompt)?;
        Ok(serde_json::to_string(&decoded).unwrap())
    }

    #[test]
    fn ids_become_the_text_they_stand_for() {
        for (ids, text) in [
            ("[1,2]", r#""Hello world""#),
            ("[0,1,3,0]", r#""<|endoftext|>Hello\n<|endoftext|>""#),
            ("[[1],[2,2]]", r#"["Hello"," world world"]"#),
            // Two tokens, each half of one character.
            ("[4,5]", r#""é""#),
            (r#""Hello [1]""#, r#""Hello [1]""#),
        ] {
            assert_eq!(decode(ids).unwrap(), text, "{ids}");
        }
    }

    #[test]
    fn ids_that_stand_for_no_text_are_refused() {
        for ids in ["[1,6]", "[[1],[4294967295]]", "[4]", "[1,5]"] {
            let error = decode(ids).expect_err(ids);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some("prompt")),
                "{ids}"
            );
        }
    }

    #[test]
    fn the_most_exact_name_of_a_model_counts() {
        let tiny = || Tokenizer::try_new(TINY).unwrap();
        let names = ["*", "llama-*", "llama-3"];
        let list = names.map(|name| (name.to_owned(), tiny()));
        let tokenizers = Tokenizers::new(list.to_vec());
        for (model, name) in [("llama-3", "llama-3"), ("llama-2", "llama-*"), ("x", "*")] {
            let found = tokenizers.find(model).unwrap();
            let (_, own) = list.iter().find(|(other, _)| other == name).unwrap();
            assert!(Arc::ptr_eq(&found.0, &own.0), "{model}");
        }
        assert!(Tokenizers::default().find("llama-3").is_none());
    }

    #[test]
    fn what_is_no_tokenizer_says_so() {
        for json in ["", "{}", "[1]", r#"{"model":{"type":"none"}}"#] {
            let error = Tokenizer::try_new(json).unwrap_err();
            assert!(error.starts_with("it is no tokenizer.json"), "{error}");
        }
    }
}
