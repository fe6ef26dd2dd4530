//! The gateway inside another Pingora proxy: completions are served here, all else goes where it went before.
//!
//! `cargo run --example filter -- 127.0.0.1:8080 conf/demo.yaml 127.0.0.1:9000`

use async_trait::async_trait;
use pingora::{
    prelude::{HttpPeer, Server},
    proxy::{ProxyHttp, Session, http_proxy_service},
};
use pingora_completions::{Config, Gateway, Source, Surroundings};

/// A proxy to one app.
struct App {
    gateway: Gateway,
    address: String,
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora::Result<bool> {
        self.gateway.serve(session).await
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(
            &*self.address,
            false,
            String::new(),
        )))
    }
}

struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, file, address] = arguments.as_slice() else {
        return Err("usage: filter LISTEN CONF APP".into());
    };
    let config = Config::read(&Source {
        file,
        text: &std::fs::read_to_string(file)?,
        server_keys: &["threads".to_owned(), "version".to_owned()],
        surroundings: &Process,
        secret_file_mode: 0,
    })?;
    let mut server = Server::new(None)?;
    server.bootstrap();
    let app = App {
        gateway: Gateway::new(config, &server.configuration)?,
        address: address.clone(),
    };
    let mut service = http_proxy_service(&server.configuration, app);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
