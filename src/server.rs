//! The process around the filter: conf, listeners, the operator's port, the way down.

use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use pingora::{
    listeners::{L4BufferSettings, ListenerConfig},
    prelude::{Opt, Server},
    server::{RunArgs, configuration::ServerConf},
    services::{background::background_service, listening::Service},
};

use crate::{
    admin::{Admin, Lock},
    config::{Config, ConfigError, Surroundings, admin::is_loopback, source::Source},
    door::{Door, Watch},
    downstream::KEEPALIVE_SECONDS,
    drain::{Drain, Signals},
    emulator,
    log_queue::{LogQueue, Start},
    proxy::Gateway,
    reload::{Fixed, Hangup, Reloader, Reread},
    resolver::Names,
    slack::Slack,
};

/// A conf file's text and its name; `None` of it is a gateway on 127.0.0.1:8787 with every provider at its public URL.
#[derive(Clone, Copy, Debug)]
pub struct Conf<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

/// A gateway that can be started: its conf was read, and every name and secret in it resolved.
#[derive(Debug)]
pub struct Ready {
    config: Config,
    conf: ServerConf,
}

impl Ready {
    /// Reads a conf: `gateway:` and Pingora's own keys.
    pub fn read(
        conf: Option<Conf<'_>>,
        surroundings: &dyn Surroundings,
    ) -> Result<Self, ConfigError> {
        let Some(Conf { file, text }) = conf else {
            return Ok(Self {
                config: Config::default(),
                conf: ServerConf::default(),
            });
        };
        let source = Source {
            file,
            text,
            server_keys: &server_keys(),
            surroundings,
            secret_file_mode: 0,
        };
        let config = Config::read(&source)?;
        // Not `ServerConf::from_yaml`, whose error holds the whole file with its keys.
        let conf: ServerConf =
            serde_yaml::from_str(text).map_err(|error| source.syntax_error(&error))?;
        let refused =
            |error: Box<pingora::Error>| source.error(&[], error.etype().as_str().to_owned());
        let conf = conf.validate().map_err(refused)?;
        check_server(&conf, &source)?;
        Ok(Self { config, conf })
    }

    /// Runs until the process is told to stop; returns only if it cannot start.
    /// `reread` reads the conf again, for a reload; `log` is where the process's logger puts its lines, which are written by
    /// a thread of their own from here on.
    pub fn run(mut self, options: Opt, reread: Reread, log: LogQueue) -> Result<(), String> {
        let fixed = self.fixed();
        if !options.upgrade {
            self.probe()?;
        }
        // Pingora sleeps this long after SIGTERM, come what may; `Drain` ends the process before.
        let limit = self.conf.grace_period_seconds.unwrap_or(DRAIN_SECONDS);
        self.conf.grace_period_seconds = Some(limit.saturating_add(MARGIN_SECONDS));
        // One for a phase that asks again after a dead pooled connection, and two more.
        self.conf.max_retries = 3;
        let long = &mut self.conf.fast_timeout_to_tokio_threshold_seconds;
        if *long == ServerConf::default().fast_timeout_to_tokio_threshold_seconds {
            *long = Some(LONG_TIMER_SECONDS);
        }
        let options = Opt {
            conf: None,
            ..options
        };
        let mut server = Server::new_with_opt_and_conf(options, self.conf);
        server.bootstrap();
        let conf = server.configuration.clone();
        let gateway = Gateway::new(self.config, &conf).map_err(|error| error.to_string())?;
        let reloader = Arc::new(Reloader::new(gateway.clone(), reread, fixed, Vec::new()));
        let leaving = gateway.edition.load().upstream.leaving().clone();
        server.add_service(background_service(
            "drain",
            Drain {
                metrics: gateway.edition.load().state.metrics.clone(),
                leaving: leaving.clone(),
                limit: Duration::from_secs(limit),
            },
        ));
        let dropped = gateway.edition.load().state.metrics.log_dropped.clone();
        add_services(&mut server, gateway, &reloader);
        if conf.daemon {
            server.add_service(background_service("log", Start { log, dropped }));
        } else {
            log.start(&dropped);
        }
        let shutdown_signal = Box::new(Signals {
            leaving,
            upgrade_sock: conf.upgrade_sock.clone(),
        });
        server.run(RunArgs { shutdown_signal });
        log::logger().flush();
        std::process::exit(0)
    }

