//! The process: arguments, conf files, its way up and down, the operator's port.

use std::{
    fs::{self, Permissions},
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, mpsc},
};

use crate::support::{
    BINARY, Gateway, PATIENCE,
    client::{Client, ROADS, STREAMED, ask, post, request},
    free_address, scratch, secret_file,
    upstream::{After, DONE, LAST_CHUNK, STREAM, Upstream, chunk, event},
    wait_for,
};

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn check(conf: &str) -> Output {
    let file = scratch("conf.yaml");
    fs::write(&file, conf).unwrap();
    run(&["-t", "-c", file.to_str().unwrap()])
}

#[test]
fn every_conf_of_the_repository_is_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let output = Command::new(BINARY)
            .args(["-t", "-c", path.to_str().unwrap()])
            .env("OPENAI_API_KEY", "sk-x")
            .output()
            .unwrap();
        assert!(output.status.success(), "{path:?}: {output:?}");
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn a_wrong_conf_is_refused_with_file_line_and_path() {
    for (conf, told) in [
        ("gateway:\n  lisen: x\n", ":2: "),
        (
            "gateway:\n  default:\n    provider: nobody\n",
            ":3: gateway.default.provider: ",
        ),
        (
            "gateway:\n  providers:\n    openai:\n      api_key: env:NOT_SET_ANYWHERE\n",
            "NOT_SET_ANYWHERE",
        ),
        ("thread: 2\n", "thread"),
        ("threads: 0\n", ":1: threads: "),
        ("ca_file: /nowhere.pem\n", ":1: ca_file: "),
        (
            "gateway:\n  admin:\n    listen: \"0.0.0.0:8789\"\n",
            ":3: gateway.admin.listen: ",
        ),
        (
            "gateway:\n  admin:\n    token: sk-1234\n",
            ":3: gateway.admin.token: too easily guessed",
        ),
        (
            "gateway:\n  admin: { listen: none, token: \"\" }\n",
            "gateway.admin.token: too easily guessed",
        ),
        ("client_bind_to_ipv4: [ zz ]\n", ":1: client_bind_to_ipv4: "),
        // faults.md, P13: TLS keys in a file.
        (
            "upstream_debug_ssl_keylog: true\n",
            ":1: upstream_debug_ssl_keylog: ",
        ),
        (
            "gateway:\n  limits:\n    header_count: 257\n",
            ":3: gateway.limits.header_count: expected a number from 1 to 256",
        ),
        (
            "gateway:\n  limits:\n    header_seconds: 0\n",
            ":3: gateway.limits.header_seconds: expected seconds, from 1 to 3600",
        ),
        ("gateway: [\n", "conf.yaml"),
    ] {
        let output = check(conf);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(told),
            "{conf}: {said}"
        );
    }
    assert!(!run(&["-c", "/nowhere.yaml"]).status.success());
}

// faults.md, 5.11.
#[cfg(target_os = "linux")]
#[test]
fn a_crash_dumps_no_core() {
    let gateway = Gateway::start("");
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.child.id())).unwrap();
    let core = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let words: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(words, ["0", "0", "bytes"]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_allocator_has_its_settings_and_the_process_its_name() {
    const NAME: &str = "MIMALLOC_PAGE_FULL_RETAIN";
    let own = Gateway::start("");
    let told = Gateway::start_with("", &[(NAME, "2")]);
    for (gateway, full, reclaim) in [(own, "0", Some("-1")), (told, "2", None)] {
        let process = format!("/proc/{}", gateway.child.id());
        let name = fs::read_to_string(format!("{process}/comm")).unwrap();
        // The kernel keeps fifteen bytes of it.
        assert_eq!(name.trim_end(), "pingora-complet");
        // The process is closed to all but root.
        let Ok(variables) = fs::read(format!("{process}/environ")) else {
            continue;
        };
        let variables = String::from_utf8(variables).unwrap();
        let value = |name: &str| {
            let mut all = variables.split('\0');
            all.find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
        };
        assert_eq!(value(NAME), Some(full));
        assert_eq!(value("MIMALLOC_PAGE_RECLAIM_ON_FREE"), reclaim);
    }
}

#[test]
fn a_secret_of_the_conf_is_never_printed() {
    for conf in [
        "gateway:\n  providers:\n    openai: { api_key: sk-secret-1, base_url: 7 }\n",
        "threads: two\ngateway:\n  providers:\n    openai: { api_key: sk-secret-1 }\n",
        "gateway:\n  providers:\n    openai: sk-secret-1\n",
        "gateway:\n  providers:\n    openai:\n      api_key: [ sk-secret-1 ]\n",
    ] {
        let output = check(conf);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("conf.yaml:"),
            "{said}"
        );
        assert!(!said.contains("sk-secret-1"), "{conf}: {said}");
    }
}

