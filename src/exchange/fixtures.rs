//! Feeds each dialect's fixtures through a [`Relay`]. `tests/fixtures/README.md` tells where they come from.

use bytes::Bytes;

use crate::{
    completion::{CompletionRequest, Compliance, Partial, logprobs::Running},
    dialect::{
        Dialect, anthropic, bedrock, bedrock_invoke, chat, cohere, fim, gemini, mistral, oci,
        ollama, openai, replicate, sagemaker, tgi, triton, vertex, watsonx, workers_ai,
    },
    exchange::relay::{Answer, Counts, Relay, Wishes},
    wire::Framing,
};

struct Fixture {
    name: &'static str,
    dialect: &'static dyn Dialect,
    input: &'static [u8],
    output: &'static str,
}

macro_rules! fixtures {
    ($extension:literal: $($dialect:expr => $name:literal,)*) => {
        &[$(Fixture {
            name: concat!($name, $extension),
            dialect: &$dialect,
            input: include_bytes!(concat!("../../tests/fixtures/", $name, $extension)),
            output: include_str!(concat!("../../tests/fixtures/", $name, $extension, ".out")),
        },)*]
    };
}

const EVENTS: &[Fixture] = fixtures!(".sse":
    openai::OPENAI => "openai/text",
    openai::OPENAI => "openai/together",
    openai::OPENAI => "openai/llama-cpp",
    openai::OPENAI => "openai/azure",
    openai::OPENAI => "openai/logprobs",
    chat::CHAT => "chat/text",
    chat::CHAT => "chat/azure",
    chat::CHAT => "chat/refusal",
    chat::CHAT => "chat/logprobs",
    mistral::MISTRAL => "chat/mistral",
    anthropic::ANTHROPIC => "anthropic/text",
    anthropic::ANTHROPIC => "anthropic/thinking",
    anthropic::ANTHROPIC => "anthropic/refusal",
    gemini::GEMINI => "gemini/text",
    gemini::GEMINI => "gemini/thinking",
    gemini::GEMINI => "gemini/blocked",
    gemini::GEMINI => "gemini/logprobs",
    cohere::COHERE => "cohere/text",
    cohere::COHERE => "cohere/thinking",
    tgi::TGI => "tgi/text",
    tgi::TGI => "tgi/old",
    tgi::TGI => "tgi/logprobs",
    triton::TRITON => "triton/text",
    triton::TRITON => "triton/counted",
    vertex::VERTEX => "vertex/gemini",
    vertex::VERTEX => "gemini/blocked",
    vertex::VERTEX => "gemini/logprobs",
    vertex::VERTEX_ANTHROPIC => "vertex/anthropic",
    vertex::VERTEX_MISTRAL => "vertex/mistral",
    vertex::VERTEX_OPEN => "vertex/open",
    vertex::VERTEX_ENDPOINT => "chat/text",
    oci::OCI => "oci/generic",
    oci::OCI => "oci/logprobs",
    oci::OCI_COHERE => "oci/cohere",
    workers_ai::WORKERS_AI => "workers-ai/text",
    workers_ai::WORKERS_AI => "workers-ai/chat",
    fim::FIM => "fim/text",
    replicate::REPLICATE => "replicate/pieces",
    watsonx::WATSONX => "watsonx/text",
    watsonx::WATSONX => "watsonx/logprobs",
);

const LINES: &[Fixture] = fixtures!(".ndjson":
    ollama::OLLAMA => "ollama/text",
    ollama::OLLAMA => "ollama/thinking",
    ollama::OLLAMA => "ollama/logprobs",
);

const MESSAGES: &[Fixture] = fixtures!(".eventstream":
    bedrock::BEDROCK => "bedrock/text",
    bedrock::BEDROCK => "bedrock/thinking",
    bedrock::BEDROCK => "bedrock/guardrail",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/llama",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/mistral",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/titan",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/guardrail",
    sagemaker::SAGEMAKER => "sagemaker/tgi",
    sagemaker::SAGEMAKER => "sagemaker/flushed",
    sagemaker::SAGEMAKER => "sagemaker/lines",
    sagemaker::SAGEMAKER_OPENAI => "sagemaker/openai",
    sagemaker::SAGEMAKER_CHAT => "sagemaker/chat",
);

