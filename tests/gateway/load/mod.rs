//! The gateway under load: streams by the thousand, clients that harm by being slow, clients that leave. Each proof is
//! played small with the other tests; at its full size by
//! `cargo test --release --locked --test gateway load -- --ignored --nocapture --test-threads 1`.
//! docs/resilience.md says what comes of it.

mod leavers;
mod slow;
mod streams;
mod upstream;

use std::{fmt, time::Duration};

use tokio::runtime::Runtime;

use crate::support::{Gateway, client::request};

/// A way through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    /// An answer that passes as it is.
    Verbatim,
    /// An answer in another dialect.
    Translated,
    /// One with a target to fall back on.
    Conducted,
    /// Two calls for one request.
    Gathered,
    /// A path that is no completion's.
    Passed,
}

impl Road {
    /// Those of one call for one stream.
    const SINGLE: [Self; 3] = [Self::Verbatim, Self::Translated, Self::Conducted];
    const ALL: [Self; 5] = [
        Self::Verbatim,
        Self::Translated,
        Self::Conducted,
        Self::Gathered,
        Self::Passed,
    ];

    /// A request that goes there and has the upstream play `part`.
    fn request(self, part: &Part, stream: bool) -> String {
        let header = match self {
            Self::Verbatim | Self::Passed => ("x-portkey-provider", "openai"),
            Self::Translated => ("x-portkey-provider", "anthropic"),
            Self::Gathered => ("x-portkey-provider", "single"),
            Self::Conducted => (
                "x-portkey-config",
                r#"{"strategy":{"mode":"fallback"},"targets":[{"provider":"openai"},{"provider":"anthropic"}]}"#,
            ),
        };
        let path = match self {
            Self::Passed => "/v1/chat/completions",
            _ => "/v1/completions",
        };
        let prompt = match self {
            Self::Gathered => format!(r#"["{part}","{part}"]"#),
            _ => format!("\"{part}\""),
        };
        let body = format!(r#"{{"model":"m","prompt":{prompt},"max_tokens":5,"stream":{stream}}}"#);
        request("POST", path, &[header], &body)
    }
}

/// A gateway whose providers are all at `upstream`. `more`: further providers, and lines of `gateway:` behind them.
fn gateway_before(upstream: &str, more: &str) -> Gateway {
    let provider = |(name, more)| {
        format!("    {name}: {{ base_url: \"http://{upstream}/v1\", api_key: sk-load{more} }}\n")
    };
    let single = ", refuses: [\"prompt: list\"]";
    let providers = [("openai", ""), ("anthropic", ""), ("single", single)];
    let providers = providers.map(provider).concat();
    let timeouts = "  timeouts: { heartbeat: 15s, total: 20m }\n";
    Gateway::start(&format!("{timeouts}  providers:\n{providers}{more}"))
}

/// For the clients and the upstream, with as many open connections as the system lets the process have.
fn runtime() -> Runtime {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// What the upstream does with a request; it stands in the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// The request's number.
    id: u64,
    /// Before the answer's head.
    wait: Duration,
    /// Of a stream.
    events: u64,
    /// Between two of them.
    pause: Duration,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wait, pause) = (self.wait.as_millis(), self.pause.as_millis());
        write!(out, "play {} {wait} {} {pause};", self.id, self.events)
    }
}

impl Part {
    /// Of a request, in whichever dialect.
    fn find(request: &str) -> Option<Self> {
        let (_, rest) = request.split_once("play ")?;
        let (list, _) = rest.split_once(';')?;
        let mut numbers = list.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            id: next()?,
            wait: Duration::from_millis(next()?),
            events: next()?,
            pause: Duration::from_millis(next()?),
        })
    }
}

#[test]
fn a_part_is_found_in_a_request() {
    let part = Part {
        id: 7,
        wait: Duration::from_millis(1),
        events: 300,
        pause: Duration::from_secs(2),
    };
    for road in Road::ALL {
        assert_eq!(Part::find(&road.request(&part, true)), Some(part));
    }
}
