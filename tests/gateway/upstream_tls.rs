//! Providers behind TLS whose certificate, version or bytes are not what they must be: the call fails as that, and the key
//! stays here. Row 3 of the fault catalogue, and P11.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::ring, server::NoServerSessionStorage,
};

use crate::support::{
    Gateway, PATIENCE,
    client::{Client, PLAIN, ROADS, STREAMED, post, request},
    upstream::{LAST_CHUNK, STREAM, TEXT, chunk, event, events, json},
};

const KEY: &str = "sk-tls-canary-51";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// Serves with this certificate.
    With(&'static str),
    /// Serves, but breaks each stream off with bytes that are no record, after its first event.
    Breaking,
    /// Closes without TLS's own end after half of a body that only the connection's end ends.
    Truncating,
    /// Takes the connection and says nothing.
    Silent,
    /// Knows older versions alone.
    Old,
    /// Speaks HTTP.
    Plain,
}

/// A server on both loopback addresses, and all that came over its connections: as it came, and decrypted.
struct Double {
    port: u16,
    raw: Arc<Mutex<Vec<u8>>>,
    decrypted: Arc<Mutex<Vec<u8>>>,
}

impl Double {
    fn start(server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let double = Self {
            port,
            raw: Arc::default(),
            decrypted: Arc::default(),
        };
        // `localhost` may be either.
        let other = TcpListener::bind(("::1", port)).ok();
        for listener in [Some(listener), other].into_iter().flatten() {
            let (raw, decrypted) = (double.raw.clone(), double.decrypted.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = Tapped(stream.unwrap(), raw.clone());
                    let decrypted = decrypted.clone();
                    stream.0.set_read_timeout(Some(PATIENCE)).unwrap();
                    thread::spawn(move || server.serve(stream, &decrypted));
                }
            });
        }
        double
    }

    /// A gateway that trusts the tests' authority alone, with this server as its provider.
    fn gateway(&self) -> Gateway {
        let ca = fixture("ca.pem");
        Gateway::start(&format!(
            "  providers:\n    openai: {{ base_url: \"https://localhost:{}/v1\" }}\n  default: {{ provider: openai, model: m }}\n  timeouts: {{ connect: 500ms }}\nca_file: {}\n",
            self.port,
            ca.display()
        ))
    }
}

impl Server {
    fn serve(self, mut stream: Tapped, decrypted: &Mutex<Vec<u8>>) {
        match self {
            Self::With(name) => answer(tls(stream, name), self, decrypted),
            Self::Breaking | Self::Truncating => answer(tls(stream, "good"), self, decrypted),
            Self::Silent => drain(&mut stream),
            Self::Old => {
                let _ = stream.read(&mut [0; 4096]);
                // Alert, fatal, protocol_version.
                let _ = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 0x46]);
                drain(&mut stream);
            }
            Self::Plain => {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&json(400, r#"{"error":{"message":"plain HTTP"}}"#));
                drain(&mut stream);
            }
        }
    }
}

/// A connection that keeps what came.
struct Tapped(TcpStream, Arc<Mutex<Vec<u8>>>);

impl Read for Tapped {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.lock().unwrap().extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

impl Write for Tapped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn drain(stream: &mut impl Read) {
    let mut piece = [0; 4096];
    while let Ok(1..) = stream.read(&mut piece) {}
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tls/upstream")
        .join(name)
}

fn tls(stream: Tapped, name: &str) -> StreamOwned<ServerConnection, Tapped> {
    let chain = CertificateDer::from_pem_file(fixture(&format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture(&format!("{name}.key"))).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream)
}

fn answer(
    mut stream: StreamOwned<ServerConnection, Tapped>,
    server: Server,
    decrypted: &Mutex<Vec<u8>>,
) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        request.extend_from_slice(&piece[..read]);
        decrypted.lock().unwrap().extend_from_slice(&piece[..read]);
        if !request.ends_with(b"}") {
            continue;
        }
        let streamed = request
            .windows(13)
            .any(|window| window == b"\"stream\":true");
        request.clear();
        let sent = match (server, streamed) {
            (Server::Truncating, true) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                [head.to_owned(), event(" a", None)].concat().into_bytes()
            }
            (Server::Truncating, false) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
                [head, &TEXT[..100]].concat().into_bytes()
            }
            (Server::Breaking, true) => [STREAM, &chunk(event(" a", None))].concat(),
            (_, true) => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            (_, false) => json(200, TEXT),
        };
        if stream
            .write_all(&sent)
            .and_then(|()| stream.flush())
            .is_err()
        {
            return;
        }
        match server {
            Server::Truncating => return,
            Server::Breaking if streamed => {
                thread::sleep(Duration::from_millis(100));
                let _ = stream.sock.write_all(&[
                    0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
                    18, 19, 20,
                ]);
                drain(&mut stream.sock);
                return;
            }
            _ => {}
        }
    }
}