#[test]
fn a_secret_that_turns_out_empty_is_refused() {
    let file = secret_file("\n");
    let output = check(&with_key_file(&file));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("gateway.providers.openai.api_key"),
        "{said}"
    );
}

fn with_key_file(file: &Path) -> String {
    let file = file.display();
    format!("gateway:\n  providers:\n    openai:\n      api_key: \"file:{file}\"\n")
}

// faults.md, secrets.
#[test]
fn a_file_of_a_secret_that_others_can_read_is_refused() {
    let file = secret_file("sk-secret-1\n");
    // Kubernetes mounts secrets as links.
    let link = scratch("link");
    symlink(&file, &link).unwrap();
    let conf = with_key_file(&link);
    assert!(check(&conf).status.success());
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let output = check(&conf);
    let said = String::from_utf8(output.stderr).unwrap();
    let told = format!(
        "`{}` is open to others, as its mode is 0644",
        link.display()
    );
    assert!(!output.status.success() && said.contains(&told), "{said}");
    assert!(!said.contains("sk-secret-1"));
    assert!(
        check(&(conf + "  secret_file_mode: \"0644\"\n"))
            .status
            .success()
    );
}

#[test]
fn a_secret_in_plain_text_is_warned_of_without_its_value() {
    let conf = "gateway:\n  providers:\n    openai: { api_key: sk-secret-1 }\n";
    let output = check(conf);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(
        said.contains("conf.yaml:3: gateway.providers.openai.api_key: a secret in plain text"),
        "{said}"
    );
    assert!(!said.contains("sk-secret-1"));
}

#[test]
fn a_busy_port_ends_the_process_with_a_clear_message() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = scratch("conf.yaml");
    fs::write(
        &file,
        format!("gateway:\n  listen: {address}\n  admin: {{ listen: none }}\n"),
    )
    .unwrap();
    let output = run(&["-c", file.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
}

#[test]
fn two_listeners_on_one_address_end_the_process_too() {
    let address = crate::support::free_address();
    let file = scratch("conf.yaml");
    let conf = format!("gateway:\n  listen: {address}\n  admin: {{ listen: \"{address}\" }}\n");
    fs::write(&file, conf).unwrap();
    let output = run(&["-c", file.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("cannot listen"),
        "{said}"
    );
}

#[test]
fn sigterm_lets_streams_end_and_then_ends_the_process() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(STREAM).unwrap();
        stream.write_all(&chunk(event(" a", None))).unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        stream
            .write_all(&chunk(event("", Some("stop")) + DONE))
            .unwrap();
        stream.write_all(LAST_CHUNK).unwrap();
        After::Keep
    });
    for road in ROADS {
        let mut gateway = Gateway::before(&upstream.address);
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        client.read_chunk().unwrap();
        gateway.signal("TERM");
        gateway.wait_for_log("draining");
        go.send(()).unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
            rest.extend(piece);
        }
        assert!(rest.ends_with(DONE.as_bytes()));
        let status = wait_for(|| gateway.child.try_wait().unwrap()).expect("the process goes on");
        assert!(status.success());
    }
}

/// The thread that writes the log has to start behind the fork.
#[test]
fn a_daemon_writes_its_log_to_its_end() {
    let (address, log, pid) = (free_address(), scratch("log"), scratch("pid"));
    let conf = format!(
        "pid_file: {}\nerror_log: {}\nupgrade_sock: {}\ngateway:\n  listen: {address}\n  admin: {{ listen: none }}\n",
        pid.display(),
        log.display(),
        scratch("sock").display()
    );
    let file = scratch("conf.yaml");
    fs::write(&file, conf).unwrap();
    assert!(run(&["-d", "-c", file.to_str().unwrap()]).status.success());
    let daemon = Daemon(pid);
    wait_for(|| TcpStream::connect(&address).ok()).expect("it does not listen");
    assert_eq!(ask(&address, &[], "no JSON").status, 400);
    let logged = |text: &str| {
        let read = || fs::read_to_string(&log).ok();
        wait_for(|| read().filter(|logged| logged.contains(text)))
    };
    assert!(logged("failure=invalid_request").is_some());
    // It listens before it heeds signals, and a machine may be busy in between.
    wait_for(|| daemon.heeds_sigterm().then_some(())).expect("it heeds no signal");
    drop(daemon);
    assert!(logged("] drained\n").is_some());
}

