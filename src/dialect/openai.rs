//! OpenAI's own text completions: `POST {base}/completions`, and the many servers that copy it.
//!
//! Source: the API page, and <https://platform.openai.com/docs/api-reference/completions>. Replies that keep to
//! the page pass as they are, once `openai_page` has looked at them; only what the page does not allow (a finish reason of
//! the vendor's own, say) is read and written anew.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Number, value::RawValue};

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Logprobs, Parameter, Partial, Prompt, Shape,
        Support, request::StreamOptions,
    },
    dialect::{
        Dialect, Extras, PromptForm, Step, Tap, UpstreamRequest,
        lenient::{Field, Map, Text, learn, read_object},
        not_the_shape,
        openai_error::{read_error, read_error_event, read_finish, read_told_error},
        openai_page, read_usage, to_body,
        token_logprobs::read_said_tokens,
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// OpenAI text completions.
#[derive(Debug)]
pub struct OpenAi {
    stream_options: Support,
}

pub static OPENAI: OpenAi = OpenAi {
    stream_options: Support::Native,
};

/// A server from before `stream_options`, which refuses what it does not know: its streams are not counted.
pub static OPENAI_UNCOUNTED: OpenAi = OpenAi {
    stream_options: Support::Refused,
};

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn support(&self, parameter: Parameter) -> Support {
        if parameter == Parameter::StreamOptions {
            self.stream_options
        } else {
            Support::Native
        }
    }

    fn extras(&self) -> Extras {
        Extras::Pass
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let counts = self.stream_options == Support::Native;
        let complete =
            request.max_tokens.is_some() && (!request.stream || request.include_usage() || !counts);
        let body = match request.source().filter(|_| complete) {
            Some(source) => source.clone(),
            None => to_body(&Body {
                stream_options: stream_options(request).filter(|_| counts),
                ..Body::from(request)
            })?,
        };
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/completions"),
            headers: &[],
            body,
        })
    }

    fn tap_reply(&self, body: &[u8], partial: &mut Partial) -> Tap {
        match partial.shape {
            Shape::Text => openai_page::tap_reply(body, partial),
            Shape::Fim => Tap::Translate,
        }
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Event<'b> = read_object(body)?;
        if let Some(error) = read_told_error(reply.error, reply.object, body) {
            return Err(error);
        }
        reply.check_whole()?;
        let choices = reply.read(partial)?;
        if choices.is_empty() {
            return Err(Error::broken("The provider's answer holds no choices."));
        }
        Ok(Completion { choices })
    }

    fn tap(&self, frame: &Frame, partial: &mut Partial) -> Tap {
        match &*frame.data {
            _ if partial.shape != Shape::Text => Tap::Translate,
            _ if frame.form == Form::Comment => Tap::Pass { finished: 0 },
            _ if &*frame.event == b"error" => Tap::Translate,
            b"[DONE]" => Tap::Done,
            data => openai_page::tap_event(data, partial),
        }
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if &*frame.event == b"error" && frame.form == Form::Other {
            return Err(read_error_event(&frame.data));
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done);
        }
        // llama.cpp's server sends `null` between the choices of a list of prompts.
        if frame.form == Form::Comment || frame.data.trim_ascii() == b"null" {
            return Ok(Step::Skip);
        }
        let event: Event<'f> = read_object(&frame.data)?;
        if let Some(error) = read_told_error(event.error, event.object, &frame.data) {
            return Err(error);
        }
        let choices = event.read(partial)?;
        Ok(if choices.is_empty() {
            Step::Skip
        } else {
            Step::Chunk(Completion { choices })
        })
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

/// The request body, in the page's order.
#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "is_absent")]
    prompt: &'a Prompt,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_of: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit_bias: &'a Option<BTreeMap<String, Number>>,
    #[serde(flatten)]
    extra: &'a BTreeMap<String, Box<RawValue>>,
}

