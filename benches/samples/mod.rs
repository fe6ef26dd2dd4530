//! What four dialects answer, and a relay that it is fed to: for benchmarks without sockets.

use std::hint::black_box;

use bytes::Bytes;
use pingora_completions::{
    completion::{Compliance, Partial},
    dialect::{Dialect, anthropic, chat, gemini, openai},
    relay::{Answer, Counts, Relay, Wishes},
};

/// A dialect with its events and a whole reply of 4 KB.
pub struct Sample {
    pub name: &'static str,
    pub dialect: &'static dyn Dialect,
    event: fn(usize) -> String,
    end: &'static str,
    pub whole: String,
}

impl Sample {
    /// A stream of so many events with text, and its end, each by itself.
    pub fn events(&self, count: usize) -> Vec<Bytes> {
        self.stream(count, self.event)
    }

    /// The same, each with a figure in it that the one before it had not.
    pub fn unlike_events(&self, count: usize) -> Vec<Bytes> {
        self.stream(count, |number| {
            let figure = format!("\"index\":0,\"figure\":{number}");
            (self.event)(number).replacen("\"index\":0", &figure, 1)
        })
    }

    fn stream(&self, count: usize, event: impl Fn(usize) -> String) -> Vec<Bytes> {
        let end = Bytes::from_static(self.end.as_bytes());
        let events = (0..count).map(|number| event(number).into());
        events.chain([end]).collect()
    }
}

pub fn samples() -> [Sample; 4] {
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
        Sample {
            name: "openai",
            dialect: &openai::OPENAI,
            event: openai_event,
            end: openai_end,
            whole: openai_whole,
        },
        Sample {
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
        Sample {
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
        Sample {
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
pub fn relay(dialect: &'static dyn Dialect, answer: Answer, reads: &[Bytes]) -> usize {
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
        "the sample is wrong"
    );
    written
}
