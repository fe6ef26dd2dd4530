//! Every way to a client's host passes the check of its addresses (docs/faults.md, G2): a server of this machine, under a name
//! that the conf does not trust with such addresses, counts who connects.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::json;

use crate::support::{
    Gateway,
    client::{Client, PLAIN, ROADS, STREAMED, request},
};

/// Takes connections, counts them, and closes them.
fn counting() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    thread::spawn(move || {
        for _ in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

/// What a client may say to have its host called.
fn places(host: &str) -> Vec<Vec<(&'static str, String)>> {
    let target = json!({"provider": "openai", "api_key": "sk-x", "custom_host": host});
    let header = ("x-portkey-custom-host", host.to_owned());
    let config = |config: serde_json::Value| vec![("x-portkey-config", config.to_string())];
    let both = json!([target, target]);
    vec![
        vec![header.clone()],
        vec![
            ("x-portkey-provider", "anthropic".to_owned()),
            header.clone(),
        ],
        vec![("x-portkey-provider", "ollama".to_owned()), header.clone()],
        vec![("x-portkey-provider", "replicate".to_owned()), header],
        config(target.clone()),
        config(
            json!({"targets": [target], "strategy": {"mode": "single"}, "retry": {"attempts": 2}}),
        ),
        config(json!({"targets": both, "strategy": {"mode": "fallback"}})),
        config(
            json!({"targets": both, "strategy": {"mode": "fallback"}, "hedge": {"after": "1ms"}}),
        ),
        config(json!({"targets": both, "strategy": {"mode": "loadbalance"}})),
    ]
}

/// Requests of all that goes somewhere.
fn requests() -> Vec<(&'static str, &'static str, &'static str)> {
    let several = r#"{"model":"m","prompt":["a","b"],"n":2,"max_tokens":5}"#;
    vec![
        ("POST", "/v1/completions", PLAIN),
        ("POST", "/v1/completions", STREAMED),
        ("POST", "/v1/completions", several),
        (
            "POST",
            "/v1/fim/completions",
            r#"{"model":"codestral","prompt":"a","suffix":"b"}"#,
        ),
        ("POST", "/v1/chat/completions", "{}"),
        ("POST", "/v1/files", "{}"),
        ("GET", "/v1/models", ""),
        ("DELETE", "/v1/files/1", ""),
    ]
}

/// Asks on every way, and says how many connections came.
fn connections(entry: impl Fn(&str, u16) -> String) -> (Vec<u16>, usize) {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (port, count) = counting();
    let gateway = Gateway::start(&format!(
        "  allowed_hosts: [{}]\n",
        entry(name.trim(), port)
    ));
    let host = format!("http://{}:{port}/v1", name.trim());
    let mut statuses = Vec::new();
    for place in places(&host) {
        let place: Vec<(&str, &str)> = place
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        for (method, path, body) in requests() {
            for road in ROADS {
                let headers = [&[("authorization", "Bearer sk-own")], &place[..], road].concat();
                let mut client = Client::connect(&gateway.address);
                client.send(request(method, path, &headers, body));
                statuses.push(client.read().status);
            }
        }
    }
    (statuses, count.load(Ordering::SeqCst))
}

#[test]
fn no_way_leads_to_an_address_that_the_conf_does_not_trust() {
    // This machine's own name leads to this machine; as a name in the list it may lead to public addresses alone.
    let (statuses, count) = connections(|name, port| format!("\"{name}:{port}\""));
    assert!(
        statuses.iter().all(|status| (400..500).contains(status)),
        "{statuses:?}"
    );
    assert_eq!(count, 0);
    // The same ways lead there where the conf trusts it.
    let (statuses, count) =
        connections(|name, port| format!("{{ host: \"{name}:{port}\", addresses: any }}"));
    let tried = statuses.iter().filter(|status| **status == 502).count();
    assert!(tried * 2 > statuses.len(), "{statuses:?}");
    assert!(count >= tried, "{count} of {tried}");
}