/// A completion in each form on each road, and a path that passes; all with a key.
fn every_post() -> Vec<String> {
    let bearer = format!("Bearer {KEY}");
    let key = ("authorization", bearer.as_str());
    let completions =
        [PLAIN, STREAMED].map(|body| ROADS.map(|road| post(&[road, &[key]].concat(), body)));
    let passed = request("POST", "/v1/embeddings", &[key], PLAIN);
    completions.into_iter().flatten().chain([passed]).collect()
}

fn holds(bytes: &Mutex<Vec<u8>>, text: &str) -> bool {
    let bytes = bytes.lock().unwrap();
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn a_trusted_provider_is_called_over_tls() {
    let double = Double::start(Server::With("good"));
    let gateway = double.gateway();
    for post in every_post() {
        let mut client = Client::connect(&gateway.address);
        client.send(&post);
        let answer = client.read();
        assert_eq!(answer.status, 200, "{post}: {}", answer.text());
    }
    assert!(holds(&double.decrypted, KEY) && !holds(&double.raw, KEY));
}

#[test]
fn a_provider_that_is_not_who_it_should_be_gets_no_byte_of_a_request() {
    for (server, code) in [
        (Server::With("expired"), "tls_error"),
        (Server::With("wrong-host"), "tls_error"),
        (Server::With("self-signed"), "tls_error"),
        (Server::With("unknown"), "tls_error"),
        (Server::Old, "tls_error"),
        (Server::Plain, "tls_error"),
        (Server::Silent, "connect_timeout"),
    ] {
        let double = Double::start(server);
        let gateway = double.gateway();
        let status = if code == "tls_error" { 502 } else { 504 };
        for post in every_post() {
            let asked = Instant::now();
            let mut client = Client::connect(&gateway.address);
            client.send(&post);
            let answer = client.read();
            assert_eq!(
                answer.status,
                status,
                "{server:?} {post}: {}",
                answer.text()
            );
            assert_eq!(answer.json()["error"]["code"], code, "{server:?} {post}");
            assert!(asked.elapsed() < Duration::from_secs(3), "{server:?}");
        }
        assert!(double.decrypted.lock().unwrap().is_empty(), "{server:?}");
        assert!(!double.raw.lock().unwrap().is_empty(), "{server:?}");
        assert!(!holds(&double.raw, KEY), "{server:?}");
        assert!(!gateway.logged().contains(KEY));
    }
}

#[test]
fn a_record_that_is_none_ends_a_stream_with_an_error_event() {
    let double = Double::start(Server::Breaking);
    let gateway = double.gateway();
    for road in ROADS {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        let answer = client.read();
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        assert!(answer.complete && text.contains("\" a\""), "{text}");
        assert!(
            text.contains("broken_upstream") && !text.contains("[DONE]"),
            "{text}"
        );
    }
}

#[test]
fn an_answer_that_ends_without_tls_s_own_end_is_not_complete() {
    let double = Double::start(Server::Truncating);
    let gateway = double.gateway();
    for road in ROADS {
        for body in [PLAIN, STREAMED] {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, body));
            let answer = client.read();
            let text = answer.text();
            assert!(
                answer.complete && text.contains("broken_upstream"),
                "{text}"
            );
            assert!(!text.contains("[DONE]"), "{text}");
        }
    }
}
