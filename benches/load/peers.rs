//! Proxies and AI gateways of others, each asked in the same run as ours, where it is installed: by `benches/peers/setup`, or
//! on the PATH.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::way::{Kind, Way, free_address};

struct Peer {
    name: &'static str,
    kind: Kind,
    program: &'static str,
    /// The name of its conf, and what is in it.
    conf: Option<(&'static str, &'static str)>,
    arguments: fn(listen: &str, conf: &str) -> Vec<String>,
}

const PEERS: [Peer; 4] = [
    Peer {
        name: "nginx",
        kind: Kind::PassesOn,
        program: "nginx",
        conf: Some(("nginx.conf", include_str!("../peers/nginx.conf"))),
        arguments: |_, conf| owned(&["-e", "stderr", "-c", conf]),
    },
    Peer {
        name: "HAProxy",
        kind: Kind::PassesOn,
        program: "haproxy",
        conf: Some(("haproxy.cfg", include_str!("../peers/haproxy.cfg"))),
        arguments: |_, conf| owned(&["-db", "-f", conf]),
    },
    Peer {
        name: "Portkey",
        kind: Kind::Portkey,
        program: "portkey",
        conf: None,
        arguments: |listen, _| owned(&["--headless", &format!("--port={}", port(listen))]),
    },
    Peer {
        name: "LiteLLM",
        kind: Kind::LiteLlm,
        program: "litellm",
        conf: Some(("litellm.yaml", include_str!("../peers/litellm.yaml"))),
        arguments: |listen, conf| {
            let port = port(listen);
            let host = listen.split(':').next().unwrap_or_default();
            owned(&[
                "--config",
                conf,
                "--host",
                host,
                "--port",
                port,
                "--num_workers",
                "1",
            ])
        },
    },
];

/// Starts those that are there, before `upstream`. Err: which is not, or did not start.
pub fn start(upstream: &str) -> impl Iterator<Item = Result<Way, String>> {
    PEERS.iter().map(move |peer| match find(peer.program) {
        Some(program) => peer.start(&program, upstream),
        None => Err(format!("{} is absent: benches/peers/setup", peer.name)),
    })
}

impl Peer {
    fn start(&self, program: &Path, upstream: &str) -> Result<Way, String> {
        let listen = free_address();
        let folder = scratch().join(self.program);
        fs::create_dir_all(&folder).unwrap();
        let conf = self.conf.map(|(name, text)| {
            let text = text
                .replace("@listen@", &listen)
                .replace("@upstream@", upstream)
                .replace("@folder@", folder.to_str().unwrap());
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let mut command = Command::new(program);
        command
            .args((self.arguments)(&listen, &conf.unwrap_or_default()))
            .current_dir(&folder)
            // What LiteLLM would else fetch at its start.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("NODE_ENV", "production");
        Way::start(self.name, self.kind, listen, command)
    }
}

/// What `benches/peers/setup` installed, else what the PATH has.
fn find(program: &str) -> Option<PathBuf> {
    let own = scratch().join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// `target/peers`.
fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers")
}

fn port(listen: &str) -> &str {
    listen.rsplit(':').next().unwrap_or_default()
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&text| text.to_owned()).collect()
}
