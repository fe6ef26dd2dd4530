//! The library inside another proxy: `examples/filter.rs`.

use std::{
    env, fs,
    io::Write,
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use crate::support::{
    client::{Client, PLAIN, STREAMED, ask, request},
    free_address, providers_at, scratch,
    upstream::{After, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json},
    wait_for,
};

struct Filter(Child);

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(upstream: &str, app: &str) -> (Filter, String) {
    let (listen, file) = (free_address(), scratch("conf.yaml"));
    fs::write(&file, format!("gateway:\n{}", providers_at(upstream))).unwrap();
    // Beside the tests' own folder, where cargo puts examples.
    let folder = env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("../examples/filter");
    let filter = Command::new(folder)
        .args([&listen, file.to_str().unwrap(), app])
        .stderr(Stdio::null())
        .spawn()
        .map(Filter);
    assert!(wait_for(|| TcpStream::connect(&listen).ok()).is_some());
    (filter.unwrap(), listen)
}

#[test]
fn another_proxy_serves_completions_by_one_call_and_keeps_the_rest() {
    let upstream = Upstream::start(|request, stream| {
        if request.text().contains("stream") {
            stream
                .write_all(&[STREAM, &chunk(events()), LAST_CHUNK].concat())
                .unwrap();
        } else {
            stream.write_all(&json(200, TEXT)).unwrap();
        }
        After::Keep
    });
    let app = Upstream::answering(json(200, "{\"app\":true}"));
    let (_filter, address) = start(&upstream.address, &app.address);
    assert_eq!(ask(&address, &[], PLAIN).text(), TEXT);
    assert_eq!(ask(&address, &[], STREAMED).text(), events());
    assert_eq!(ask(&address, &[], "nonsense").status, 400);
    let mut client = Client::connect(&address);
    client.send(request("GET", "/v1/models", &[], ""));
    assert_eq!(client.read().text(), "{\"app\":true}");
    assert_eq!((upstream.seen().len(), app.seen().len()), (2, 1));
}

/// P4, P6, L4: there is no door of ours in front, and Pingora has dropped one of two framings by then.
#[test]
fn another_proxy_s_completions_are_held_to_the_same_heads() {
    let upstream = Upstream::answering(json(200, TEXT));
    let app = Upstream::answering(json(200, "{}"));
    let (_filter, address) = start(&upstream.address, &app.address);
    let chunked = format!("{:x}\r\n{PLAIN}\r\n0\r\n\r\n", PLAIN.len());
    let plain = format!("content-length: {}\r\n", PLAIN.len());
    for (fields, body) in [
        (
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            &*chunked,
        ),
        ("transfer-encoding: gzip, chunked\r\n", &chunked),
        (&format!("{plain}content_length: 5\r\n"), PLAIN),
        (&format!("{plain}{plain}"), PLAIN),
    ] {
        let mut client = Client::connect(&address);
        client.send(format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\n{fields}\r\n{body}"
        ));
        let answer = client.read();
        assert_eq!(answer.status, 400, "{fields}");
        assert!(answer.json()["error"]["message"].is_string());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed());
    }
    assert_eq!((upstream.seen().len(), app.seen().len()), (0, 0));
}
