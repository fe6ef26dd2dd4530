//! Scripted upstreams as the targets of configs.

use serde_json::{Value, json};

use super::{Gateway, upstream::Upstream};

/// A target that calls `upstream`.
pub fn at(upstream: &Upstream) -> Value {
    json!({
        "provider": "openai", "api_key": "sk-x",
        "custom_host": format!("http://{}/v1", upstream.address),
    })
}

/// A gateway whose clients may name `upstreams`, with more `gateway:` lines.
pub fn before(upstreams: &[&Upstream], lines: &str) -> Gateway {
    let hosts = upstreams.iter().map(|one| format!("\"{}\"", one.address));
    let hosts = hosts.collect::<Vec<_>>().join(", ");
    Gateway::start(&format!("  allowed_hosts: [{hosts}]\n{lines}"))
}
