//! Which headers go on: to providers and from them, on completions and on passed paths.

use crate::support::{
    Gateway,
    client::{Client, PLAIN, ROADS, STREAMED, ask, request},
    upstream::{LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json},
};

/// What a browser behind another proxy could send along, and what nobody should.
const CARRIED: [(&str, &str); 17] = [
    ("authorization", "Bearer sk-mine"),
    ("cookie", "session=canary"),
    ("accept-encoding", "gzip, br"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-host", "inner.example"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "for=10.0.0.1"),
    ("via", "1.1 inner"),
    ("x-real-ip", "10.0.0.1"),
    ("metadata-flavor", "Google"),
    ("x-aws-ec2-metadata-token", "canary"),
    ("te", "trailers"),
    ("connection", "x-hop, te"),
    ("x-hop", "1"),
    ("proxy-authorization", "Basic canary"),
    ("x-portkey-metadata", "{}"),
    ("x-completions-unsupported", "drop"),
];
const NEVER: [&str; 16] = [
    "cookie",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "via",
    "x-real-ip",
    "metadata-flavor",
    "x-aws-ec2-metadata-token",
    "te",
    "x-hop",
    "proxy-authorization",
    "x-portkey-metadata",
    "x-completions-unsupported",
    "upgrade",
    "keep-alive",
];

/// What a provider's site could say to a browser, and what is between it and us.
const TOLD: &str = "Set-Cookie: __cf_bm=canary; Domain=.example.com\r\nAlt-Svc: h3=\":443\"\r\nServer: cloudflare\r\nStrict-Transport-Security: max-age=1\r\nAccess-Control-Allow-Origin: *\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop, X-Request-Id\r\nX-Hop: 1\r\nX-RateLimit-Remaining-Tokens: 9\r\nX-Own: 1\r\n";
const KEPT_BACK: [&str; 7] = [
    "set-cookie",
    "alt-svc",
    "server",
    "strict-transport-security",
    "access-control-allow-origin",
    "keep-alive",
    "x-hop",
];

fn telling(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let told = format!("\r\n{TOLD}");
    text.replacen("\r\n", &told, 1).into_bytes()
}

/// Requirement 7 of the secrets': P8 among it.
#[test]
fn a_provider_gets_no_headers_that_are_not_for_it() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        assert_eq!(
            ask(&gateway.address, &[&CARRIED[..], road].concat(), PLAIN).status,
            200
        );
    }
    let mut client = Client::connect(&gateway.address);
    let own = [
        ("x-own", "kept"),
        ("api-key", "sk-other"),
        ("x-api-key", "sk-other"),
    ];
    client.send(request(
        "POST",
        "/v1/embeddings",
        &[&CARRIED[..], &own].concat(),
        "{}",
    ));
    assert_eq!(client.read().status, 200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    for sent in &seen {
        for name in NEVER {
            assert_eq!(sent.header(name), None, "{name}");
        }
        assert_eq!(sent.header("accept-encoding"), Some("identity"));
        assert_eq!(sent.header("authorization"), Some("Bearer sk-mine"));
    }
    // A passed request keeps what is its own; a key of another provider's it is not.
    assert_eq!(seen[2].header("x-own"), Some("kept"));
    assert_eq!(
        (seen[2].header("api-key"), seen[2].header("x-api-key")),
        (None, None)
    );
}

/// Requirement 8 of the secrets'.
#[test]
fn a_client_gets_no_headers_of_a_providers_site() {
    for body in [PLAIN, STREAMED] {
        let answer = match body {
            PLAIN => json(200, TEXT),
            _ => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
        };
        let upstream = Upstream::answering(telling(&answer));
        let gateway = Gateway::before(&upstream.address);
        for road in ROADS {
            let answer = ask(&gateway.address, road, body);
            assert_eq!(answer.status, 200);
            for name in KEPT_BACK.iter().chain(&["x-own"]) {
                assert_eq!(answer.header(name), None, "{name}");
            }
            assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("9"));
        }
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/v1/models", &[], ""));
        let answer = client.read();
        assert_eq!((answer.status, answer.complete), (200, true));
        for name in KEPT_BACK {
            assert_eq!(answer.header(name), None, "{name}");
        }
        assert_eq!(answer.header("x-own"), Some("1"));
    }
}

#[test]
fn an_app_keeps_its_headers_but_those_of_its_connection() {
    let app = Upstream::answering(telling(&json(200, "{}")));
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{}\" }} }}\n",
        app.address
    ));
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/page", &CARRIED, ""));
    let answer = client.read();
    assert_eq!((answer.status, answer.text()), (200, "{}"));
    for name in &KEPT_BACK[..5] {
        assert!(answer.header(name).is_some(), "{name}");
    }
    assert_eq!(
        (answer.header("keep-alive"), answer.header("x-hop")),
        (None, None)
    );
    let sent = app.sole();
    for name in [
        "cookie",
        "accept-encoding",
        "x-portkey-metadata",
        "authorization",
    ] {
        assert!(sent.header(name).is_some(), "{name}");
    }
    for name in ["te", "x-hop", "proxy-authorization"] {
        assert_eq!(sent.header(name), None, "{name}");
    }
}

/// Framing is not a field of the connection, whatever its upstream says.
#[test]
fn a_provider_cannot_take_the_framing_off_its_answer() {
    let told = "connection: content-length, transfer-encoding, content-type\r\n";
    for answer in [json(200, "{}"), [STREAM, &chunk("{}"), LAST_CHUNK].concat()] {
        let answer = String::from_utf8(answer).unwrap();
        let upstream = Upstream::answering(answer.replacen("\r\n", &format!("\r\n{told}"), 1));
        let gateway = Gateway::before(&upstream.address);
        let mut client = Client::connect(&gateway.address);
        for _ in 0..2 {
            client.send(request("GET", "/v1/models", &[], ""));
            let answer = client.read();
            assert_eq!(
                (answer.status, answer.text(), answer.complete),
                (200, "{}", true)
            );
        }
    }
}
