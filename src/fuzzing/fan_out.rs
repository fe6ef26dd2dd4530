//! Requests that take several calls, and what the calls' answers come to together.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::{
    check::{self, CONF_KEY},
    input::{Input, parts, pieces},
    requests::{client, complete, provider},
};
use crate::{
    error::Error,
    exchange::{Exchange, ReplyForm, UpstreamHead, Work, fan_out::FanOut, reply::Gathered},
    gateway::{COMPLETIONS, Completing},
};

/// Whole replies, gathered; and streams, woven.
pub fn fan_out(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let provider = provider(&mut input);
    let Some(body) = input.pick(BODIES) else {
        return;
    };
    let cuts = input.byte();
    let completing = complete(COMPLETIONS, &client(&provider), body.as_bytes()).pop();
    let Some(Completing {
        work: Work::Many(mut calls),
        ..
    }) = completing
    else {
        return;
    };
    let replies: Vec<&[u8]> = parts(input.rest()).collect();
    match calls.reply() {
        ReplyForm::Whole => gather(&mut calls, &replies, cuts),
        ReplyForm::Stream => weave(&mut calls, &replies, cuts),
    }
}

fn gather(calls: &mut FanOut, replies: &[&[u8]], cuts: u8) {
    let mut gathered = Gathered::default();
    for (part, reply) in calls.parts_mut().iter_mut().zip(replies.iter().cycle()) {
        let taken = answered(part, "application/json").and_then(|()| {
            let Some(relay) = part.relay_mut() else {
                return Ok(());
            };
            for piece in pieces(cuts, reply) {
                relay.push(Bytes::copy_from_slice(piece));
            }
            gathered.take(relay.finish_part()?)
        });
        if let Err(error) = taken {
            return check::error(&error, CONF_KEY);
        }
    }
    let reply = check::json(&calls.write_reply(gathered)).unwrap_or_default();
    let choices = reply.get("choices").and_then(Value::as_array);
    let indices = choices
        .into_iter()
        .flatten()
        .map(|choice| choice.get("index")?.as_u64());
    for (wanted, index) in (0..).zip(indices) {
        assert_eq!(index, Some(wanted), "{reply}");
    }
    let any = choices.is_some_and(|choices| !choices.is_empty());
    assert!(any || reply.is_null(), "{reply}");
}

fn weave(calls: &mut FanOut, replies: &[&[u8]], cuts: u8) {
    let mut out = Vec::new();
    let mut queues = Vec::new();
    for (part, reply) in calls.parts_mut().iter_mut().zip(replies.iter().cycle()) {
        if let Err(error) = answered(part, "text/event-stream") {
            return check::error(&error, CONF_KEY);
        }
        queues.push((part, pieces(cuts, reply).into_iter()));
    }
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for (part, queue) in &mut queues {
            if let (Some(piece), Some(relay)) = (queue.next(), part.relay_mut()) {
                out.extend_from_slice(&relay.push(Bytes::copy_from_slice(piece)));
                moved = true;
            }
        }
    }
    for (part, _) in &mut queues {
        match part.relay_mut().map(|relay| relay.finish()) {
            Some(Ok(rest)) => out.extend_from_slice(&rest),
            Some(Err(error)) => check::error(&error, CONF_KEY),
            None => {}
        }
    }
    out.extend_from_slice(&calls.end_stream());
    check::events(&out);
}

fn answered(part: &mut Exchange, media: &'static str) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(media));
    let head = UpstreamHead {
        status: StatusCode::OK,
        headers: &headers,
    };
    part.answer(head).map(drop)
}

const BODIES: &[&str] = &[
    r#"{"model":"m","prompt":["a","b"],"max_tokens":5}"#,
    r#"{"model":"m","prompt":["a","b"],"max_tokens":5,"n":2,"echo":true,"stop":["END"]}"#,
    r#"{"model":"m","prompt":"a","max_tokens":5,"n":3,"seed":4}"#,
    r#"{"model":"m","prompt":"a","max_tokens":5,"n":2,"best_of":3}"#,
    r#"{"model":"m","prompt":"a","max_tokens":5,"n":1,"best_of":2,"logprobs":1}"#,
    r#"{"model":"m","prompt":["a","b"],"max_tokens":5,"stream":true}"#,
    r#"{"model":"m","prompt":"a","max_tokens":5,"n":2,"stream":true,"stream_options":{"include_usage":true},"stop":["END"]}"#,
];