impl<'a> From<&'a CompletionRequest> for Body<'a> {
    fn from(request: &'a CompletionRequest) -> Self {
        Self {
            model: request.model(),
            prompt: &request.prompt,
            max_tokens: request.max_tokens(),
            temperature: request.temperature,
            top_p: request.top_p,
            n: request.n,
            stream: request.stream,
            stream_options: None,
            stop: &request.stop,
            presence_penalty: request.presence_penalty,
            frequency_penalty: request.frequency_penalty,
            suffix: &request.suffix,
            echo: request.echo,
            best_of: request.best_of,
            logprobs: request.logprobs,
            user: &request.user,
            seed: request.seed,
            logit_bias: &request.logit_bias,
            extra: &request.extra,
        }
    }
}

fn is_absent(prompt: &&Prompt) -> bool {
    matches!(prompt, Prompt::Absent)
}

/// The client's options, with `include_usage` switched on for a stream: the gateway counts, whether or not the client does.
pub(super) fn stream_options(request: &CompletionRequest) -> Option<StreamOptions> {
    if !request.stream {
        return request.stream_options.clone();
    }
    Some(StreamOptions {
        include_usage: true,
        ..request.stream_options.clone().unwrap_or_default()
    })
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    id: Field<'a>,
    #[serde(borrow, default)]
    created: Field<'a>,
    #[serde(borrow, default)]
    model: Field<'a>,
    #[serde(borrow, default)]
    object: Field<'a>,
    #[serde(borrow, default)]
    choices: Option<Vec<Map<EventChoice<'a>>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct EventChoice<'a> {
    #[serde(borrow, default)]
    index: Field<'a>,
    #[serde(borrow, default)]
    text: Field<'a>,
    /// Where some servers put a stream's text, in the form of chat.
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    /// The form of chat for whole replies: whoever sends it does not speak this API.
    #[serde(borrow, default)]
    message: Field<'a>,
    #[serde(borrow, default)]
    logprobs: Field<'a>,
    #[serde(borrow, default)]
    finish_reason: Field<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
}

impl<'a> Event<'a> {
    /// A whole reply without the field for its text has it elsewhere. An event may be a finish reason alone.
    fn check_whole(&self) -> Result<(), Error> {
        let mut choices = self.choices.iter().flatten().map(|Map(choice)| choice);
        match choices.find(|choice| choice.text.is_absent() && choice.delta.is_none()) {
            Some(_) => Err(Error::broken(NO_TEXT)),
            None => Ok(()),
        }
    }

    fn read(self, partial: &mut Partial) -> Result<Vec<Choice<'a>>, Error> {
        learn(partial, self.id, self.created, self.model);
        partial.usage = read_usage(self.usage).or(partial.usage);
        let choices = self.choices.into_iter().flatten();
        (0..)
            .zip(choices)
            .map(|(place, Map(choice))| choice.read(place, partial))
            .collect()
    }
}

impl<'a> EventChoice<'a> {
    /// `place`: its index where it tells none.
    fn read(self, place: u32, partial: &mut Partial) -> Result<Choice<'a>, Error> {
        if self.text.is_absent() && self.message.told().is_some() {
            return Err(Error::broken(NO_TEXT));
        }
        let index = self.index.figure().unwrap_or(place);
        // Some servers send "" while a choice goes on.
        let finish = self
            .finish_reason
            .word()
            .filter(|reason| !reason.is_empty());
        if finish.is_some() {
            partial.finished.end(index);
        }
        let text = match self.text.told() {
            Some(text) => {
                Some(serde_json::from_str::<Text<'_>>(text.get()).map_err(not_the_shape)?)
            }
            None => self.delta.and_then(|delta| delta.content),
        };
        let text = text.unwrap_or_default().0;
        let logprobs = self.logprobs.object();
        // llama.cpp's server tells them in the form of chat.
        let tokens = logprobs.and_then(read_said_tokens);
        let page = logprobs.filter(|_| tokens.is_none()).map(Logprobs::Page);
        Ok(Choice {
            index,
            logprobs: page.or_else(|| partial.logprobs.place(index, &text, || tokens)),
            text,
            finish: finish.map(read_finish).transpose()?,
        })
    }
}

