//! What upstreams send, at each dialect: frames, replies and errors alone, and what the relay makes of them for a client.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::{
    check::{self, CLIENT_KEY, Event},
    frames::messages,
    input::{Input, pieces},
};
use crate::{
    completion::{Completion, Compliance, Partial, Shape},
    config::Config,
    depth::is_too_deep,
    dialect::{
        Dialect, Step, anthropic, bedrock, bedrock_invoke, chat, cohere, fim, gemini, mistral, oci,
        ollama, openai, replicate, sagemaker, tgi, triton, vertex, watsonx, workers_ai,
    },
    error::Error,
    exchange::{
        edits::{Plan, Role},
        relay::{Answer, Counts, Relay, Wishes},
    },
    provider::{Credential, Secret, Target, target::Choice},
    wire::{Form, Frame, Framing},
};

/// A frame by itself, of any form.
pub fn frame(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(dialect) = input.pick(ALL) else {
        return;
    };
    let Some(&form) = input.pick(FORMS) else {
        return;
    };
    let rest = input.rest();
    let end = memchr::memchr(b'\n', rest).unwrap_or_default();
    let (event, data) = rest.split_at_checked(end).unwrap_or_default();
    let frame = Frame {
        raw: Bytes::copy_from_slice(rest),
        event: Bytes::copy_from_slice(event),
        data: Bytes::copy_from_slice(data),
        form,
    };
    if is_too_deep(&frame.data) {
        return;
    }
    let mut partial = seeded();
    dialect.tap(&frame, &mut partial);
    let mut partial = seeded();
    match dialect.read_frame(&frame, &mut partial) {
        Ok(Step::Chunk(chunk) | Step::Last(chunk)) => written(&mut partial, &chunk),
        Ok(Step::Done | Step::Skip) => {}
        Err(error) => check::error(&target().attribute(error), CLIENT_KEY),
    }
    if let Some(end) = dialect.read_end(&mut partial) {
        written(&mut partial, &end);
    }
}

fn written(partial: &mut Partial, chunk: &Completion<'_>) {
    for how in [Compliance::Strict, Compliance::Loose] {
        let mut out = Vec::new();
        partial.write_counted_chunk(chunk, how, &mut out);
        check::events(&out);
        let mut out = Vec::new();
        partial.write_reply(chunk, how, &mut out);
        check::json(&out);
    }
}

/// The body of an answer that is no success.
pub fn failure(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(dialect) = input.pick(ALL) else {
        return;
    };
    let status = StatusCode::from_u16(u16::from(input.byte()) * 2 + 400).unwrap_or_default();
    let body = input.rest();
    let told = target().attribute(dialect.read_error(status, body));
    check::error(&told, CLIENT_KEY);
    let wishes = wishes(0);
    let mut relay = Relay::new(*dialect, seeded(), wishes, Answer::Error(status));
    relay = relay.for_target(target());
    let mut cut = relay_of(&mut relay, &pieces(status.as_str().len() as u8, body));
    let relayed = cut.end.take();
    assert!(relayed.is_some_and(|error| error.body() == told.body()));
    assert!(cut.bytes.is_empty());
}

/// A whole reply, for a client that wants it whole.
pub fn reply(bytes: &[u8]) {
    let (relayed, asked) = same_at_every_cut(bytes, Answer::Whole);
    match &relayed.end {
        Some(error) => {
            check::error(error, CLIENT_KEY);
            assert!(relayed.bytes.is_empty(), "bytes before {error:?}");
        }
        None => {
            let reply = check::json(&relayed.bytes).unwrap_or_default();
            let choices = reply.get("choices").and_then(Value::as_array);
            let mut ended = 0;
            for choice in choices.into_iter().flatten() {
                of_the_page(choice, &asked);
                let reason = choice.get("finish_reason");
                ended += u32::from(reason.is_some_and(Value::is_string));
            }
            assert!(reply.is_null() || ended >= asked.wishes.choices, "{reply}");
        }
    }
}

