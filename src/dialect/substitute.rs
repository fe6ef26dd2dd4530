//! What the gateway puts in place of what a provider lacks, before its dialect sees a request: text for token ids, and a prompt
//! with a model's control tokens for a suffix.

use crate::{
    completion::{CompletionRequest, Parameter, Support, infill::Templates, tokenizer::Tokenizers},
    dialect::settle::{Terms, Unsupported, support},
    error::{Error, Kind},
};

/// What there is to put in place.
#[derive(Clone, Debug, Default)]
pub struct Substitutes {
    pub infill: Templates,
    pub tokenizers: Tokenizers,
}

impl Substitutes {
    /// Rewrites `request`, and says what it was rewritten for. What cannot be put in place stays: [`super::settle`] refuses it.
    pub fn apply(
        &self,
        request: &mut CompletionRequest,
        terms: Terms<'_>,
    ) -> Result<Vec<Parameter>, Error> {
        let mut done = Vec::new();
        let support = |parameter| support(terms.dialect, terms.refused, parameter);
        let has_gap =
            request.asks(Parameter::Suffix) && support(Parameter::Suffix) == Support::Emulated;
        let ids = request.asks(Parameter::TokenIds);
        if ids && (has_gap || support(Parameter::TokenIds) != Support::Native) {
            self.decode(request)?;
            done.extend((!request.asks(Parameter::TokenIds)).then_some(Parameter::TokenIds));
        }
        if !has_gap {
            return Ok(done);
        }
        match self.infill.find(request.model()) {
            // It would be the prompt with its control tokens that is echoed.
            Some(_) if request.asks(Parameter::Echo) => Err(no_echo(terms.provider)),
            Some(template) => {
                template.fill(request)?;
                template.stop(request);
                done.push(Parameter::Suffix);
                Ok(done)
            }
            None if terms.unsupported == Unsupported::Drop => Ok(done),
            None => Err(no_template(terms.provider)),
        }
    }

    fn decode(&self, request: &mut CompletionRequest) -> Result<(), Error> {
        if let Some(tokenizer) = self.tokenizers.find(request.model()) {
            let prompt = tokenizer.decode(&request.prompt)?;
            request.replace_prompt(prompt);
        }
        Ok(())
    }
}

fn no_echo(provider: &str) -> Error {
    let message = format!("{provider} cannot do `echo` together with `suffix`.");
    Error::invalid("echo", message)
}

fn no_template(provider: &str) -> Error {
    let message = format!(
        "`suffix` is not supported by {provider} for this model: the gateway knows no prompt by which the model fills a gap. Its conf can name one in `gateway.infill`."
    );
    Error::new(Kind::Unsupported, message).with_param("suffix")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        completion::{PromptAs, tokenizer::Tokenizer},
        dialect::{
            Dialect, openai::OPENAI, replicate::REPLICATE, settle::settle, tgi::TGI,
            workers_ai::WORKERS_AI,
        },
    };

    fn substitutes() -> Substitutes {
        let tiny = include_str!("../../tests/fixtures/tokenizers/tiny.json");
        let tiny = Tokenizer::try_new(tiny).unwrap();
        Substitutes {
            tokenizers: Tokenizers::new(vec![("tiny-*".to_owned(), tiny)]),
            ..Substitutes::default()
        }
    }

    fn write(
        dialect: &'static dyn Dialect,
        refused: &[Parameter],
        body: &'static str,
    ) -> Result<String, Error> {
        let mut request = CompletionRequest::read(Bytes::from_static(body.as_bytes())).unwrap();
        let terms = Terms {
            dialect,
            refused,
            provider: "p",
            unsupported: Unsupported::Reject,
            prompt_as: PromptAs::Message,
            prefill: None,
        };
        substitutes().apply(&mut request, terms)?;
        settle(&mut request, terms)?;
        let upstream = dialect.write_request(&request)?;
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn a_suffix_becomes_a_prompt_where_the_provider_has_none() {
        let body = r#"{"model":"starcoder","prompt":"a","suffix":"b","max_tokens":5}"#;
        let vllm = write(&OPENAI, &[Parameter::Suffix], body).unwrap();
        assert_eq!(
            vllm,
            r#"{"model":"starcoder","prompt":"<fim_prefix>a<fim_suffix>b<fim_middle>","max_tokens":5,"stop":["<|endoftext|>","<file_sep>","<fim_prefix>","<fim_pad>"]}"#
        );
        assert_eq!(write(&OPENAI, &[], body).unwrap(), body);
        let tgi = write(&TGI, &[], body).unwrap();
        assert!(tgi.starts_with(r#"{"inputs":"<fim_prefix>a<fim_suffix>b<fim_middle>","#));
    }

    #[test]
    fn no_stop_sequence_goes_where_none_can() {
        let body =
            r#"{"model":"@hf/thebloke/deepseek-coder-6.7b-base-awq","prompt":"a","suffix":"b"}"#;
        let sent = write(&WORKERS_AI, &[], body).unwrap();
        assert!(
            sent.contains("fim▁hole") && !sent.contains("stop"),
            "{sent}"
        );
    }

    #[test]
    fn an_empty_suffix_asks_nothing() {
        let body = r#"{"model":"unknown","prompt":"a","suffix":"","max_tokens":5}"#;
        assert_eq!(
            write(&OPENAI, &[Parameter::Suffix], body).unwrap(),
            r#"{"model":"unknown","prompt":"a","max_tokens":5}"#
        );
    }

    #[test]
    fn what_cannot_be_put_in_place_is_refused_by_name() {
        let refused = &[Parameter::Suffix, Parameter::TokenIds];
        for (dialect, body, param) in [
            (
                &OPENAI as &dyn Dialect,
                r#"{"model":"m","prompt":"a","suffix":"b"}"#,
                "suffix",
            ),
            (
                &OPENAI,
                r#"{"model":"starcoder","prompt":[1],"suffix":"b"}"#,
                "suffix",
            ),
            (
                &OPENAI,
                r#"{"model":"starcoder","prompt":"a","suffix":"b","echo":true}"#,
                "echo",
            ),
            (&OPENAI, r#"{"model":"m","prompt":[1]}"#, "prompt"),
            (&OPENAI, r#"{"model":"tiny-1","prompt":[9]}"#, "prompt"),
            (
                &REPLICATE,
                r#"{"model":"a/starcoder","prompt":"a","suffix":"b"}"#,
                "suffix",
            ),
        ] {
            let error = write(
                dialect,
                if dialect.name() == "openai" {
                    refused
                } else {
                    &[]
                },
                body,
            );
            let error = error.expect_err(body);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some(param)),
                "{body}"
            );
        }
    }

    #[test]
    fn token_ids_become_text_where_the_provider_takes_no_ids() {
        let body = r#"{"model":"tiny-1","prompt":[1,2],"max_tokens":5}"#;
        assert_eq!(write(&OPENAI, &[], body).unwrap(), body);
        assert_eq!(
            write(&OPENAI, &[Parameter::TokenIds], body).unwrap(),
            r#"{"model":"tiny-1","prompt":"Hello world","max_tokens":5}"#
        );
    }

    #[test]
    fn token_ids_before_a_gap_become_text_too() {
        let body = r#"{"model":"tiny-starcoder","prompt":[1],"suffix":"b","max_tokens":5}"#;
        let sent = write(&OPENAI, &[Parameter::Suffix], body).unwrap();
        assert!(sent.contains("<fim_prefix>Hello<fim_suffix>b"), "{sent}");
    }
}
