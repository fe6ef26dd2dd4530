//! An exchange whose dialect has a fault of ours in it, for tests of what becomes of such a request.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{Deadlines, Exchange, Seed, Terms, Work, split::split};
use crate::{
    completion::{Completion, CompletionRequest, Parameter, Partial, Support},
    config::Config,
    dialect::{Dialect, Extras, Step, UpstreamRequest, openai::OPENAI, settle::Settled},
    error::Error,
    provider::{Base, Credential, Secret, Target, target::Choice},
    wire::{Frame, Framing},
};

/// Of a stream at `base`.
pub fn exchange(base: &str) -> Box<Exchange> {
    exchange_within(base, Deadlines::default())
}

/// The same, within `deadlines`.
pub fn exchange_within(base: &str, deadlines: Deadlines) -> Box<Exchange> {
    let body = Bytes::from_static(br#"{"model":"m","prompt":"hi","stream":true}"#);
    let request = CompletionRequest::read(body).unwrap();
    let mut provider = Config::default().providers["openai"].clone();
    Arc::make_mut(&mut provider).dialect = &Faulty;
    let key = Credential::Key(Secret::try_new("sk-1").unwrap());
    let mut target = Target::try_new(provider, Choice::of(key)).unwrap();
    target.base = Arc::new(Base::try_new(base, "base_url").unwrap());
    let shares = split(request, &Settled::default(), 1).unwrap();
    let seed = Seed { now: 1, draw: 2 };
    let terms = Terms {
        deadlines,
        ..Terms::plain()
    };
    match Work::try_new(shares, target, terms, seed).unwrap() {
        Work::One(exchange) => exchange,
        Work::Many(_) => panic!("one call"),
    }
}

/// A provider that begins a stream, goes on with `rest` by itself, and waits until the call is left.
pub async fn provider(rest: &'static [u8]) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let provider = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let event = r#"data: {"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"text":"a","index":0,"logprobs":null,"finish_reason":null}]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let said = format!("{head}{event}\n\n");
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.write_all(rest).await.unwrap();
        let _ = stream.read(&mut request).await;
    });
    (base, provider)
}

/// Breaks at an event that begins with `worse`.
#[derive(Debug)]
struct Faulty;

impl Dialect for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn framing(&self) -> Framing {
        OPENAI.framing()
    }

    fn support(&self, parameter: Parameter) -> Support {
        OPENAI.support(parameter)
    }

    fn extras(&self) -> Extras {
        OPENAI.extras()
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        OPENAI.write_request(request)
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        OPENAI.read_reply(body, partial)
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        assert!(!frame.data.starts_with(b"worse"));
        OPENAI.read_frame(frame, partial)
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        OPENAI.read_error(status, body)
    }
}