/// A stream, or a whole reply, for a client that wants a stream.
pub fn stream(bytes: &[u8]) {
    let answer = if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        Answer::WholeAsStream
    } else {
        Answer::Stream
    };
    let (relayed, asked) = same_at_every_cut(bytes, answer);
    if let Some(error) = &relayed.end {
        // Nothing has left: the client gets it with its status.
        check::error(error, CLIENT_KEY);
        assert!(relayed.bytes.is_empty(), "bytes before {error:?}");
        return;
    }
    let events = check::events(&relayed.bytes);
    let (mut ended, mut over, mut unread) = (Vec::new(), None, asked.verbatim);
    for event in &events {
        assert!(over.is_none(), "an event behind the end");
        match event {
            Event::Comment => {}
            Event::Unread => unread = true,
            Event::Done => over = Some(true),
            Event::Failed => over = Some(false),
            Event::Data(data) => {
                let choices = data.get("choices").and_then(Value::as_array);
                for choice in choices.into_iter().flatten() {
                    of_the_page(choice, &asked);
                    let reason = choice.get("finish_reason");
                    if reason.is_some_and(|reason| !reason.is_null()) {
                        ended.extend(choice.get("index").and_then(Value::as_u64));
                    }
                }
            }
        }
    }
    match (asked.plan.role, over) {
        (_, Some(false)) => assert!(relayed.failed),
        (Role::Whole, over) => {
            assert_eq!(over, Some(true), "neither an end nor an error");
            assert!(
                unread || is_complete(&ended, &asked),
                "only {ended:?} have ended"
            );
        }
        // Other parts of the answer may be on their way.
        (Role::Part, over) => {
            assert_eq!((over, relayed.failed), (None, false));
            assert!(
                unread || is_complete(&ended, &asked),
                "only {ended:?} have ended"
            );
        }
    }
}

/// Each choice has told why it ended. One alone may carry any index.
fn is_complete(ended: &[u64], asked: &Asked) -> bool {
    let (first, choices) = (u64::from(asked.plan.shift), asked.wishes.choices);
    let own = |index: u32| first.saturating_add(u64::from(index));
    match choices {
        ..=1 => !ended.is_empty(),
        _ => (0..choices).all(|index| ended.contains(&own(index))),
    }
}

/// A choice as the API page has it; with `native_finish_reason` for those who want that.
fn of_the_page(choice: &Value, asked: &Asked) {
    if asked.verbatim {
        // What the client's own API sends passes as it came.
        return;
    }
    let field = |name| choice.get(name);
    assert!(field("index").is_some_and(Value::is_u64), "{choice}");
    let text = match asked.shape {
        Shape::Text => field("text"),
        Shape::Fim => field("message")
            .or(field("delta"))
            .and_then(|message| message.get("content")),
    };
    assert!(text.is_some_and(Value::is_string), "{choice}");
    let reason = field("finish_reason").and_then(Value::as_str);
    let known = ["stop", "length", "content_filter"];
    assert!(
        reason.is_none_or(|reason| known.contains(&reason)),
        "{choice}"
    );
    let native = field("native_finish_reason");
    assert!(
        native.is_none() || asked.wishes.compliance == Compliance::Loose,
        "{choice}"
    );
}

/// How a test case is read.
struct Asked {
    dialect: &'static dyn Dialect,
    wishes: Wishes,
    plan: Plan,
    shape: Shape,
    /// The client reads what the provider speaks.
    verbatim: bool,
}

impl Asked {
    /// Of the first three bytes.
    fn read(input: &mut Input<'_>) -> Self {
        let choice = usize::from(input.byte() & 0x7f) % ALL.len();
        let (how, edits) = (input.byte(), input.byte());
        let dialect = ALL.get(choice).copied().unwrap_or(&openai::OPENAI);
        let verbatim = choice == VERBATIM;
        let wishes = wishes(how);
        if verbatim || how & 0x20 != 0 {
            // That endpoint has one choice, without an echo.
            return Self {
                dialect,
                wishes: Wishes {
                    choices: 1,
                    ..wishes
                },
                plan: plan(edits & 0x31, 1),
                shape: Shape::Fim,
                verbatim,
            };
        }
        Self {
            dialect,
            wishes,
            plan: plan(edits, wishes.choices),
            shape: Shape::Text,
            verbatim,
        }
    }
}

/// What came out of a relay.
#[derive(Debug)]
struct Relayed {
    bytes: Vec<u8>,
    /// The client gets this in place of an answer.
    end: Option<Error>,
    failed: bool,
}

/// Relays the bytes behind four that say how; whole and in pieces, which is the same.
fn same_at_every_cut(bytes: &[u8], answer: Answer) -> (Relayed, Asked) {
    let mut input = Input::new(bytes);
    let asked = Asked::read(&mut input);
    let cuts = input.byte();
    let dialect = asked.dialect;
    let framed = match dialect.framing() {
        Framing::EventStream | Framing::PayloadParts if answer != Answer::Whole => {
            messages(input.rest())
        }
        _ => input.rest().to_vec(),
    };
    let run = |pieces: &[&[u8]]| {
        let partial = Partial {
            shape: asked.shape,
            ..seeded()
        };
        let mut relay = Relay::new(dialect, partial, asked.wishes, answer).for_target(target());
        if !asked.plan.is_empty() {
            relay = relay.with_edits(asked.plan.clone());
        }
        relay_of(&mut relay, pieces)
    };
    let whole = run(&[&framed]);
    let cut = run(&pieces(cuts, &framed));
    assert_eq!(check::show(&whole.bytes), check::show(&cut.bytes));
    assert!(whole.bytes == cut.bytes, "a cut changes the answer");
    assert_eq!(told(&whole), told(&cut));
    let most = framed
        .len()
        .saturating_mul(MOST_TIMES)
        .saturating_add(MOST_MORE);
    assert!(
        whole.bytes.len() <= most,
        "{} bytes of {}",
        whole.bytes.len(),
        framed.len()
    );
    (whole, asked)
}

