//! Identities that a conf names, from their token to the call: against doubles of the services that give tokens out.

use std::{
    fs,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    http2,
    support::{
        Gateway,
        client::{Client, PLAIN, ROADS, STREAMED, ask, request},
        secret_file,
        upstream::{After, LAST_CHUNK, Request, STREAM, TEXT, Upstream, chunk, events, json},
        wait_for,
    },
};

const STS: &str = include_str!("../fixtures/credentials/sts_granted.xml");
const RSA: &str = include_str!("../fixtures/credentials/rsa.pem");
/// `Expiration` of the fixture.
const ENDED: &str = "2026-11-24T15:33:18.136435Z";
const BEARER: &str = r#"{"access_token":"t-1","expires_in":3599,"token_type":"Bearer"}"#;

/// What every service of tokens answers: STS, Google, Entra, and the metadata services.
fn grant(request: &Request) -> Vec<u8> {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    if text.contains("Action=AssumeRole") {
        return json(200, &STS.replace(ENDED, "2099-01-01T00:00:00Z"));
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("PUT", "/latest/api/token") => json(200, "session-1"),
        ("GET", "/latest/meta-data/iam/security-credentials/") => json(200, "my-role"),
        ("GET", "/latest/meta-data/iam/security-credentials/my-role" | "/creds?a=b") => json(
            200,
            r#"{"Code":"Success","AccessKeyId":"ASIAMETADATA","SecretAccessKey":"metadata-secret","Token":"metadata-session","Expiration":"2099-01-01T00:00:00Z"}"#,
        ),
        _ => json(200, BEARER),
    }
}

fn granting() -> Upstream {
    Upstream::start(|request, stream| {
        stream.write_all(&grant(request)).unwrap();
        After::Keep
    })
}

/// Answers with a text completion, whole or streamed, unless `refuse` says otherwise.
fn serving(refuse: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |request, stream| {
        let answer = refuse(request).unwrap_or_else(|| {
            let streams = String::from_utf8_lossy(&request.body).contains("\"stream\"");
            match streams {
                true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
                false => json(200, TEXT),
            }
        });
        stream.write_all(&answer).unwrap();
        After::Keep
    })
}

/// A file of this test's.
fn file(text: &str) -> String {
    secret_file(text).to_str().unwrap().to_owned()
}

/// A provider at `upstream` that speaks as `openai` does, with `credentials`.
fn provider(name: &str, upstream: &Upstream, credentials: &[(&str, String)]) -> String {
    let address = &upstream.address;
    let mut yaml = format!(
        "    {name}:\n      base_url: http://{address}/v1\n      dialect: openai\n      credentials:\n"
    );
    for (part, value) in credentials {
        yaml += &format!("        {part}: {value:?}\n");
    }
    yaml
}

fn at(endpoint: &Upstream) -> String {
    format!("http://{}", endpoint.address)
}

