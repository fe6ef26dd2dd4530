//! Change without stopping: a new conf, by signal and by the operator's port.

use std::{
    fs,
    io::Write,
    sync::{Mutex, mpsc},
};

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, Client, ROADS, STREAMED, ask, post, request},
    providers_at, secret_file,
    upstream::{After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json},
    wait_for,
};

/// Answers every call with a model's name.
fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_, stream| {
        let body = TEXT.replace("hello", name);
        stream.write_all(&json(200, &body)).unwrap();
        After::Keep
    })
}

fn text(gateway: &Gateway) -> String {
    let answer = ask(&gateway.address, &[], r#"{"prompt":"x"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["text"]
        .as_str()
        .unwrap()
        .trim()
        .to_owned()
}

fn reload(gateway: &Gateway) -> Answer {
    let mut operator = Client::connect(&gateway.admin);
    operator.send(request("POST", "/reload", &[], ""));
    operator.read()
}

#[test]
fn a_hangup_puts_the_conf_to_use_as_it_stands_now() {
    let (old, new) = (named("old"), named("new"));
    let gateway = Gateway::before(&old.address);
    assert_eq!(text(&gateway), "old");
    gateway.rewrite(&providers_at(&new.address));
    gateway.signal("HUP");
    gateway.wait_for_log("the conf was reloaded");
    assert_eq!(text(&gateway), "new");
}

#[test]
fn the_operator_reloads_and_a_broken_conf_changes_nothing() {
    let (old, new) = (named("old"), named("new"));
    let gateway = Gateway::before(&old.address);
    gateway.rewrite("  providers:\n    openai: { api_key: sk-secret-1, base_ulr: x }\n");
    let refused = reload(&gateway);
    assert_eq!(refused.status, 422);
    let told = refused.json();
    assert_eq!(told["status"], "refused");
    assert_eq!(told["error"]["line"], 9);
    assert!(
        told["error"]["path"]
            .as_str()
            .unwrap()
            .starts_with("gateway.providers")
    );
    assert!(
        told["error"]["message"]
            .as_str()
            .unwrap()
            .contains("base_ulr")
    );
    assert_eq!(text(&gateway), "old");
    let logged = gateway.wait_for_log("the conf was not reloaded, the old one stays:");
    assert!(!(logged + refused.text()).contains("sk-secret-1"));

    gateway.rewrite(&providers_at(&new.address));
    let reloaded = reload(&gateway);
    assert_eq!(reloaded.status, 200);
    assert_eq!(reloaded.text(), "{\"status\":\"reloaded\"}\n");
    assert_eq!(text(&gateway), "new");

    fs::remove_file(&gateway.conf).unwrap();
    assert_eq!(reload(&gateway).status, 422);
    assert_eq!(text(&gateway), "new");
    for line in [
        r#"completions_reloads_total{result="applied"} 1"#,
        r#"completions_reloads_total{result="refused"} 2"#,
        // What was counted before is not forgotten.
        r#"completions_requests_total{kind="whole",provider="openai",status="200"} 3"#,
    ] {
        // A request is counted once its answer is out.
        let counted = wait_for(|| gateway.metrics().contains(line).then_some(()));
        assert!(counted.is_some(), "{line}: {}", gateway.metrics());
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_applied() {
    let (old, new) = (named("old"), named("new"));
    let gateway = Gateway::before(&old.address);
    let conf = fs::read_to_string(&gateway.conf).unwrap();
    let conf = conf
        .replace("threads: 2", "threads: 3\nmax_retries: 9")
        .replace(&gateway.address, "127.0.0.1:1")
        .replace(&old.address, &new.address);
    fs::write(&gateway.conf, &conf).unwrap();
    // The second time too: it still is not in use.
    for _ in 0..2 {
        let told = reload(&gateway).json();
        let keys = serde_json::json!(["gateway.listen", "max_retries", "threads"]);
        assert_eq!(told["needs_restart"], keys);
    }
    assert_eq!(text(&gateway), "new");
    gateway.rewrite(&providers_at(&new.address));
    assert_eq!(reload(&gateway).text(), "{\"status\":\"reloaded\"}\n");
}

#[test]
fn a_stream_ends_as_it_began_although_its_provider_is_gone_from_the_conf() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let old = Upstream::start(move |_, stream| {
        stream.write_all(STREAM).unwrap();
        stream.write_all(&chunk(event(" a", None))).unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let rest = event("", Some("stop")) + DONE;
        stream.write_all(&chunk(rest)).unwrap();
        stream.write_all(LAST_CHUNK).unwrap();
        After::Keep
    });
    let new = named("new");
    for road in ROADS {
        let gateway = Gateway::before(&old.address);
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        client.read_chunk().unwrap();
        gateway.rewrite(&(providers_at(&new.address) + "  timeouts: { total: 1ms, read: 1ms }\n"));
        assert_eq!(reload(&gateway).status, 200);
        go.send(()).unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
            rest.extend(piece);
        }
        assert!(rest.ends_with(DONE.as_bytes()));
        // The same connection's next request meets the new conf.
        gateway.rewrite(&providers_at(&new.address));
        assert_eq!(reload(&gateway).status, 200);
        client.send(post(&[], r#"{"prompt":"x"}"#));
        assert!(client.read().text().contains("new"));
    }
}

#[test]
fn a_key_file_that_was_rotated_is_read_again() {
    let upstream = named("any");
    let file = secret_file("sk-first\n");
    let lines = format!(
        "  providers:\n    openai: {{ base_url: \"http://{}/v1\", api_key: \"file:{}\" }}\n  default: {{ provider: openai, model: m }}\n",
        upstream.address,
        file.display()
    );
    let gateway = Gateway::start(&lines);
    text(&gateway);
    fs::write(&file, "sk-second\n").unwrap();
    assert_eq!(reload(&gateway).status, 200);
    text(&gateway);
    let keys: Vec<_> = upstream
        .seen()
        .iter()
        .map(|request| request.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["Bearer sk-first", "Bearer sk-second"]);
}

#[test]
fn reloads_at_once_are_all_answered() {
    let upstream = named("any");
    let gateway = Gateway::before(&upstream.address);
    std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| reload(&gateway).status))
            .collect();
        for reload in reloads {
            assert_eq!(reload.join().unwrap(), 200);
        }
    });
    assert_eq!(text(&gateway), "any");
}

#[test]
fn a_reload_is_a_post_and_no_browser_sends_it() {
    let gateway = Gateway::start("");
    let mut operator = Client::connect(&gateway.admin);
    operator.send(request("GET", "/reload", &[], ""));
    assert_eq!(operator.read().status, 405);
    operator.send(request(
        "POST",
        "/reload",
        &[("origin", "http://a.example")],
        "",
    ));
    assert_eq!(operator.read().status, 403);
}
