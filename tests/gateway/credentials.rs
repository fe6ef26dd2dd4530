//! Credentials that are exchanged for a token, or that sign: on both roads, and through the passing proxy.

use std::{fmt::Write as _, io::Write, net::TcpStream, sync::Arc, thread};

use pingora::{
    prelude::{Opt, Server},
    proxy::http_proxy_service,
    server::{RunArgs, configuration::ServerConf},
};
use pingora_completions::{
    Config, Gateway,
    provider::{
        Base, Credential, Secret,
        azure::Identity,
        credential::{Aws, AwsKeys},
        sigv4::{Credentials, Scope},
    },
};

use crate::support::{
    client::{Client, PLAIN, ROADS, STREAMED, ask, request},
    free_address,
    upstream::{After, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json},
    wait_for,
};

/// A gateway inside this process, which ends with it.
fn start(upstream: &Upstream, credential: Credential) -> String {
    let mut config = Config::default();
    let openai = Arc::make_mut(config.providers.get_mut("openai").unwrap());
    let base = Base::try_new(&format!("http://{}/v1", upstream.address), "base_url");
    openai.base = Some(Arc::new(base.unwrap()));
    openai.credential = Some(credential);
    let address = free_address();
    let listen = address.clone();
    thread::spawn(move || {
        let conf = ServerConf::default();
        let mut server = Server::new_with_opt_and_conf(Opt::default(), conf);
        server.bootstrap();
        let gateway = Gateway::new(config, &server.configuration).unwrap();
        let mut service = http_proxy_service(&server.configuration, gateway);
        service.add_tcp(&listen);
        server.add_service(service);
        server.run(RunArgs::default());
    });
    assert!(wait_for(|| TcpStream::connect(&address).ok()).is_some());
    address
}

fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        if request.text().contains("stream") {
            let whole = [STREAM, &chunk(events()), LAST_CHUNK].concat();
            stream.write_all(&whole).unwrap();
        } else {
            stream.write_all(&json(200, TEXT)).unwrap();
        }
        After::Keep
    })
}

fn secret(text: &str) -> Secret {
    Secret::try_new(text).unwrap()
}

fn entra(endpoint: &Upstream) -> Credential {
    let identity = Identity::entra("contoso.com", "app-1", secret("s-secret")).unwrap();
    let base = Base::try_new(&format!("http://{}", endpoint.address), "authority");
    Credential::Azure(Arc::new(identity.at(base.unwrap())))
}

#[test]
fn a_token_is_fetched_once_for_every_road() {
    let granted = r#"{"access_token":"t-1","expires_in":3599,"token_type":"Bearer"}"#;
    let (endpoint, upstream) = (Upstream::answering(json(200, granted)), upstream());
    let address = start(&upstream, entra(&endpoint));
    let clients: Vec<_> = (0..32)
        .map(|turn| {
            let address = address.clone();
            let body = if turn % 2 == 0 { PLAIN } else { STREAMED };
            thread::spawn(move || ask(&address, ROADS[turn / 2 % 2], body).status)
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    let mut client = Client::connect(&address);
    let own = [("authorization", "Basic own")];
    client.send(request("GET", "/v1/models", &own, ""));
    assert_eq!(client.read().status, 200);
    assert_eq!(upstream.seen().len(), 33);
    for seen in upstream.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer t-1"), "{seen:?}");
    }
    assert_eq!(endpoint.sole().path, "/contoso.com/oauth2/v2.0/token");
}

#[test]
fn a_refused_credential_is_told_and_the_provider_is_not_called() {
    let refused = r#"{"error":"invalid_client","error_description":"not s-secret"}"#;
    let (endpoint, upstream) = (Upstream::answering(json(401, refused)), upstream());
    let address = start(&upstream, entra(&endpoint));
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            let answer = ask(&address, road, body);
            assert_eq!(answer.status, 401);
            let told = answer.json();
            assert_eq!(told["error"]["type"], "authentication_error");
            let message = told["error"]["message"].as_str().unwrap();
            assert!(
                message.ends_with("invalid_client: not [redacted]"),
                "{message}"
            );
        }
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_signature_covers_the_body_that_is_sent() {
    let upstream = upstream();
    let keys = Credentials {
        access_key: secret("AKID"),
        secret_key: secret("SECRET"),
        session_token: None,
    };
    let aws = Aws {
        scope: Scope::try_new("us-east-1", "bedrock").unwrap(),
        keys: AwsKeys::Held(keys),
    };
    let address = start(&upstream, Credential::Aws(Arc::new(aws)));
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            assert_eq!(ask(&address, road, body).status, 200);
        }
    }
    let mut client = Client::connect(&address);
    client.send(request("GET", "/v1/models", &[], ""));
    assert_eq!(client.read().status, 200);
    assert_eq!(upstream.seen().len(), 5);
    for seen in upstream.seen() {
        let authorization = seen.header("authorization").unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"));
        let hash = ring::digest::digest(&ring::digest::SHA256, &seen.body);
        let hex = hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        assert_eq!(seen.header("x-amz-content-sha256"), Some(&*hex));
        assert!(seen.header("host").unwrap().starts_with("127.0.0.1:"));
    }
}