    /// What a process takes from its conf at its start alone.
    pub(crate) fn fixed(&self) -> Fixed {
        let server = serde_yaml::to_value(&self.conf).and_then(serde_yaml::from_value);
        let server: BTreeMap<String, serde_yaml::Value> = server.unwrap_or_default();
        let server = server
            .into_iter()
            .map(|(key, value)| (key, format!("{value:?}")));
        let own = [
            (
                "gateway.listen",
                format!("{:?} {:?}", self.config.listen, self.config.tls.keys()),
            ),
            ("gateway.admin.listen", format!("{:?}", self.config.admin)),
            ("gateway.emulator", format!("{:?}", self.config.emulator)),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        server.chain(own).collect()
    }

    pub(crate) fn into_config(self) -> Config {
        self.config
    }

    /// Binds every address once. Later, a busy one would leave a process that lives but does not listen.
    fn probe(&self) -> Result<(), String> {
        let emulator = self
            .config
            .emulator
            .as_ref()
            .map(|emulator| &emulator.listen);
        let addresses = self
            .config
            .listen
            .iter()
            .chain(&self.config.admin)
            .chain(emulator);
        // All at the same time: two of them may be one.
        let bind = |address| {
            TcpListener::bind(address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))
        };
        let listeners: Result<Vec<_>, _> = addresses.map(bind).collect();
        listeners.map(drop)
    }
}

/// What the framework would only find out by a panic, and what would lay secrets open.
fn check_server(conf: &ServerConf, source: &Source<'_>) -> Result<(), ConfigError> {
    if conf.threads == 0 {
        return Err(source.error(&["threads"], "at least 1 is needed".to_owned()));
    }
    if let Some(file) = &conf.ca_file {
        let unread = |why| source.error(&["ca_file"], format!("`{file}` cannot be read: {why}"));
        source.surroundings.file(file).map_err(unread)?;
    }
    if conf.upstream_debug_ssl_keylog {
        let message =
            "the keys of TLS connections are written to no file; only `false` is accepted";
        return Err(source.error(&["upstream_debug_ssl_keylog"], message.to_owned()));
    }
    for (key, addresses) in [
        ("client_bind_to_ipv4", &conf.client_bind_to_ipv4),
        ("client_bind_to_ipv6", &conf.client_bind_to_ipv6),
    ] {
        if let Some(address) = addresses
            .iter()
            .find(|address| address.parse::<IpAddr>().is_err())
        {
            return Err(source.error(&[key], format!("`{address}` is no IP address")));
        }
    }
    Ok(())
}

fn add_services(server: &mut Server, gateway: Gateway, reloader: &Arc<Reloader>) {
    let conf = server.configuration.clone();
    let editions = gateway.edition.clone();
    let edition = editions.load_full();
    let config = &edition.state.config;
    let mut proxy = Service::new("completions".to_owned(), Door::new(gateway.clone(), &conf));
    for address in &config.listen {
        proxy.add_listener(ListenerConfig::tcp(address).l4_buffer(buffers()));
    }
    server.add_service(proxy);
    if let Some(settings) = &config.emulator {
        server.add_service(emulator::service(settings, edition.upstream.leaving()));
    }
    // Without random numbers the gateway itself is not there.
    if let (Some(address), Some(lock)) = (&config.admin, Lock::try_new()) {
        let admin = Admin {
            edition: editions.clone(),
            lock,
            is_private: is_loopback(address),
            listen: config.listen.clone(),
            metrics: edition.state.metrics.clone(),
            health: edition.state.health.clone(),
            tokens: gateway.tokens.clone(),
            reloader: reloader.clone(),
        };
        let mut service = Service::new("admin".to_owned(), admin);
        service.threads = Some(1);
        service.add_tcp(address);
        server.add_service(service);
    }
    server.add_service(background_service("names", Names(gateway.clone())));
    server.add_service(background_service("hangup", Hangup(reloader.clone())));
    server.add_service(background_service("slack", Slack));
    if !config.tls.is_empty() {
        let watch = Watch { edition: editions };
        server.add_service(background_service("certificates", watch));
    }
}

/// Of a client's connection. Pingora's own 64 KiB for reading would be held, and filled with zeros, for each that is open;
/// what is larger than this is read past it.
fn buffers() -> L4BufferSettings {
    L4BufferSettings::default().read(READ_BUFFER_BYTES)
}

/// Pingora's own keys in a conf file.
fn server_keys() -> Vec<String> {
    let keys: Result<BTreeMap<String, serde_yaml::Value>, _> =
        serde_yaml::to_value(ServerConf::default()).and_then(serde_yaml::from_value);
    keys.map(|keys| keys.into_keys().collect())
        .unwrap_or_default()
}

/// Most heads are shorter.
const READ_BUFFER_BYTES: usize = 1 << 10;
/// Longest wait for streams in flight; `grace_period_seconds` of the conf overrides it.
const DRAIN_SECONDS: u64 = 300;
/// How much later than `Drain` Pingora would end the process itself.
const MARGIN_SECONDS: u64 = 60;
/// Timers for longer than this are Tokio's, which go with what they were for; `fast_timeout_to_tokio_threshold_seconds` of the
/// conf overrides it. Pingora's own are a little faster, which counts for a client's next request, and stay in its list until
/// their time comes: a few bytes each, but those of a wave lie all over its memory and hold it back.
const LONG_TIMER_SECONDS: u64 = KEEPALIVE_SECONDS;
