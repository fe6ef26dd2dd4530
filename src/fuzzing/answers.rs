//! What upstreams send, at each dialect: frames, replies and errors alone, and what the relay makes of them for a client.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::{
    check::{self, CLIENT_KEY, Event},
    input::{Input, pieces},
    relays::{ALL, Asked, relay_of, same_at_every_cut, seeded, target, wishes},
};
use crate::{
    completion::{Completion, Compliance, Partial, Shape},
    depth::is_too_deep,
    dialect::Step,
    exchange::{
        edits::Role,
        relay::{Answer, Relay},
    },
    wire::{Form, Frame},
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
        Ok(Step::Done | Step::Skip | Step::Unknown) => {}
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

const FORMS: &[Form] = &[Form::Canonical, Form::Other, Form::Exception, Form::Error];