const NO_TEXT: &str = "The provider's answer is no text completion: a choice of it has no `text`.";

/// Takes over what the upstream says of itself. The first id of a stream stays: some servers send a new one each time.
pub(super) fn learn_head(
    partial: &mut Partial,
    id: Option<Cow<'_, str>>,
    created: Option<u64>,
    model: Option<Cow<'_, str>>,
) {
    // Azure's first event, which tells of its filters alone, has a head of empty fields.
    let is_blank = |text: &Option<Cow<'_, str>>| text.as_deref().is_none_or(str::is_empty);
    if partial.headed || (id.is_some() && is_blank(&id) && is_blank(&model)) {
        return;
    }
    partial.headed = true;
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        partial.id = id.into_owned();
    }
    if let Some(model) = model.filter(|model| !model.is_empty()) {
        partial.model = model.into_owned();
    }
    partial.created = created.filter(|&time| time > 0).unwrap_or(partial.created);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::settle;

    fn read(choice: &str) -> Result<(u32, String, bool), Error> {
        let body =
            format!(r#"{{"created":1.5,"id":7,"choices":[{choice}],"usage":{{}},"usage":null}}"#);
        let mut partial = Partial::default();
        let reply = OPENAI.read_reply(body.as_bytes(), &mut partial)?;
        let choice = &reply.choices[0];
        let has_logprobs = choice.logprobs.is_some();
        Ok((choice.index, choice.text.to_string(), has_logprobs))
    }

    #[test]
    fn a_server_from_before_stream_options_is_not_sent_any() {
        let write = |fields: &str| {
            let body =
                format!(r#"{{"model":"m","prompt":"a","max_tokens":9,"stream":true{fields}}}"#);
            let mut request = CompletionRequest::read(Bytes::from(body))?;
            settle(&mut request, &OPENAI_UNCOUNTED, &[], "azure-openai")?;
            let body = OPENAI_UNCOUNTED.write_request(&request)?.body;
            Ok::<_, Error>(String::from_utf8(body.to_vec()).unwrap())
        };
        let sent = r#"{"model":"m","prompt":"a","max_tokens":9,"stream":true}"#;
        assert_eq!(write("").unwrap(), sent);
        let error = write(r#","stream_options":{"include_usage":true}"#).unwrap_err();
        assert_eq!(error.param(), Some("stream_options"));
    }

    #[test]
    fn an_odd_figure_beside_a_good_text_counts_as_absent() {
        for choice in [
            r#"{"text":"a","index":null,"logprobs":5,"finish_reason":7}"#,
            r#"{"text":"a","index":"0","logprobs":[]}"#,
            r#"{"text":"a","index":0.5}"#,
            r#"{"delta":{"content":"a"}}"#,
        ] {
            assert_eq!(
                read(choice).unwrap(),
                (0, "a".to_owned(), false),
                "{choice}"
            );
        }
        assert_eq!(read(r#"{"text":null}"#).unwrap().1, "");
    }

    #[test]
    fn an_answer_of_chat_is_broken_rather_than_empty() {
        for choice in [
            r#"{"message":{"content":"lost"},"finish_reason":"stop"}"#,
            r#"{"index":0,"finish_reason":"stop"}"#,
            r#"{"text":7}"#,
        ] {
            assert_eq!(read(choice).unwrap_err().status(), 502, "{choice}");
        }
        let event =
            br#"{"choices":[{"index":0,"message":{"content":"lost"},"finish_reason":"stop"}]}"#;
        let event: Event<'_> = read_object(event).unwrap();
        assert!(event.read(&mut Partial::default()).is_err());
    }
}
