//! Amazon SageMaker's runtime: `POST {base}/invocations`, or `/invocations-response-stream`, of one endpoint.
//!
//! Sources: [InvokeEndpoint](https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html),
//! [InvokeEndpointWithResponseStream](https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointWithResponseStream.html).
//! The base URL ends with `/endpoints/{name}`. What a request and an answer look like is the container's business: Text Generation
//! Inference, or one with OpenAI's text completions or chat (vLLM, SGLang, LMI). Of a container's answer its headers get lost,
//! its stream comes in parts (see `src/wire/payload_parts.rs`), and its error stands inside one of SageMaker's.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::{
    completion::{Completion, CompletionRequest, Mark, Parameter, Partial, Support},
    dialect::{
        Dialect, Extras, PromptForm, Step, Tap, UpstreamRequest, aws_error, chat::CHAT,
        openai::OPENAI, tgi::TGI_INVOCATIONS,
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// A container's API at SageMaker's address.
#[derive(Debug)]
pub struct Sagemaker {
    name: &'static str,
    container: &'static dyn Dialect,
}

/// Text Generation Inference, and the containers that copy it.
pub static SAGEMAKER: Sagemaker = Sagemaker {
    name: "sagemaker",
    container: &TGI_INVOCATIONS,
};

/// A container of OpenAI-shaped text completions.
pub static SAGEMAKER_OPENAI: Sagemaker = Sagemaker {
    name: "sagemaker-openai",
    container: &OPENAI,
};

/// A container of OpenAI-shaped chat alone.
pub static SAGEMAKER_CHAT: Sagemaker = Sagemaker {
    name: "sagemaker-chat",
    container: &CHAT,
};

impl Dialect for Sagemaker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn framing(&self) -> Framing {
        Framing::PayloadParts
    }

    fn support(&self, parameter: Parameter) -> Support {
        self.container.support(parameter)
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        self.container.carries(parameter, request)
    }

    fn extras(&self) -> Extras {
        self.container.extras()
    }

    fn prompt_form(&self) -> PromptForm {
        self.container.prompt_form()
    }

    fn prefill(&self, told: Option<Mark>, model: Option<&str>) -> Option<Mark> {
        self.container.prefill(told, model)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let operation = if request.stream {
            "/invocations-response-stream"
        } else {
            "/invocations"
        };
        Ok(UpstreamRequest {
            path: Cow::Borrowed(operation),
            ..self.container.write_request(request)?
        })
    }

    fn read_headers(&self, headers: &HeaderMap, partial: &mut Partial) {
        self.container.read_headers(headers, partial);
    }

    fn tap_reply(&self, body: &[u8], partial: &mut Partial) -> Tap {
        self.container.tap_reply(body, partial)
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        self.container.read_reply(body, partial)
    }

    fn tap(&self, frame: &Frame, partial: &mut Partial) -> Tap {
        match frame.form {
            Form::Exception | Form::Error => Tap::Translate,
            Form::Canonical | Form::Other | Form::Comment => self.container.tap(frame, partial),
        }
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        match aws_error::read_message(frame) {
            Some(error) => Err(error),
            None => self.container.read_frame(frame, partial),
        }
    }

    /// "`ModelError`: model (owned by the customer in the container) returned 4xx or 5xx error code": what the container said is
    /// what its client has to know, with the status that it said it with.
    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        let told = serde_json::from_slice::<ModelError<'_>>(body).ok();
        match told.and_then(ModelError::of_container) {
            Some((status, message)) => self.container.read_error(status, message.as_bytes()),
            None => aws_error::read_error(status, body),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelError<'a> {
    original_status_code: u16,
    #[serde(borrow)]
    original_message: Cow<'a, str>,
}

impl<'a> ModelError<'a> {
    /// `None`: SageMaker's own words say more.
    fn of_container(self) -> Option<(StatusCode, Cow<'a, str>)> {
        let status = StatusCode::from_u16(self.original_status_code).ok()?;
        let is_error = status.is_client_error() || status.is_server_error();
        let is_object = self.original_message.trim_start().starts_with('{');
        (is_error && is_object).then_some((status, self.original_message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind};

    fn write(dialect: &Sagemaker, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"m","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, dialect, &[], dialect.name())?;
        let upstream = dialect.write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn a_container_gets_its_own_body() {
        let streamed = r#""max_tokens":9,"seed":7,"stream":true"#;
        let (path, body) = write(&SAGEMAKER, streamed).unwrap();
        assert_eq!(path, "/invocations-response-stream");
        assert_eq!(
            body,
            r#"{"inputs":"a\n\u00e9","stream":true,"parameters":{"max_new_tokens":9,"details":true,"do_sample":true,"seed":7,"return_full_text":false}}"#
        );
        let (_, body) = write(&SAGEMAKER_OPENAI, streamed).unwrap();
        assert_eq!(
            body,
            r#"{"model":"m","prompt":"a\n\u00e9","max_tokens":9,"stream":true,"stream_options":{"include_usage":true},"seed":7}"#
        );
        let (path, body) = write(&SAGEMAKER_CHAT, r#""max_tokens":9"#).unwrap();
        assert_eq!(path, "/invocations");
        assert_eq!(
            body,
            r#"{"model":"m","messages":[{"role":"user","content":"a\n\u00e9"}],"max_tokens":9}"#
        );
    }

    #[test]
    fn text_generation_inference_is_told_whether_to_repeat_the_prompt() {
        // Its address for SageMaker repeats the prompt unless it is told not to.
        for (echo, told) in [
            ("false", r#""return_full_text":false}}"#),
            ("true", r#""return_full_text":true}}"#),
        ] {
            let (_, body) = write(&SAGEMAKER, &format!(r#""echo":{echo}"#)).unwrap();
            assert!(body.starts_with(r#"{"inputs":"a\n\u00e9","stream":false,"#));
            assert!(body.ends_with(told), "{body}");
        }
        let error = write(&SAGEMAKER, r#""n":2"#).unwrap_err();
        assert_eq!(error.param(), Some("n"));
    }

    fn frame(event: &'static str, data: &'static str, form: Form) -> Frame {
        Frame {
            raw: Bytes::new(),
            event: Bytes::from_static(event.as_bytes()),
            data: Bytes::from_static(data.as_bytes()),
            form,
        }
    }

    #[test]
    fn an_exception_is_never_taken_for_an_event_of_the_containers() {
        for (dialect, form, event, data, status) in [
            (
                &SAGEMAKER,
                Form::Exception,
                "ModelStreamError",
                r#"{"Message":"busy","ErrorCode":"StreamBroken"}"#,
                424,
            ),
            (
                &SAGEMAKER_OPENAI,
                Form::Exception,
                "InternalStreamFailure",
                r#"{"Message":"busy"}"#,
                500,
            ),
            (
                &SAGEMAKER_CHAT,
                Form::Error,
                "InternalStreamFailure",
                "busy",
                500,
            ),
            (&SAGEMAKER_OPENAI, Form::Error, "New", "busy", 502),
        ] {
            let frame = frame(event, data, form);
            let mut partial = Partial::default();
            assert_eq!(dialect.tap(&frame, &mut partial), Tap::Translate);
            let error = dialect.read_frame(&frame, &mut partial).unwrap_err();
            assert_eq!((error.status().as_u16(), error.message()), (status, "busy"));
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(&format!(r#""type":"{event}""#)), "{told}");
        }
    }

    #[test]
    fn a_container_s_event_passes_as_it_does_without_sagemaker() {
        let data = r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"text":"a","index":0,"logprobs":null,"finish_reason":"stop"}]}"#;
        let mut partial = Partial::default();
        let told = SAGEMAKER_OPENAI.tap(&frame("", data, Form::Canonical), &mut partial);
        assert_eq!(told, Tap::Pass { finished: 1 });
        let done = frame("", "[DONE]", Form::Canonical);
        assert_eq!(SAGEMAKER_OPENAI.tap(&done, &mut partial), Tap::Done);
        let body = br#"[{"generated_text":"a","details":{"finish_reason":"length","generated_tokens":1}}]"#;
        let reply = SAGEMAKER.read_reply(body, &mut partial).unwrap();
        let finish = reply.choices[0].finish.as_ref().unwrap();
        assert_eq!(finish.reason, FinishReason::Length);
    }

    #[test]
    fn a_containers_error_comes_out_of_sagemakers() {
        let body = br#"{"ErrorCode":"CLIENT_ERROR_FROM_MODEL","LogStreamArn":"arn:aws:logs:x","Message":"Received client error (422) from primary with message \"...\"","OriginalMessage":"{\"error\":\"`inputs` is too long\",\"error_type\":\"validation\"}","OriginalStatusCode":422}"#;
        let error = SAGEMAKER.read_error(StatusCode::FAILED_DEPENDENCY, body);
        assert_eq!(
            error.kind(),
            Kind::Upstream(StatusCode::UNPROCESSABLE_ENTITY)
        );
        assert_eq!(error.message(), "`inputs` is too long");
        for (original, code) in [("Out of memory", 500), ("", 500), ("{}", 200)] {
            let body = format!(
                r#"{{"Message":"Received server error","OriginalMessage":"{original}","OriginalStatusCode":{code}}}"#
            );
            let error = SAGEMAKER.read_error(StatusCode::FAILED_DEPENDENCY, body.as_bytes());
            assert_eq!(
                (error.status().as_u16(), error.message()),
                (424, "Received server error")
            );
        }
    }

    #[test]
    fn sagemakers_own_error_keeps_its_status_and_its_words() {
        let body = br#"{"Message":"Endpoint demo of account 123456789012 not found."}"#;
        let error = SAGEMAKER.read_error(StatusCode::BAD_REQUEST, body);
        assert_eq!(error.status(), 400);
        assert_eq!(
            error.message(),
            "Endpoint demo of account 123456789012 not found."
        );
        for body in ["", "<html>", "{}", "[]"] {
            let error = SAGEMAKER.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }
}
