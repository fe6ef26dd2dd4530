//! What end-to-end tests share: the binary as a child process, a scripted upstream, a client that sends exact bytes.
//! Everything is on loopback, and every wait has an end.

pub mod app;
pub mod client;
pub mod targets;
pub mod upstream;

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use pingora_completions::bench::Reading;

use client::{Client, request};

/// No wait in a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway's process; killed when dropped.
pub struct Gateway {
    pub child: Child,
    pub address: String,
    pub admin: String,
    pub log: PathBuf,
    pub conf: PathBuf,
}

impl Gateway {
    /// Starts the binary with `gateway:` lines beside `listen` and `admin`, indented by two spaces.
    pub fn start(lines: &str) -> Self {
        Self::start_with(lines, &[])
    }

    /// One that listens on other addresses too: each an entry of `listen`.
    pub fn start_on(entries: &[&str], lines: &str) -> Self {
        Self::launch(entries, lines, &[])
    }

    pub fn start_with(lines: &str, variables: &[(&str, &str)]) -> Self {
        Self::launch(&[], lines, variables)
    }

    /// One whose output goes to a file of the system's.
    pub fn logging_to(lines: &str, file: &str) -> Self {
        Self::launch_to(&[], lines, &[], Some(file))
    }

    pub fn launch(entries: &[&str], lines: &str, variables: &[(&str, &str)]) -> Self {
        Self::launch_to(entries, lines, variables, None)
    }

    fn launch_to(
        entries: &[&str],
        lines: &str,
        variables: &[(&str, &str)],
        output: Option<&str>,
    ) -> Self {
        // A port that was free a moment ago may be taken by a neighbour: then the binary says so and stops.
        for _ in 0..10 {
            let (address, admin) = (free_address(), free_address());
            let listen = [&[address.as_str()], entries].concat();
            let conf = conf_text(&listen, &admin, lines);
            let file = scratch("conf.yaml");
            fs::write(&file, conf).unwrap();
            let log = output.map_or_else(|| scratch("log"), PathBuf::from);
            let child = spawn(&["-c", file.to_str().unwrap()], variables, &log);
            let mut gateway = Self {
                child,
                address,
                admin,
                log,
                conf: file,
            };
            if is_up(&mut gateway.child, &gateway.admin) {
                return gateway;
            }
            let said = gateway.logged();
            assert!(
                said.contains("cannot listen"),
                "the gateway did not start: {said}"
            );
        }
        panic!("no free port in ten attempts");
    }

    /// Another process that takes over the listeners, as soon as this one is told to give them away.
    pub fn successor(&self) -> Self {
        let log = scratch("log");
        let child = spawn(&["-u", "-c", self.conf.to_str().unwrap()], &[], &log);
        Self {
            child,
            log,
            address: self.address.clone(),
            admin: self.admin.clone(),
            conf: self.conf.clone(),
        }
    }

    /// A gateway whose `openai` (text) and `groq` (chat) are at `upstream`.
    pub fn before(upstream: &str) -> Self {
        Self::start(&providers_at(upstream))
    }

    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for `text` in the log.
    pub fn wait_for_log(&self, text: &str) -> String {
        wait_for(|| Some(self.logged()).filter(|logged| logged.contains(text)))
            .unwrap_or_else(|| panic!("no {text:?} in {}", self.logged()))
    }

    /// Writes its conf anew, with other lines.
    pub fn rewrite(&self, lines: &str) {
        fs::write(
            &self.conf,
            conf_text(&[self.address.as_str()], &self.admin, lines),
        )
        .unwrap();
    }

    /// What Prometheus would scrape.
    pub fn metrics(&self) -> String {
        let mut operator = Client::connect(&self.admin);
        operator.send(request("GET", "/metrics", &[("connection", "close")], ""));
        operator.read().text().to_owned()
    }