fn told(relayed: &Relayed) -> (Option<String>, bool) {
    let end = relayed.end.as_ref().map(|error| check::show(&error.body()));
    (end, relayed.failed)
}

fn relay_of(relay: &mut Relay, pieces: &[&[u8]]) -> Relayed {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&relay.push(Bytes::copy_from_slice(piece)));
    }
    let end = match relay.finish() {
        Ok(rest) => {
            bytes.extend_from_slice(&rest);
            None
        }
        Err(error) => Some(error),
    };
    if let Some(failure) = relay.failure() {
        check::error(failure, CLIENT_KEY);
    }
    Relayed {
        bytes,
        end,
        failed: relay.failure().is_some(),
    }
}

fn wishes(how: u8) -> Wishes {
    Wishes {
        compliance: if how & 1 == 0 {
            Compliance::Strict
        } else {
            Compliance::Loose
        },
        counts: match how >> 1 & 3 {
            0 => Counts::None,
            1 => Counts::Final,
            _ => Counts::Running,
        },
        choices: u32::from(how >> 3 & 3).max(1),
        max_event_bytes: if how & 0x40 == 0 { 1 << 20 } else { 512 },
    }
}

/// What the gateway does to the answer; 0: nothing.
fn plan(edits: u8, choices: u32) -> Plan {
    let has = |bit: u8| edits >> bit & 1 == 1;
    let prompt: Arc<str> = Arc::from("Say é: ");
    Plan {
        shift: if has(3) { 7 } else { 0 },
        choices,
        repeated: has(0).then(|| prompt.clone()),
        echo: has(1).then_some(prompt),
        stops: match edits >> 4 & 3 {
            0 => Arc::default(),
            1 => Arc::from(["END".to_owned()]),
            2 => Arc::from(["\n\n".to_owned(), "é\"".to_owned()]),
            _ => Arc::from(["aab".to_owned(), "ab".to_owned(), "b".to_owned()]),
        },
        role: if has(3) { Role::Part } else { Role::Whole },
    }
}

fn seeded() -> Partial {
    Partial {
        id: "cmpl-0".to_owned(),
        created: 1,
        model: "m".to_owned(),
        limit: 16,
        ..Partial::default()
    }
}

/// One whose key must not come back.
fn target() -> Arc<Target> {
    static TARGET: LazyLock<Arc<Target>> = LazyLock::new(|| {
        let choice = Choice {
            custom: None,
            credential: Secret::try_new(CLIENT_KEY).map(Credential::Key),
            model: "m",
            option: &|_| Ok(None),
        };
        let openai = Config::default().provider("openai");
        let target = openai.and_then(|provider| Target::try_new(provider, choice));
        check::made(target.map(Arc::new))
    });
    TARGET.clone()
}

/// Every dialect, and the variants that some have.
pub const ALL: &[&dyn Dialect] = &[
    &fim::VERBATIM,
    &openai::OPENAI,
    &chat::CHAT,
    &mistral::MISTRAL,
    &fim::FIM,
    &anthropic::ANTHROPIC,
    &gemini::GEMINI,
    &ollama::OLLAMA,
    &cohere::COHERE,
    &tgi::TGI,
    &triton::TRITON,
    &vertex::VERTEX,
    &oci::OCI,
    &workers_ai::WORKERS_AI,
    &bedrock::BEDROCK,
    &bedrock_invoke::BEDROCK_INVOKE,
    &watsonx::WATSONX,
    &replicate::REPLICATE,
    &sagemaker::SAGEMAKER,
    &sagemaker::SAGEMAKER_OPENAI,
    &sagemaker::SAGEMAKER_CHAT,
    &oci::OCI_COHERE,
    &vertex::VERTEX_ANTHROPIC,
    &vertex::VERTEX_MISTRAL,
    &vertex::VERTEX_OPEN,
    &tgi::TGI_INVOCATIONS,
    &openai::OPENAI_UNCOUNTED,
];

/// The place in [`ALL`] of the dialect of Mistral's own endpoint.
const VERBATIM: usize = 0;
const FORMS: &[Form] = &[Form::Canonical, Form::Other, Form::Exception, Form::Error];
/// An answer may be this much larger than what the upstream sent: `{}` in a list of choices becomes a whole choice.
const MOST_TIMES: usize = 64;
const MOST_MORE: usize = 8 << 10;