fn keys() -> [(&'static str, String); 2] {
    [
        ("aws_access_key_id", "AKIDHELD".to_owned()),
        ("aws_secret_access_key", "sk-held".to_owned()),
    ]
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/{name}")
}

fn google(endpoint: &Upstream) -> Vec<(&'static str, String)> {
    let account = serde_json::json!({
        "type": "service_account", "private_key": RSA, "private_key_id": "k",
        "client_email": "robot@p.iam.gserviceaccount.com",
    });
    let account = format!("file:{}", file(&account.to_string()));
    vec![
        ("vertex_service_account_json", account),
        ("vertex_token_endpoint", format!("{}/token", at(endpoint))),
    ]
}

fn entra(endpoint: &Upstream) -> Vec<(&'static str, String)> {
    vec![
        ("azure_auth_mode", "entra".to_owned()),
        ("azure_entra_tenant_id", "contoso.com".to_owned()),
        ("azure_entra_client_id", "app-1".to_owned()),
        ("azure_entra_client_secret", "s-secret".to_owned()),
        ("azure_token_endpoint", at(endpoint)),
    ]
}

fn assumed(endpoint: &Upstream) -> Vec<(&'static str, String)> {
    let mut parts = keys().to_vec();
    parts.push(("aws_role_arn", role("r")));
    parts.push(("aws_sts_endpoint", at(endpoint)));
    parts
}

fn web_identity(endpoint: &Upstream) -> Vec<(&'static str, String)> {
    vec![
        ("aws_auth_mode", "web-identity".to_owned()),
        ("aws_role_arn", role("r")),
        ("aws_web_identity_token_file", file("eyJ0")),
        ("aws_sts_endpoint", at(endpoint)),
    ]
}

fn instance(endpoint: &Upstream) -> Vec<(&'static str, String)> {
    vec![
        ("aws_auth_mode", "instance".to_owned()),
        ("aws_metadata_endpoint", at(endpoint)),
    ]
}

fn start(providers: &[String]) -> Gateway {
    Gateway::start(&format!("  providers:\n{}", providers.concat()))
}

fn named(name: &str) -> (&str, &str) {
    ("x-portkey-provider", name)
}

/// Asks over every road, whole and streamed, and passes a request too.
fn ask_all_ways(gateway: &Gateway, name: &'static str) {
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            let headers = [road, &[named(name)]].concat();
            let answer = ask(&gateway.address, &headers, body);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let mut client = Client::connect(&gateway.address);
    client.send(request("POST", "/v1/other?x=1", &[named(name)], "{}"));
    assert_eq!(client.read().status, 200);
}

/// Two for each request, and what the other tests of this process have.
const OPEN_FILES: u64 = 8_192;

#[test]
fn a_thousand_requests_at_once_fetch_one_token_of_each_kind() {
    // Debian's own limit is 1,024: too few for this process and, as it inherits it, for the gateway.
    rlimit::increase_nofile_limit(OPEN_FILES).unwrap();
    let upstream = serving(|_| None);
    let doors: [Arc<Mutex<()>>; 4] = Default::default();
    let endpoints = doors.each_ref().map(|door| {
        let door = door.clone();
        Upstream::start(move |request, stream| {
            drop(door.lock().unwrap());
            stream.write_all(&grant(request)).unwrap();
            After::Keep
        })
    });
    let [google_s, entra_s, sts, web_s] = &endpoints;
    let kinds = [
        ("vertex-ai", google(google_s)),
        ("azure-openai", entra(entra_s)),
        ("bedrock", assumed(sts)),
        ("bedrock-invoke", web_identity(web_s)),
    ];
    let providers = kinds
        .each_ref()
        .map(|(name, parts)| provider(name, &upstream, parts));
    let gateway = start(&providers);
    for (((name, _), door), endpoint) in kinds.iter().zip(&doors).zip(&endpoints) {
        // The endpoint answers when all are there.
        let closed = door.lock().unwrap();
        thread::scope(|scope| {
            let clients = scope.spawn(|| http2::run(ask_at_once(&gateway, name)));
            let all =
                wait_for(|| (gateway.metric("completions_in_flight", &[]) == 1000.0).then_some(()));
            drop(closed);
            clients.join().unwrap();
            assert!(all.is_some(), "{name}");
        });
        assert_eq!(endpoint.seen().len(), 1, "{name}");
    }
    assert_eq!(upstream.seen().len(), 4000);
}

/// 1,000 requests on few connections; all are answered.
async fn ask_at_once(gateway: &Gateway, name: &'static str) {
    let mut asked = Vec::new();
    for _ in 0..20 {
        let sender = http2::connect(gateway).await;
        for _ in 0..50 {
            let sender = sender.clone();
            asked.push(tokio::spawn(async move {
                http2::ask(&sender, &[named(name)], PLAIN.to_owned())
                    .await
                    .0
            }));
        }
    }
    for one in asked {
        assert_eq!(one.await.unwrap(), 200);
    }
}

#[test]
fn an_instance_s_keys_come_by_session_and_role_and_take_a_chain_of_roles() {
    let (metadata, sts, upstream) = (granting(), granting(), serving(|_| None));
    let mut chained = instance(&metadata);
    chained.push(("aws_role_arn", role("first")));
    chained.push(("aws_chained_role_arn", role("second")));
    chained.push(("aws_sts_endpoint", at(&sts)));
    let gateway = start(&[
        provider("bedrock", &upstream, &instance(&metadata)),
        provider("bedrock-invoke", &upstream, &chained),
    ]);
    ask_all_ways(&gateway, "bedrock");
    let asked: Vec<_> = metadata.seen();
    let paths: Vec<_> = asked.iter().map(|asked| asked.path.as_str()).collect();
    let roles = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(
        paths,
        ["/latest/api/token", roles, &format!("{roles}my-role")]
    );
    assert_eq!(
        asked[2].header("x-aws-ec2-metadata-token"),
        Some("session-1")
    );
    for seen in upstream.seen() {
        assert_eq!(
            seen.header("x-amz-security-token"),
            Some("metadata-session")
        );
        let signed = seen.header("authorization").unwrap();
        assert!(signed.contains("Credential=ASIAMETADATA/"), "{signed}");
    }
    ask_all_ways(&gateway, "bedrock-invoke");
    // The instance's own keys were at hand.
    assert_eq!(metadata.seen().len(), 3);
    let [first, second] = &sts.seen()[..] else {
        panic!("{:?}", sts.seen())
    };
    assert_eq!(
        first.header("x-amz-security-token"),
        Some("metadata-session")
    );
    assert!(first.text().contains("role%2Ffirst") && second.text().contains("role%2Fsecond"));
    let signed = second.header("authorization").unwrap();
    assert!(
        signed.contains("Credential=ASIARZPUZDIKKQZXLDOR/"),
        "{signed}"
    );
}

#[test]
fn a_container_s_keys_come_by_its_agent_and_token_as_it_is_then() {
    let (agent, upstream) = (granting(), serving(|_| None));
    let token = file("agent-1\n");
    let uri = format!("{}/creds?a=b", at(&agent));
    let lines = format!(
        "  providers:\n{}",
        provider(
            "bedrock",
            &upstream,
            &[("aws_auth_mode", "container".to_owned())]
        )
    );
    let gateway = Gateway::start_with(
        &lines,
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
        ],
    );
    fs::write(&token, "agent-2").unwrap();
    ask_all_ways(&gateway, "bedrock");
    assert_eq!(agent.sole().header("authorization"), Some("agent-2"));
    let signed = upstream.seen().pop().unwrap();
    assert!(
        signed
            .header("authorization")
            .unwrap()
            .contains("ASIAMETADATA/")
    );
}