    /// The sum of a metric's lines that have all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics();
        let lines = metrics.lines().filter(|line| {
            line.starts_with(name) && labels.iter().all(|label| line.contains(label))
        });
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    /// Bytes of memory that the process has.
    pub fn resident(&self) -> usize {
        let status = self.told("status");
        let found = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = found.unwrap().split_whitespace().next().unwrap();
        kilobytes.parse::<usize>().unwrap() << 10
    }

    /// The processor time that the process has used, and the most memory that it has had.
    pub fn reading(&self) -> Reading {
        Reading::of(&self.told("stat"), &self.told("status")).unwrap()
    }

    /// The descriptors that the process has. Its user alone cannot look into it: the tests' has to be root.
    pub fn descriptors(&self) -> Vec<u64> {
        let folder = format!("/proc/{}/fd", self.child.id());
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .map(|name| name.to_str().unwrap().parse().unwrap())
            .collect()
    }

    fn told(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }
}

/// The binary's process, which logs to `log`.
fn spawn(arguments: &[&str], variables: &[(&str, &str)], log: &Path) -> Child {
    let output = fs::File::create(log).unwrap();
    Command::new(BINARY)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A conf with `gateway:` lines beside the addresses. An `admin:` of theirs has `ADMIN` in the address's place.
///
/// It has no heartbeats unless they name them: Pingora's phases carry no stream that has, and the first of
/// [`client::ROADS`] is theirs.
pub fn conf_text(listen: &[&str], admin: &str, lines: &str) -> String {
    let socket = std::env::temp_dir().join(format!("completions-{admin}.sock"));
    let (socket, listen) = (socket.display(), listen.join("\n    - "));
    let own = match lines.contains("  admin: ") {
        true => String::new(),
        false => format!("  admin: {{ listen: \"{admin}\" }}\n"),
    };
    let lines = lines.replace("ADMIN", admin);
    let (timeouts, silent) = ("  timeouts: { ", "  timeouts: { heartbeat: none");
    let lines = match (lines.contains("heartbeat: "), lines.contains(timeouts)) {
        (true, _) => lines,
        (false, true) => lines.replacen(timeouts, &format!("{silent}, "), 1),
        (false, false) => format!("{silent} }}\n{lines}"),
    };
    format!("threads: 2\nupgrade_sock: {socket}\ngateway:\n  listen:\n    - {listen}\n{own}{lines}")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn providers_at(upstream: &str) -> String {
    format!(
        "  providers:\n    openai: {{ base_url: \"http://{upstream}/v1\" }}\n    groq: {{ base_url: \"http://{upstream}/openai/v1\" }}\n  default: {{ provider: openai, model: m }}\n"
    )
}

/// The value `find` gives in the end.
pub fn wait_for<T>(mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(found) = find() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// An address that nothing listens on, and that no neighbour is given by chance: the kernel takes the port of an unbound
/// socket from above these, so that between this test's look and the gateway's bind only the same range can collide.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(211);
    let free = (0..PORTS).find_map(|_| {
        let turn = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", FIRST_PORT + turn % PORTS);
        TcpListener::bind(&address).is_ok().then_some(address)
    });
    free.expect("a free port")
}

/// Below Linux' ephemeral ports.
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 20_000;

/// A new file name for this test.
pub fn scratch(kind: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}.{kind}", std::process::id());
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A new file that its owner alone can read.
pub fn secret_file(text: &str) -> PathBuf {
    let file = scratch("secret");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    file
}

/// Whether the process comes up: its operator's port says that all ports are open.
fn is_up(child: &mut Child, admin: &str) -> bool {
    let up = wait_for(|| match child.try_wait().unwrap() {
        Some(_) => Some(false),
        None => is_ready(admin).then_some(true),
    });
    up == Some(true)
}

fn is_ready(admin: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    // Its own words: another test's upstream may have taken the port.
    ask().is_ok_and(|answer| {
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nready\n")
    })
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_pingora-completions");