/// A process of its own, by the file with its id; told to end when dropped.
struct Daemon(PathBuf);

impl Daemon {
    fn id(&self) -> String {
        let id = fs::read_to_string(&self.0).unwrap_or_default();
        id.trim().to_owned()
    }

    fn heeds_sigterm(&self) -> bool {
        const SIGTERM: u64 = 15;
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (SIGTERM - 1) & 1 == 1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.id()).status();
    }
}

#[test]
fn the_operator_has_health_readiness_and_metrics() {
    let gateway = Gateway::start("");
    ask(&gateway.address, &[], "{}");
    // A request is counted after its answer has left.
    gateway.wait_for_log("failure=invalid_request");
    let mut operator = Client::connect(&gateway.admin);
    for (path, status, text) in [
        ("/healthz", 200, "ok\n"),
        ("/readyz", 200, "ready\n"),
        (
            "/metrics",
            200,
            r#"completions_requests_total{kind="own",provider="none",status="400"} 1"#,
        ),
        ("/other", 404, "/healthz"),
    ] {
        operator.send(request("GET", path, &[], ""));
        let answer = operator.read();
        assert_eq!(answer.status, status);
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}

// G11: who has not the token is told nothing and changes nothing.
#[test]
fn the_operator_s_port_asks_for_its_token() {
    const TOKEN: &str = "9f86d081884c7d659a2feaa0c55ad015";
    const NEXT: &str = "5ad0159a2feaa0c59f86d081884c7d65";
    let lines = |token: &str| format!("  admin: {{ listen: \"ADMIN\", token: \"{token}\" }}\n");
    let gateway = Gateway::start(&lines(TOKEN));
    let mut operator = Client::connect(&gateway.admin);
    let mut ask = |method: &str, path: &str, shown: &[&str]| {
        let shown: Vec<_> = shown.iter().map(|one| ("authorization", *one)).collect();
        operator.send(request(method, path, &shown, ""));
        operator.read()
    };
    let (right, next) = (format!("Bearer {TOKEN}"), format!("Bearer {NEXT}"));
    for path in ["/metrics", "/targets", "/other"] {
        for shown in [
            &[][..],
            &[TOKEN],
            &["Bearer "],
            &["Basic 9f86d081884c7d659a2feaa0c55ad015"],
            &[&right[..right.len() - 1]],
            &[&next],
            &[&right, &right],
        ] {
            let answer = ask("GET", path, shown);
            assert_eq!(answer.status, 401, "{path} {shown:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(!answer.text().contains("completions_"));
        }
    }
    assert_eq!(ask("POST", "/reload", &[]).status, 401);
    for (path, status) in [("/metrics", 200), ("/targets", 200), ("/other", 404)] {
        assert_eq!(ask("GET", path, &[&right]).status, status);
    }
    // Probes know no secrets.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask("GET", path, &[]).status, 200);
    }
    gateway.rewrite(&lines(NEXT));
    assert_eq!(ask("POST", "/reload", &[&right]).status, 200);
    assert_eq!(ask("GET", "/metrics", &[&right]).status, 401);
    assert_eq!(ask("GET", "/metrics", &[&next]).status, 200);
    // A weak one changes nothing.
    gateway.rewrite(&lines("changeme"));
    let refused = ask("POST", "/reload", &[&next]);
    assert_eq!(refused.status, 422);
    assert!(!refused.text().contains("changeme"), "{}", refused.text());
    assert_eq!(ask("GET", "/metrics", &[&next]).status, 200);
    for token in [TOKEN, NEXT, "changeme"] {
        assert!(!gateway.logged().contains(token));
    }
}

#[test]
fn providers_are_listed_one_a_line_and_for_machines() {
    let table = String::from_utf8(run(&["--providers"]).stdout).unwrap();
    let json: Vec<serde_json::Value> =
        serde_json::from_slice(&run(&["--providers=json"]).stdout).unwrap();
    assert_eq!(table.lines().count(), json.len());
    for (line, row) in table.lines().zip(&json) {
        assert_eq!(line.split_whitespace().next(), row["name"].as_str());
    }
    assert!(json.iter().any(|row| row["name"] == "openai"));
}
