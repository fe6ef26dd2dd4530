//! What the gateway counts. Every label is from a closed set: provider names of the conf, statuses, words of this crate.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::completion::Usage;

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    failures: IntCounterVec,
    tokens: IntCounterVec,
    seconds: HistogramVec,
    first_byte: HistogramVec,
    pub in_flight: IntGauge,
    pub connections: IntGauge,
    targets: IntGaugeVec,
    key_requests: IntCounterVec,
    key_tokens: IntCounterVec,
    reloads: IntCounterVec,
    unknown: IntCounterVec,
    /// Lines that the log lacks.
    pub log_dropped: IntCounter,
}

/// One of what a gauge counts, for as long as it lives.
pub struct Counted(IntGauge);

impl Counted {
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One ended request.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    pub provider: &'a str,
    /// The name of the client's key, and its tenant's.
    pub client: Option<(&'a str, &'a str)>,
    pub kind: &'static str,
    pub status: u16,
    /// [`crate::Error::label`] of what went wrong.
    pub failure: Option<&'static str>,
    pub usage: Option<Usage>,
    /// Events of its stream that were left out.
    pub unknown: u64,
    pub total: Duration,
    /// From the request's first byte to the answer's.
    pub first_byte: Option<Duration>,
}

impl Metrics {
    pub fn try_new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: Registry::new(),
            requests: counter(
                "completions_requests_total",
                "Requests answered.",
                &["provider", "kind", "status"],
            )?,
            failures: counter(
                "completions_failures_total",
                "Requests that failed, by reason.",
                &["provider", "reason"],
            )?,
            tokens: counter(
                "completions_tokens_total",
                "Tokens as the providers counted them.",
                &["provider", "side"],
            )?,
            seconds: histogram(
                "completions_request_seconds",
                "Time from a request's head to its answer's last byte.",
            )?,
            first_byte: histogram(
                "completions_first_byte_seconds",
                "Time from a request's head to its answer's first byte.",
            )?,
            targets: IntGaugeVec::new(
                Opts::new("completions_targets", "Targets remembered, by circuit."),
                &["state"],
            )?,
            in_flight: IntGauge::new("completions_in_flight", "Requests being served.")?,
            connections: IntGauge::new("completions_connections", "Open client connections.")?,
            key_requests: counter(
                "completions_key_requests_total",
                "Requests answered, by the client's key.",
                &["key", "tenant", "status"],
            )?,
            key_tokens: counter(
                "completions_key_tokens_total",
                "Tokens as the providers counted them, by the client's key.",
                &["key", "tenant", "side"],
            )?,
            reloads: counter(
                "completions_reloads_total",
                "Times the conf was read again.",
                &["result"],
            )?,
            unknown: counter(
                "completions_unknown_events_total",
                "Events of streams that were left out, as their kind is not known.",
                &["provider"],
            )?,
            log_dropped: IntCounter::new(
                "completions_log_lines_dropped_total",
                "Lines that are not in the log, as it could not be written.",
            )?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(self.requests.clone()))?;
        self.registry.register(Box::new(self.failures.clone()))?;
        self.registry.register(Box::new(self.tokens.clone()))?;
        self.registry.register(Box::new(self.seconds.clone()))?;
        self.registry.register(Box::new(self.first_byte.clone()))?;
        self.registry.register(Box::new(self.in_flight.clone()))?;
        self.registry.register(Box::new(self.connections.clone()))?;
        self.registry.register(Box::new(self.targets.clone()))?;
        self.registry
            .register(Box::new(self.key_requests.clone()))?;
        self.registry.register(Box::new(self.key_tokens.clone()))?;
        self.registry.register(Box::new(self.reloads.clone()))?;
        self.registry.register(Box::new(self.unknown.clone()))?;
        self.registry.register(Box::new(self.log_dropped.clone()))
    }

    pub fn count(&self, ended: &Ended<'_>) {
        let Ended { provider, kind, .. } = *ended;
        let mut digits = [0; 3];
        let status = status_text(ended.status, &mut digits);
        self.requests
            .with_label_values(&[provider, kind, status])
            .inc();
        self.seconds
            .with_label_values(&[provider, kind])
            .observe(ended.total.as_secs_f64());
        if let Some(first_byte) = ended.first_byte {
            self.first_byte
                .with_label_values(&[provider, kind])
                .observe(first_byte.as_secs_f64());
        }
        if let Some(reason) = ended.failure {
            self.failures.with_label_values(&[provider, reason]).inc();
        }
        if let Some((key, tenant)) = ended.client {
            self.key_requests
                .with_label_values(&[key, tenant, status])
                .inc();
        }
        if ended.unknown > 0 {
            let unknown = ended.unknown.min(MAX_COUNT);
            self.unknown.with_label_values(&[provider]).inc_by(unknown);
        }
        let Some(usage) = ended.usage else { return };
        for (side, tokens) in [
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ] {
            let tokens = tokens.min(MAX_COUNT);
            self.tokens
                .with_label_values(&[provider, side])
                .inc_by(tokens);
            if let Some((key, tenant)) = ended.client {
                self.key_tokens
                    .with_label_values(&[key, tenant, side])
                    .inc_by(tokens);
            }
        }
    }

    /// `result`: applied or refused.
    pub fn count_reload(&self, result: &'static str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// How many targets are in which state, as of now.
    pub fn note_targets(&self, states: &[(&'static str, i64)]) {
        for (state, count) in states {
            self.targets.with_label_values(&[state]).set(*count);
        }
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Encoding writes to memory alone; a metric that cannot be written leaves the text short, not the process dead.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn histogram(name: &str, help: &str) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    HistogramVec::new(opts, &["provider", "kind"])
}

/// A status without an allocation; what is no status counts as 0.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    for (digit, unit) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(status / unit % 10).unwrap_or_default();
    }
    std::str::from_utf8(digits).unwrap_or("000")
}

/// More tokens than any one request can have: an absurd figure must not wrap the counter.
const MAX_COUNT: u64 = 1 << 32;
/// Buckets from "served from memory" to "a reasoning model's long answer".
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_count_does_not_wrap_the_counter() {
        let metrics = Metrics::try_new().unwrap();
        for tokens in [u64::MAX, 5] {
            metrics.count(&Ended {
                provider: "openai",
                client: None,
                kind: "whole",
                status: 200,
                failure: None,
                usage: Some(Usage::new(tokens, 0)),
                unknown: 0,
                total: Duration::ZERO,
                first_byte: None,
            });
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        let line = format!(
            r#"completions_tokens_total{{provider="openai",side="prompt"}} {}"#,
            MAX_COUNT + 5
        );
        assert!(text.contains(&line), "{text}");
    }

    #[test]
    fn an_ended_request_is_counted_under_its_labels() {
        let metrics = Metrics::try_new().unwrap();
        metrics.count(&Ended {
            provider: "openai",
            client: Some(("ide", "search")),
            kind: "stream",
            status: 200,
            failure: Some("broken_upstream"),
            usage: Some(Usage::new(3, 4)),
            unknown: 2,
            total: Duration::from_millis(20),
            first_byte: Some(Duration::from_millis(2)),
        });
        let text = String::from_utf8(metrics.text()).unwrap();
        for line in [
            r#"completions_requests_total{kind="stream",provider="openai",status="200"} 1"#,
            r#"completions_tokens_total{provider="openai",side="completion"} 4"#,
            r#"completions_key_requests_total{key="ide",status="200",tenant="search"} 1"#,
            r#"completions_key_tokens_total{key="ide",side="prompt",tenant="search"} 3"#,
            r#"completions_failures_total{provider="openai",reason="broken_upstream"} 1"#,
            r#"completions_first_byte_seconds_count{kind="stream",provider="openai"} 1"#,
            r#"completions_unknown_events_total{provider="openai"} 2"#,
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }
}