#[test]
fn a_web_identity_is_shown_to_sts_unsigned() {
    let (sts, upstream) = (granting(), serving(|_| None));
    let gateway = start(&[provider("bedrock", &upstream, &web_identity(&sts))]);
    ask_all_ways(&gateway, "bedrock");
    let asked = sts.sole();
    assert!(asked.header("authorization").is_none());
    assert!(
        asked.text().contains("&WebIdentityToken=eyJ0"),
        "{}",
        asked.text()
    );
    let missing = start(&[provider(
        "bedrock",
        &upstream,
        &[
            ("aws_auth_mode", "web-identity".to_owned()),
            ("aws_role_arn", role("r")),
            ("aws_web_identity_token_file", "/nowhere".to_owned()),
        ],
    )]);
    let answer = ask(&missing.address, &[named("bedrock")], PLAIN);
    assert_eq!(answer.status, 500);
    assert!(
        answer.text().contains("federated token cannot be read"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_source_of_keys_that_refuses_is_told() {
    let upstream = serving(|_| None);
    let metadata = Upstream::answering(json(403, ""));
    let gateway = start(&[provider("bedrock", &upstream, &instance(&metadata))]);
    for road in ROADS {
        let answer = ask(
            &gateway.address,
            &[road, &[named("bedrock")]].concat(),
            PLAIN,
        );
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    assert!(upstream.seen().is_empty());
}

/// The nth token is `t-n`.
fn counting() -> Upstream {
    let turn = AtomicUsize::new(0);
    Upstream::start(move |_, stream| {
        let turn = turn.fetch_add(1, Ordering::Relaxed) + 1;
        let token = BEARER.replace("t-1", &format!("t-{turn}"));
        stream.write_all(&json(200, &token)).unwrap();
        After::Keep
    })
}

#[test]
fn a_token_that_is_refused_is_the_last_of_its_kind() {
    for way in 0..5 {
        let endpoint = counting();
        let upstream = serving(|seen| {
            let revoked = seen.header("authorization") == Some("Bearer t-1");
            revoked.then(|| json(401, r#"{"error":{"message":"revoked"}}"#))
        });
        let gateway = start(&[provider("azure-openai", &upstream, &entra(&endpoint))]);
        let ask_once = || {
            let headers = [ROADS[way % 2], &[named("azure-openai")]].concat();
            if way < 4 {
                let body = [PLAIN, STREAMED][way / 2];
                return ask(&gateway.address, &headers, body).status;
            }
            let mut client = Client::connect(&gateway.address);
            client.send(request("GET", "/v1/models", &headers, ""));
            client.read().status
        };
        assert_eq!(ask_once(), 401, "{way}");
        assert_eq!(ask_once(), 200, "{way}");
        assert_eq!(endpoint.seen().len(), 2, "{way}");
    }
}

#[test]
fn keys_that_have_expired_at_aws_are_fetched_anew() {
    let (metadata, calls) = (granting(), AtomicUsize::new(0));
    let upstream = serving(move |_| {
        let expired = r#"{"message":"The security token included in the request is expired"}"#;
        let head = "HTTP/1.1 403 X\r\nx-amzn-errortype: ExpiredTokenException:http://internal.amazon.com/coral/com.amazon.coral.service/\r\n";
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        let length = expired.len();
        first.then(|| format!("{head}content-length: {length}\r\n\r\n{expired}").into_bytes())
    });
    let gateway = start(&[provider("bedrock", &upstream, &instance(&metadata))]);
    assert_eq!(
        ask(&gateway.address, &[named("bedrock")], PLAIN).status,
        403
    );
    assert_eq!(metadata.seen().len(), 3);
    ask_all_ways(&gateway, "bedrock");
    assert_eq!(metadata.seen().len(), 6);
}

#[test]
fn a_source_s_keys_that_sts_calls_expired_are_fetched_anew() {
    let (metadata, calls) = (granting(), AtomicUsize::new(0));
    let expired = "<ErrorResponse><Error><Code>ExpiredToken</Code><Message>of metadata-session</Message></Error></ErrorResponse>";
    let sts = Upstream::start(move |request, stream| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        let answer = if first {
            json(403, expired)
        } else {
            grant(request)
        };
        stream.write_all(&answer).unwrap();
        After::Keep
    });
    let upstream = serving(|_| None);
    let mut parts = instance(&metadata);
    parts.extend([("aws_role_arn", role("r")), ("aws_sts_endpoint", at(&sts))]);
    let gateway = start(&[provider("bedrock", &upstream, &parts)]);
    let told = ask(&gateway.address, &[named("bedrock")], PLAIN);
    assert_eq!(told.status, 403);
    assert!(
        told.text().contains("ExpiredToken: of [redacted]"),
        "{}",
        told.text()
    );
    ask_all_ways(&gateway, "bedrock");
    assert_eq!((metadata.seen().len(), sts.seen().len()), (6, 2));
}

#[test]
fn a_storm_of_refusals_is_no_storm_of_fetches() {
    let endpoint = counting();
    let upstream = serving(|_| Some(json(401, r#"{"error":{"message":"no"}}"#)));
    let gateway = start(&[provider("azure-openai", &upstream, &entra(&endpoint))]);
    let started = Instant::now();
    for turn in 0..100 {
        let headers = [ROADS[turn % 2], &[named("azure-openai")]].concat();
        assert_eq!(ask(&gateway.address, &headers, PLAIN).status, 401);
    }
    // One at first, one after the first refusal, then one every 10 s.
    let most = 2 + usize::try_from(started.elapsed().as_secs() / 10).unwrap();
    assert!(endpoint.seen().len() <= most, "{}", endpoint.seen().len());
}

#[test]
fn the_wait_for_a_token_is_a_part_of_the_call_s_time() {
    let wait = Duration::from_millis(900);
    let endpoint = Upstream::start(move |_, stream| {
        thread::sleep(wait);
        stream.write_all(&json(200, BEARER)).unwrap();
        After::Keep
    });
    let upstream = Upstream::start(|_, stream| {
        // Until the gateway leaves.
        let _ = std::io::Read::read(stream, &mut [0]);
        After::Close
    });
    let gateway = start(&[provider("azure-openai", &upstream, &entra(&endpoint))]);
    let headers = [named("azure-openai"), ("x-portkey-request-timeout", "1200")];
    let started = Instant::now();
    assert_eq!(ask(&gateway.address, &headers, PLAIN).status, 504);
    let took = started.elapsed();
    assert!(took < wait + Duration::from_millis(1100), "{took:?}");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_passed_request_is_signed_over_the_body_that_was_held() {
    let upstream = serving(|_| None);
    let limits = "  limits: { body_bytes: 200000 }\n";
    let providers = provider("bedrock", &upstream, &keys());
    let gateway = Gateway::start(&format!("{limits}  providers:\n{providers}"));
    let own = [
        named("bedrock"),
        ("authorization", "AWS4-HMAC-SHA256 Credential=OTHER/x"),
        ("x-amz-security-token", "other"),
        ("x-amz-date", "20200101T000000Z"),
        ("x-amz-target", "Some.Operation"),
    ];
    for (method, path, body) in [
        ("GET", "/model/a%3A0?b=c%20d&a", String::new()),
        ("POST", "/model/x/invoke", String::new()),
        ("POST", "/model/x/invoke", r#"{"a":1}"#.to_owned()),
        ("PUT", "/model/x/invoke", "y".repeat(150_000)),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(request(method, path, &own, &body));
        assert_eq!(client.read().status, 200);
        let sent = upstream.seen().pop().unwrap();
        assert_eq!(
            (&*sent.method, &*sent.path, sent.text()),
            (method, path, &*body)
        );
        let authorization = sent.header("authorization").unwrap();
        assert!(
            authorization.contains("Credential=AKIDHELD/"),
            "{authorization}"
        );
        assert!(
            authorization.contains(";x-amz-date;x-amz-target,"),
            "{authorization}"
        );
        assert!(sent.header("x-amz-security-token").is_none());
        assert!(!sent.header("x-amz-date").unwrap().starts_with("2020"));
        let hash = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        let hex: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(sent.header("x-amz-content-sha256"), Some(&*hex));
    }
    let seen = upstream.seen().len();
    let chunked = |size| {
        let mut client = Client::connect(&gateway.address);
        client.send("POST /model/x/invoke HTTP/1.1\r\nhost: g\r\nx-portkey-provider: bedrock\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send([&chunk("z".repeat(size)), LAST_CHUNK].concat());
        client.read()
    };
    assert_eq!(chunked(5000).status, 200);
    let sent = upstream.seen().pop().unwrap();
    assert_eq!(
        (sent.header("content-length"), sent.body.len()),
        (Some("5000"), 5000)
    );
    let lost = chunked(150_000);
    assert_eq!(
        (lost.status, &lost.json()["error"]["param"]),
        (400, &"content-length".into())
    );
    assert_eq!(chunked(250_000).status, 413);
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "POST",
        "/model/x/invoke",
        &[named("bedrock")],
        &"y".repeat(200_001),
    ));
    assert_eq!(client.read().status, 413);
    assert_eq!(upstream.seen().len(), seen + 1);
}
