//! How fast a relay is, without sockets: MB/s of upstream bytes and allocations per event or reply, for each dialect.
//!
//! `cargo bench --bench relay`. One thread; the input of a run is made before the clock starts.

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use pingora_completions::{
    completion::{Compliance, Partial},
    dialect::{Dialect, anthropic, chat, gemini, openai},
    relay::{Answer, Counts, Relay, Wishes},
};

const EVENTS: usize = 2_000;
const ROUNDS: usize = 40;

/// A dialect with its events and its whole reply.
struct Case {
    name: &'static str,
    dialect: &'static dyn Dialect,
    event: fn(usize) -> String,
    end: &'static str,
    whole: String,
}

fn cases() -> [Case; 4] {
    let text = "word ".repeat(800);
    let openai_whole = format!(
        r#"{{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{{"text":"{text}","index":0,"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":800,"total_tokens":801}}}}"#
    );
    let openai_event = |number| {
        format!(
            "data: {{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"gpt-3.5-turbo-instruct\",\"choices\":[{{\"text\":\" word{number}\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        )
    };
    let openai_end = "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    [
        Case {
            name: "openai",
            dialect: &openai::OPENAI,
            event: openai_event,
            end: openai_end,
            whole: openai_whole,
        },
        Case {
            name: "chat",
            dialect: &chat::CHAT,
            event: |number| {
                format!(
                    "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama-3.3-70b-versatile\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{number}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
                )
            },
            end: "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
            whole: format!(
                r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":800,"total_tokens":801}}}}"#
            ),
        },
        Case {
            name: "anthropic",
            dialect: &anthropic::ANTHROPIC,
            event: |number| {
                format!(
                    "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\" word{number}\"}}}}\n\n"
                )
            },
            end: "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            whole: format!(
                r#"{{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":1,"output_tokens":800}}}}"#
            ),
        },
        Case {
            name: "gemini",
            dialect: &gemini::GEMINI,
            event: |number| {
                format!(
                    "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\" word{number}\"}}],\"role\":\"model\"}},\"index\":0}}],\"usageMetadata\":{{\"promptTokenCount\":1,\"candidatesTokenCount\":1,\"totalTokenCount\":2}},\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"r\"}}\r\n\r\n"
                )
            },
            end: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"\"}],\"role\":\"model\"},\"finishReason\":\"STOP\",\"index\":0}]}\r\n\r\n",
            whole: format!(
                r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},"finishReason":"STOP","index":0}}],"usageMetadata":{{"promptTokenCount":1,"candidatesTokenCount":800,"totalTokenCount":801}},"modelVersion":"m","responseId":"r"}}"#
            ),
        },
    ]
}

/// Feeds reads to a fresh relay and gives the bytes that came out.
fn relay(dialect: &'static dyn Dialect, answer: Answer, reads: &[Bytes]) -> usize {
    let partial = Partial {
        id: "cmpl-1".to_owned(),
        model: "m".to_owned(),
        created: 1,
        ..Partial::default()
    };
    let wishes = Wishes {
        compliance: Compliance::Strict,
        counts: Counts::None,
        choices: 1,
        max_event_bytes: 1 << 20,
    };
    let mut relay = Relay::new(dialect, partial, wishes, answer);
    let mut written = 0;
    for read in reads {
        written += black_box(relay.push(read.clone())).len();
    }
    written += black_box(relay.finish()).map_or(0, |rest| rest.len());
    assert!(
        relay.failure().is_none() && written > 0,
        "the case is wrong"
    );
    written
}

fn measure(
    name: &str,
    dialect: &'static dyn Dialect,
    answer: Answer,
    reads: &[Bytes],
    units: usize,
) {
    relay(dialect, answer, reads);
    let bytes: usize = reads.iter().map(Bytes::len).sum();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        relay(dialect, answer, reads);
    }
    let seconds = started.elapsed().as_secs_f64();
    let allocated = allocation_counter::measure(|| {
        relay(dialect, answer, reads);
    });
    let megabytes = (bytes * ROUNDS) as f64 / 1e6;
    println!(
        "{name:<42} {:>7.0} MB/s {:>7.0} ns each {:>7.2} allocations each",
        megabytes / seconds,
        seconds * 1e9 / (ROUNDS * units) as f64,
        allocated.count_total as f64 / units as f64,
    );
}

fn main() {
    for case in cases() {
        let mut events: Vec<Bytes> = (0..EVENTS)
            .map(|number| (case.event)(number).into())
            .collect();
        events.push(Bytes::from_static(case.end.as_bytes()));
        let joined = Bytes::from(events.concat());
        let reads: Vec<Bytes> = joined
            .chunks(16 << 10)
            .map(Bytes::copy_from_slice)
            .collect();
        let name = |form: &str| format!("{}: {form}", case.name);
        measure(
            &name("stream, one event a read"),
            case.dialect,
            Answer::Stream,
            &events,
            EVENTS,
        );
        measure(
            &name("stream, 16 KiB a read"),
            case.dialect,
            Answer::Stream,
            &reads,
            EVENTS,
        );
        let whole = vec![Bytes::from(case.whole.clone())];
        measure(&name("whole, 4 KB"), case.dialect, Answer::Whole, &whole, 1);
    }
}
