//! The ways to the upstream: each a process of its own, and how it is asked.

use std::{
    cell::RefCell,
    env, fs,
    net::{TcpListener, TcpStream},
    ops::ControlFlow,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use pingora_completions::bench::{
    Asked, Endpoint, Load, Rate, Reading, Tally, Target, Template, drive, template,
};

use crate::{peers, scenario::Scenario};

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As the upstream is.
    PassesOn,
    Portkey,
    LiteLlm,
    Gateway,
}

pub struct Way {
    pub name: &'static str,
    pub kind: Kind,
    pub address: String,
    process: RefCell<Child>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Way {
    /// Waits until it listens. Err: it does not.
    pub fn start(
        name: &'static str,
        kind: Kind,
        address: String,
        mut command: Command,
    ) -> Result<Self, String> {
        // The access log is on, as a user has it; only its reader is missing.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().map_err(|error| error.to_string())?;
        let way = Self {
            name,
            kind,
            address,
            process: RefCell::new(process),
        };
        for _ in 0..STARTS {
            thread::sleep(LOOK);
            if let Ok(Some(status)) = way.process.borrow_mut().try_wait() {
                return Err(format!("{name} ended at its start: {status}"));
            }
            if TcpStream::connect(&way.address).is_ok() {
                return Ok(way);
            }
        }
        Err(format!("{name} does not listen"))
    }

    pub fn stop(&self) {
        let mut process = self.process.borrow_mut();
        let _ = process.kill();
        let _ = process.wait();
    }

    /// Whether a short turn would be over before its first answers.
    pub fn is_slow(&self) -> bool {
        matches!(self.kind, Kind::Portkey | Kind::LiteLlm)
    }

    /// It is Linux that tells; elsewhere there is none.
    pub fn reading(&self) -> Option<Reading> {
        reading(&self.process.borrow().id().to_string())
    }
}

/// Of a process's id, or of `self`.
pub fn reading(id: &str) -> Option<Reading> {
    let text = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).ok();
    Reading::of(&text("stat")?, &text("status")?)
}

/// The upstream itself first, then the bare proxy, those of others, and the gateway. Says which of the others are missing.
pub fn start() -> Vec<Way> {
    let this = env::current_exe().unwrap();
    let (upstream, bare) = (free_address(), free_address());
    let mut direct = Command::new(&this);
    direct.args(["--upstream", &upstream]);
    let mut bare_proxy = Command::new(&this);
    bare_proxy.args(["--bare", &bare, &upstream]);
    let mut ways = vec![
        Way::start("direct", Kind::PassesOn, upstream.clone(), direct).unwrap(),
        Way::start("bare Pingora", Kind::PassesOn, bare, bare_proxy).unwrap(),
    ];
    for other in peers::start(&upstream) {
        match other {
            Ok(other) => ways.push(other),
            Err(missing) => println!("{missing}"),
        }
    }
    ways.push(gateway(&upstream));
    ways
}

fn gateway(upstream: &str) -> Way {
    let listen = free_address();
    let conf = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("load.yaml");
    let provider = |name: &str, base: &str, more: &str| {
        format!("    {name}: {{ base_url: \"http://{upstream}{base}\", api_key: sk-load{more} }}\n")
    };
    let providers = [
        provider("openai", "/v1", ""),
        provider("single", "/v1", ", refuses: [\"prompt: list\"]"),
        provider("flaky", "/flaky/v1", ""),
        provider("paced", "/paced/v1", ", dialect: openai"),
        provider("hundred", "/crowd/10/v1", ", dialect: openai"),
        provider(
            "hundred-anthropic",
            "/crowd/10/v1",
            ", dialect: anthropic, auth: bearer",
        ),
        provider("thousand", "/crowd/100/v1", ", dialect: openai"),
        provider("five-thousand", "/crowd/500/v1", ", dialect: openai"),
        provider("anthropic", "/v1", ""),
        provider("google", "/v1beta", ""),
    ];
    let text = format!(
        "threads: 1\ngateway:\n  listen: {listen}\n  admin: {{ listen: none }}\n  default: {{ provider: openai }}\n  providers:\n{}",
        providers.concat()
    );
    fs::write(&conf, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pingora-completions"));
    command.args(["-c", conf.to_str().unwrap()]);
    Way::start("gateway", Kind::Gateway, listen, command).unwrap()
}

pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// One way, asked one thing.
pub struct Asking<'a> {
    pub way: &'a Way,
    target: Arc<Target>,
    pub asked: Asked,
    pub abort_after: Option<u32>,
    rate: Option<Rate>,
    lasts: Duration,
}

impl<'a> Asking<'a> {
    /// `None`: the way cannot do that. `upstream` is its address.
    pub async fn new(way: &'a Way, scenario: &Scenario, upstream: &str) -> Option<Self> {
        let (path, more) = match way.kind {
            Kind::Portkey | Kind::LiteLlm if !scenario.is_one_completion => return None,
            Kind::PassesOn => (scenario.path, Vec::new()),
            Kind::Gateway => ("", vec![scenario.header.to_owned()]),
            Kind::LiteLlm => ("", Vec::new()),
            Kind::Portkey => {
                let base = format!("http://{upstream}{}/v1", scenario.path);
                let custom = format!("x-portkey-custom-host: {base}");
                ("", vec!["x-portkey-provider: openai".to_owned(), custom])
            }
        };
        let endpoint = Endpoint::parse(&format!("http://{}{path}/v1", way.address)).unwrap();
        let headers: Vec<_> = std::iter::once("authorization: Bearer sk-load".to_owned())
            .chain(more)
            .map(|text| template::header(&text).unwrap())
            .collect();
        let template = Template::new(&endpoint, &scenario.question, &headers);
        Some(Self {
            way,
            target: Target::find(&endpoint, template, None).await.unwrap(),
            asked: scenario.question.asked(),
            abort_after: scenario.abort_after,
            rate: scenario.rate,
            lasts: scenario.lasts,
        })
    }

    /// Err: what is under way takes far longer, and was left.
    pub async fn load(&self, time: Duration, connections: usize) -> Result<Tally, Tally> {
        let mut load = Load {
            abort_after: self.abort_after,
            ..Load::closed(self.asked, connections, time)
        };
        load.schedule.rate = self.rate;
        self.drive(load, time + self.lasts + LONGER).await
    }

    /// What fails at a way of others is told, not ours to mend.
    pub async fn drive(&self, load: Load, longest: Duration) -> Result<Tally, Tally> {
        let (begun, mut left) = (Instant::now(), false);
        let tally = drive(&self.target, load, &mut |_| {
            left = begun.elapsed() > longest;
            match left {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await;
        if !self.lasts.is_zero() {
            // The crowds of all ways together are more connections than a process may have.
            self.target.idle.lock().unwrap().clear();
        }
        let is_ours = self.way.kind == Kind::Gateway;
        assert!(!is_ours || tally.failed() == 0, "{:?}", tally.failures);
        if left { Err(tally) } else { Ok(tally) }
    }
}

/// What a request may take beyond its turn.
const LONGER: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(10);
/// A minute: LiteLLM takes its time.
const STARTS: u32 = 6_000;
