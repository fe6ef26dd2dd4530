//! Mistral's own address: chat, or fill-in-the-middle for a request with a suffix.
//!
//! Source: <https://docs.mistral.ai/api>. Either API has what the other lacks: a parameter of the first beside a suffix is refused by
//! the second, and the other way about.

use http::StatusCode;

use crate::{
    completion::{Completion, CompletionRequest, Mark, Parameter, Partial, Support},
    dialect::{Dialect, Extras, Step, UpstreamRequest, chat::MISTRAL_CHAT, fim::FIM},
    error::Error,
    wire::{Frame, Framing},
};

/// Mistral's chat and its fill-in-the-middle. Both answer in the same form.
#[derive(Debug)]
pub struct Mistral;

pub static MISTRAL: Mistral = Mistral;

impl Dialect for Mistral {
    fn name(&self) -> &'static str {
        "mistral"
    }

    fn for_request(&self, request: &CompletionRequest) -> Option<&'static dyn Dialect> {
        let gap: Option<&'static dyn Dialect> = request.asks(Parameter::Suffix).then_some(&FIM);
        FIM.for_request(request).or(gap)
    }

    fn framing(&self) -> Framing {
        MISTRAL_CHAT.framing()
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::Suffix => FIM.support(parameter),
            parameter => MISTRAL_CHAT.support(parameter),
        }
    }

    fn extras(&self) -> Extras {
        MISTRAL_CHAT.extras()
    }

    fn prefill(&self, told: Option<Mark>, model: Option<&str>) -> Option<Mark> {
        MISTRAL_CHAT.prefill(told, model)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let dialect = self.for_request(request).unwrap_or(&MISTRAL_CHAT);
        dialect.write_request(request)
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        MISTRAL_CHAT.read_reply(body, partial)
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        MISTRAL_CHAT.read_frame(frame, partial)
    }

    fn tells_alike(&self) -> bool {
        MISTRAL_CHAT.tells_alike()
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        MISTRAL_CHAT.read_error(status, body)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{PromptForm, settle};

    fn write(fields: &str) -> Result<(String, PromptForm), Error> {
        let body = format!(r#"{{"model":"codestral-2501","prompt":"a",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        let dialect = MISTRAL.for_request(&request).unwrap_or(&MISTRAL);
        settle(&mut request, dialect, &[], "mistral-ai")?;
        let path = MISTRAL.write_request(&request)?.path;
        assert_eq!(dialect.write_request(&request)?.path, path);
        Ok((path.into_owned(), dialect.prompt_form()))
    }

    #[test]
    fn a_suffix_goes_to_fill_in_the_middle() {
        let chat = ("/chat/completions".to_owned(), PromptForm::Chat);
        let fim = ("/fim/completions".to_owned(), PromptForm::Text);
        assert_eq!(write(r#""n":2,"suffix":"""#).unwrap(), chat);
        assert_eq!(write(r#""suffix":null"#).unwrap(), chat);
        assert_eq!(write(r#""suffix":"b","seed":1"#).unwrap(), fim);
    }

    #[test]
    fn what_fill_in_the_middle_lacks_is_refused_beside_a_suffix() {
        for (fields, param) in [
            (r#""suffix":"b","n":2"#, "n"),
            (r#""suffix":"b","presence_penalty":1"#, "presence_penalty"),
            (r#""echo":true"#, "echo"),
        ] {
            assert_eq!(write(fields).unwrap_err().param(), Some(param));
        }
    }
}
