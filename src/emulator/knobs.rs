//! What a caller can turn: `/~latency_ms=5,tokens=40,rate=50,fault=cut/` anywhere in the path, or the key
//! `sk-emulator?tokens=40&fault=cut`, also in the header `x-emulator` for APIs without a key. The key beats the path, the path beats the conf.

use std::time::Duration;

use http::HeaderMap;

use crate::config;

#[derive(Clone, Copy, Debug, Default)]
pub struct Knobs {
    /// Before the first byte.
    pub latency: Duration,
    /// Of a text that nothing else ends; 0: [`DEFAULT_TOKENS`].
    pub tokens: u32,
    /// Tokens per second of a stream; 0: no pause.
    pub rate: u32,
    pub fault: Option<Fault>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The vendor's own error.
    Status(u16),
    /// 502 with a proxy's page.
    Html,
    /// 200 without a body.
    Empty,
    Redirect,
    /// 200, but compressed.
    Gzip,
    /// Asked for a stream, answers whole.
    Json,
    /// Asked for a whole reply, streams.
    Sse,
    /// An error event after half of the stream.
    ErrorEvent,
    /// An error event before anything else.
    ErrorFirst,
    /// The connection closes after half of the answer.
    Cut,
    /// The connection closes inside an event.
    CutEvent,
    /// A clean end without the end marker.
    NoDone,
    /// A clean end without a finish reason.
    NoFinish,
    /// Half of the answer, then silence.
    Stall,
    /// No answer at all.
    Hang,
    /// An event that is no JSON.
    Garbage,
    /// Each byte in a write of its own.
    Split,
    /// CRLF line ends.
    Crlf,
    /// Comments between the events.
    Comments,
    /// The text ends by the vendor's content filter.
    Filter,
    /// The text is a refusal of the model's; the same where the vendor has no other word for it.
    Refusal,
    /// The prompt is refused; the same where the vendor has no other way to.
    Blocked,
    /// The text ends by a reason of the vendor's own.
    Eos,
}

impl Fault {
    fn read(text: &str) -> Option<Self> {
        if let Some(status) = text.strip_prefix("status-") {
            let status = status.parse().ok()?;
            return (400..600).contains(&status).then_some(Self::Status(status));
        }
        NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, fault)| *fault)
    }
}

const NAMES: &[(&str, Fault)] = &[
    ("html", Fault::Html),
    ("empty", Fault::Empty),
    ("redirect", Fault::Redirect),
    ("gzip", Fault::Gzip),
    ("json", Fault::Json),
    ("sse", Fault::Sse),
    ("error-event", Fault::ErrorEvent),
    ("error-first", Fault::ErrorFirst),
    ("cut", Fault::Cut),
    ("cut-event", Fault::CutEvent),
    ("no-done", Fault::NoDone),
    ("no-finish", Fault::NoFinish),
    ("stall", Fault::Stall),
    ("hang", Fault::Hang),
    ("garbage", Fault::Garbage),
    ("split", Fault::Split),
    ("crlf", Fault::Crlf),
    ("comments", Fault::Comments),
    ("filter", Fault::Filter),
    ("content-filter", Fault::Filter),
    ("refusal", Fault::Refusal),
    ("blocked", Fault::Blocked),
    ("eos", Fault::Eos),
];

impl From<&config::Emulator> for Knobs {
    fn from(settings: &config::Emulator) -> Self {
        Self {
            latency: settings.latency,
            tokens: settings.tokens,
            rate: settings.rate,
            fault: None,
        }
    }
}

impl Knobs {
    /// These, changed by what the path and the key say; and the path without it.
    pub fn turned_by(self, path: &str, headers: &HeaderMap) -> (String, Self) {
        let mut knobs = self;
        let mut rest = String::with_capacity(path.len());
        for segment in path.split('/').skip(1) {
            match segment.strip_prefix('~') {
                Some(list) => list.split(',').for_each(|pair| knobs.turn(pair)),
                None => {
                    rest.push('/');
                    rest += segment;
                }
            }
        }
        let keys = [
            "authorization",
            "api-key",
            "x-api-key",
            "x-goog-api-key",
            "x-emulator",
        ];
        let keys = keys
            .iter()
            .filter_map(|name| headers.get(*name)?.to_str().ok());
        for (_, list) in keys.filter_map(|key| key.split_once("sk-emulator?")) {
            list.split('&').for_each(|pair| knobs.turn(pair));
        }
        (rest, knobs)
    }

    /// What it does not know, it leaves: a typo must not look like a fault of the gateway.
    fn turn(&mut self, pair: &str) {
        let Some((name, value)) = pair.split_once('=') else {
            return;
        };
        let number = value.parse::<u32>().ok();
        match (name, number) {
            ("latency_ms", Some(number)) => self.latency = Duration::from_millis(number.into()),
            ("tokens", Some(number)) => self.tokens = number,
            ("rate", Some(number)) => self.rate = number,
            ("fault", _) => self.fault = Fault::read(value),
            _ => {}
        }
    }

    /// Tokens of a text that nothing else ends.
    pub fn length(&self) -> usize {
        let tokens = if self.tokens == 0 {
            DEFAULT_TOKENS
        } else {
            self.tokens
        };
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }
}

const DEFAULT_TOKENS: u32 = 16;