const REPLIES: &[Fixture] = fixtures!(".json":
    openai::OPENAI => "openai/text",
    openai::OPENAI => "openai/azure",
    openai::OPENAI => "openai/logprobs",
    chat::CHAT => "chat/text",
    chat::CHAT => "chat/azure",
    chat::CHAT => "chat/refusal",
    chat::CHAT => "chat/logprobs",
    mistral::MISTRAL => "chat/text",
    anthropic::ANTHROPIC => "anthropic/text",
    anthropic::ANTHROPIC => "anthropic/thinking",
    gemini::GEMINI => "gemini/text",
    gemini::GEMINI => "gemini/thinking",
    gemini::GEMINI => "gemini/blocked",
    gemini::GEMINI => "gemini/candidates",
    gemini::GEMINI => "gemini/logprobs",
    ollama::OLLAMA => "ollama/text",
    ollama::OLLAMA => "ollama/logprobs",
    cohere::COHERE => "cohere/text",
    cohere::COHERE => "cohere/thinking",
    tgi::TGI => "tgi/text",
    tgi::TGI => "tgi/best-of",
    tgi::TGI => "tgi/logprobs",
    triton::TRITON => "triton/text",
    triton::TRITON => "triton/counted",
    vertex::VERTEX => "gemini/blocked",
    vertex::VERTEX_ANTHROPIC => "vertex/anthropic",
    vertex::VERTEX_MISTRAL => "chat/text",
    vertex::VERTEX_OPEN => "chat/text",
    oci::OCI => "oci/generic",
    oci::OCI => "oci/logprobs",
    oci::OCI_COHERE => "oci/cohere",
    oci::OCI => "oci/refusal",
    workers_ai::WORKERS_AI => "workers-ai/text",
    workers_ai::WORKERS_AI => "workers-ai/refusal",
    fim::FIM => "fim/text",
    bedrock::BEDROCK => "bedrock/text",
    bedrock::BEDROCK => "bedrock/guardrail",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/llama",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/mistral",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/titan",
    bedrock_invoke::BEDROCK_INVOKE => "bedrock-invoke/guardrail",
    watsonx::WATSONX => "watsonx/text",
    watsonx::WATSONX => "watsonx/logprobs",
    replicate::REPLICATE => "replicate/text",
    replicate::REPLICATE => "replicate/pieces",
    sagemaker::SAGEMAKER => "sagemaker/tgi",
    sagemaker::SAGEMAKER_OPENAI => "openai/text",
    sagemaker::SAGEMAKER_CHAT => "chat/text",
);

fn streams() -> impl Iterator<Item = &'static Fixture> {
    EVENTS.iter().chain(LINES).chain(MESSAGES)
}

const WISHES: Wishes = Wishes {
    compliance: Compliance::Loose,
    counts: Counts::Final,
    choices: 1,
    max_event_bytes: 1 << 20,
};

impl Fixture {
    fn relay(&self, wishes: Wishes, answer: Answer) -> Relay {
        let asks = self.name.contains("/logprobs");
        let asked = if asks { r#"{"logprobs":2}"# } else { "{}" };
        let asked = CompletionRequest::read(Bytes::from_static(asked.as_bytes())).unwrap();
        let seeded = Partial {
            id: "cmpl-seed".into(),
            model: "asked".into(),
            created: 9,
            logprobs: Running::of(&asked),
            ..Partial::default()
        };
        Relay::new(self.dialect, seeded, wishes, answer)
    }

    /// What a client gets for `pieces` and a clean end.
    fn stream<'p>(&self, wishes: Wishes, pieces: impl IntoIterator<Item = &'p [u8]>) -> String {
        let mut relay = self.relay(wishes, Answer::Stream);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(relay.push(Bytes::copy_from_slice(piece)));
        }
        out.extend(relay.finish().unwrap());
        let out = String::from_utf8(out).unwrap();
        assert_eq!(relay.failure().is_some(), out.contains(ERROR), "{out}");
        out
    }

    fn reply(&self, body: &[u8]) -> Result<String, crate::Error> {
        let mut relay = self.relay(WISHES, Answer::Whole);
        assert!(relay.push(Bytes::copy_from_slice(body)).is_empty());
        let out = relay.finish()?;
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    /// Where the event that tells the finish reason ends.
    fn complete_at(&self) -> usize {
        if let Framing::EventStream | Framing::PayloadParts = self.dialect.framing() {
            return self.complete_message();
        }
        let text = std::str::from_utf8(self.input).unwrap();
        let finish = REASONS.iter().find_map(|reason| text.find(reason)).unwrap();
        let line = text[finish..].lines().next().unwrap();
        finish + line.trim_end().len()
    }

    /// The same where a message's payload is not to be read as it is: the first message behind which the text has ended.
    fn complete_message(&self) -> usize {
        let ended = |end: &usize| {
            let mut relay = self.relay(WISHES, Answer::Stream);
            relay.push(Bytes::copy_from_slice(&self.input[..*end]));
            !relay.partial().finished.is_empty()
        };
        message_ends(self.input).into_iter().find(ended).unwrap()
    }
}

#[test]
fn a_stream_becomes_the_bytes_beside_it() {
    for fixture in streams() {
        assert_eq!(
            fixture.stream(WISHES, [fixture.input]),
            fixture.output,
            "{}",
            fixture.name
        );
    }
}

#[test]
fn a_cut_between_two_reads_changes_nothing() {
    for fixture in streams() {
        for counts in [Counts::None, Counts::Final] {
            let wishes = Wishes { counts, ..WISHES };
            let whole = fixture.stream(wishes, [fixture.input]);
            assert!(whole.ends_with(END), "{}: {whole}", fixture.name);
            assert_eq!(fixture.stream(wishes, fixture.input.chunks(1)), whole);
            for at in 0..=fixture.input.len() {
                let (head, tail) = fixture.input.split_at(at);
                let cut = fixture.stream(wishes, [head, tail]);
                assert_eq!(cut, whole, "{} cut at {at}", fixture.name);
            }
        }
    }
}

#[test]
fn a_stream_that_ends_early_is_a_failure_and_never_complete() {
    for fixture in streams() {
        let whole = fixture.stream(WISHES, [fixture.input]);
        let complete_at = fixture.complete_at();
        for at in 0..fixture.input.len() {
            let out = fixture.stream(WISHES, [&fixture.input[..at]]);
            let place = format!("{} ended at {at}: {out}", fixture.name);
            assert_ne!(out.contains(ERROR), out.ends_with(END), "{place}");
            assert_eq!(
                out.matches(ERROR).count() + out.matches(END).count(),
                1,
                "{place}"
            );
            assert!(at >= complete_at || out.contains(ERROR), "{place}");
            assert!(text(&whole).starts_with(&text(&out)), "{place}");
        }
        assert!(
            fixture
                .stream(WISHES, [&fixture.input[..complete_at]])
                .ends_with(END)
        );
    }
}

#[test]
fn a_stream_that_breaks_off_is_a_failure_until_its_end_marker() {
    for fixture in streams() {
        for at in 0..fixture.input.len() {
            let mut relay = fixture.relay(WISHES, Answer::Stream);
            let mut out = relay
                .push(Bytes::copy_from_slice(&fixture.input[..at]))
                .to_vec();
            out.extend(relay.fail(crate::Error::broken("reset")).unwrap());
            let out = String::from_utf8(out).unwrap();
            assert_ne!(
                out.contains(ERROR),
                out.ends_with(END),
                "{} at {at}: {out}",
                fixture.name
            );
        }
    }
}

#[test]
fn a_whole_reply_becomes_the_bytes_beside_it() {
    for fixture in REPLIES {
        let reply = fixture.reply(fixture.input).unwrap();
        assert_eq!(reply, fixture.output, "{}", fixture.name);
    }
}

#[test]
fn a_whole_reply_cut_anywhere_is_an_error() {
    for fixture in REPLIES {
        for at in 0..fixture.input.len() {
            let cut = fixture.reply(&fixture.input[..at]);
            assert_eq!(
                cut.unwrap_err().status(),
                502,
                "{} cut at {at}",
                fixture.name
            );
        }
    }
}

/// Where each message of an event stream ends: its first four bytes are its length.
fn message_ends(stream: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    let mut at = 0;
    while let Some(length) = stream[at..].first_chunk() {
        at += u32::from_be_bytes(*length) as usize;
        ends.push(at);
    }
    ends
}

#[test]
fn a_corrupted_message_is_a_failure_and_never_another_text() {
    for fixture in MESSAGES {
        let whole = text(fixture.output);
        for at in 0..fixture.input.len() {
            let mut corrupted = fixture.input.to_vec();
            corrupted[at] ^= 0x20;
            let out = fixture.stream(WISHES, [&corrupted[..]]);
            assert!(whole.starts_with(&text(&out)), "{} byte {at}", fixture.name);
            assert!(
                out.contains(ERROR) || out == fixture.output,
                "{} byte {at}",
                fixture.name
            );
        }
    }
}

/// The text of all events, each of which must be whole.
fn text(out: &str) -> String {
    let events = out
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap());
    let text = events.filter(|&data| data != "[DONE]").map(|data| {
        let event: serde_json::Value = serde_json::from_str(data).unwrap();
        event["choices"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    text.collect()
}

const END: &str = "data: [DONE]\n\n";
const ERROR: &str = "data: {\"error\":{";
const REASONS: &[&str] = &[
    "\"done_reason\":\"",
    "\"stop_reason\":\"eos_token",
    "\"stop_reason\":\"",
    "\"finish_reason\":\"",
    "\"finishReason\": \"",
    "\"finishReason\":\"",
    // Where no event tells one.
    "data: [DONE]",
    "\"blockReason\": \"",
    // No reason is ever told: from the first event on, a clean end is the end.
    "\"text_output\":\"",
    // An end of Replicate's.
    "data: {}",
];
