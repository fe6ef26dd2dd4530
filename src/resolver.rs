//! Names to addresses, off the way of a request.
//!
//! Names are resolved here because Pingora's own way blocks a worker and panics on a name without an address. The names of the
//! conf are looked up when it comes into use and again before their addresses grow old; any other is when a client first names
//! it, which waits, and from then on in the background while it is used. A resolver that fails, or says nothing, changes
//! nothing at first: the last good answer stays, for as long as [`stale`] says.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::{runtime::Handle, sync::watch, time::timeout};

use crate::{
    error::{Error, Kind},
    provider::{Base, base::Scheme},
    proxy::Gateway,
};

/// Addresses by host.
pub struct Resolver {
    hosts: ArcSwap<HashMap<String, Arc<Host>>>,
    look_up: LookUp,
    /// Where the time of all hosts begins.
    started: Instant,
}

/// Asks for a name's addresses; nothing: it has none, or nobody answers.
type LookUp = Arc<dyn Fn(String) -> Answer + Send + Sync>;
type Answer = Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send>>;

struct Host {
    name: String,
    /// The last good answer; empty: there was none.
    addresses: ArcSwap<Vec<IpAddr>>,
    /// Which of them is in use.
    turn: AtomicUsize,
    /// When to ask again, and when the last good answer came: milliseconds since the resolver's start.
    due: AtomicU64,
    answered: AtomicU64,
    /// Since when no look-up has had an answer; [`NEVER`]: the last one had.
    failing: AtomicU64,
    /// A look-up runs.
    asking: AtomicBool,
    /// The conf names it.
    kept: AtomicBool,
    /// Counts the look-ups that have ended.
    rounds: watch::Sender<u64>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::asking(Arc::new(|name| Box::pin(by_system(name))))
    }
}

impl Resolver {
    fn asking(look_up: LookUp) -> Self {
        Self {
            hosts: ArcSwap::default(),
            look_up,
            started: Instant::now(),
        }
    }

    /// The address of `base`: its own, or the one in use of its name. Waits, for `patience` at most, if none is known, or only
    /// one that nobody has used for long.
    pub async fn resolve(
        self: &Arc<Self>,
        base: &Base,
        patience: Duration,
    ) -> Result<SocketAddr, Error> {
        let at = |address| SocketAddr::new(address, base.port);
        if let Ok(address) = base.host.parse::<IpAddr>() {
            return Ok(at(address));
        }
        let host = self.host(&base.host);
        let (now, stale) = (self.now(), stale(base));
        let known = host.usable(now, stale);
        let is_due = host.due.load(Relaxed) <= now;
        let is_old = now.saturating_sub(host.answered.load(Relaxed)) >= OLD;
        let address = match known {
            Some(_) if is_due && is_old => self.wait(&host, patience, stale).await.or(known),
            Some(_) if is_due => {
                self.ask(&host);
                known
            }
            None if is_due || host.asking.load(Relaxed) => self.wait(&host, patience, stale).await,
            // Nobody could say a moment ago.
            Some(_) | None => known,
        };
        let unknown = "The provider's host name could not be resolved.";
        address
            .map(at)
            .ok_or_else(|| Error::new(Kind::Dns, unknown))
    }

    /// `base` took no connection: its host's next address has its turn.
    pub fn turn(&self, base: &Base) {
        if let Some(host) = self.hosts.load().get(&base.host) {
            host.turn.fetch_add(1, Relaxed);
        }
    }

    /// Looks up these names if it is time to, and forgets them only when others are named here.
    pub fn keep(self: &Arc<Self>, names: &BTreeSet<&str>) {
        for host in self.hosts.load().values() {
            host.kept.store(names.contains(&*host.name), Relaxed);
        }
        let soon = self.now() + millis(LOOK * 2);
        for name in names.iter().filter(|name| name.parse::<IpAddr>().is_err()) {
            let host = self.host(name);
            host.kept.store(true, Relaxed);
            if host.due.load(Relaxed) <= soon {
                self.ask(&host);
            }
        }
    }

    fn host(&self, name: &str) -> Arc<Host> {
        if let Some(host) = self.hosts.load().get(name) {
            return host.clone();
        }
        let new = Arc::new(Host {
            name: name.to_owned(),
            addresses: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            due: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failing: AtomicU64::new(NEVER),
            asking: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            rounds: watch::Sender::new(0),
        });
        self.hosts.rcu(|hosts| {
            let mut hosts = HashMap::clone(hosts);
            if hosts.len() >= MAX_HOSTS {
                hosts.retain(|_, host| host.kept.load(Relaxed));
            }
            hosts.entry(name.to_owned()).or_insert_with(|| new.clone());
            hosts
        });
        // Another request's, if that was quicker.
        let hosts = self.hosts.load();
        hosts.get(name).cloned().unwrap_or(new)
    }

    /// Looks `host` up in a task of its own, unless one does already: a request that leaves stops nothing.
    fn ask(self: &Arc<Self>, host: &Arc<Host>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if host.asking.swap(true, Relaxed) {
            return;
        }
        let (resolver, host) = (self.clone(), host.clone());
        runtime.spawn(async move {
            let asked = timeout(LIMIT, (resolver.look_up)(host.name.clone()));
            host.take(asked.await.unwrap_or_default(), resolver.now());
        });
    }

    async fn wait(
        self: &Arc<Self>,
        host: &Arc<Host>,
        patience: Duration,
        stale: Duration,
    ) -> Option<IpAddr> {
        let mut rounds = host.rounds.subscribe();
        self.ask(host);
        // Whichever way it ends, what is known by then counts.
        let _ = timeout(patience, rounds.changed()).await;
        host.usable(self.now(), stale)
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl Host {
    fn address(&self) -> Option<IpAddr> {
        let addresses = self.addresses.load();
        let turn = self.turn.load(Relaxed) % addresses.len().max(1);
        addresses.get(turn).copied()
    }

    /// The address in use, unless look-ups have failed for longer than `stale`.
    fn usable(&self, now: u64, stale: Duration) -> Option<IpAddr> {
        let failing = now.saturating_sub(self.failing.load(Relaxed));
        self.address().filter(|_| failing <= millis(stale))
    }

    /// Takes an answer. The address in use stays so if it is in there: its connections are warm, and the order of an answer
    /// means nothing.
    fn take(&self, addresses: Vec<IpAddr>, now: u64) {
        let pause = match addresses.is_empty() {
            true => RETRY,
            false => FRESH,
        };
        if addresses.is_empty() {
            let first = self.failing.load(Relaxed).min(now);
            self.failing.store(first, Relaxed);
        } else {
            let used = self.address();
            let turn = addresses.iter().position(|address| Some(*address) == used);
            self.addresses.store(Arc::new(addresses));
            self.turn.store(turn.unwrap_or_default(), Relaxed);
            self.answered.store(now, Relaxed);
            self.failing.store(NEVER, Relaxed);
        }
        self.due.store(now + millis(pause), Relaxed);
        self.asking.store(false, Relaxed);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts.load().keys()).finish()
    }
}

/// Keeps the addresses of the conf's hosts fresh.
pub struct Names(pub Gateway);

#[async_trait]
impl BackgroundService for Names {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            self.0.edition.load().look_up();
            tokio::select! {
                _ = shutdown.changed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

async fn by_system(name: String) -> Vec<IpAddr> {
    let found = tokio::net::lookup_host((name, 0)).await;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.into_iter().flatten() {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    addresses
}

/// How long the last good answer is used while look-ups fail. Behind TLS the host has to show its certificate, wherever it is
/// called, so that an old address costs a connection at most, and a gateway outlives its resolver: "The recommended maximum
/// stale timer is between 1 and 3 days", RFC 8767, section 5. Without, what has the address by then gets key and prompt.
fn stale(base: &Base) -> Duration {
    match base.scheme {
        Scheme::Https => Duration::from_secs(86_400),
        Scheme::Http => Duration::from_secs(60),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a name's addresses are used without asking again. The system's resolver does not tell how long they hold.
const FRESH: Duration = Duration::from_secs(30);
/// When to ask again after no answer.
const RETRY: Duration = Duration::from_secs(2);
/// Milliseconds after which an address is not used before it was asked for again.
const OLD: u64 = 600_000;
/// Later than any time.
const NEVER: u64 = u64::MAX;
/// How often it is looked whose time has come.
const LOOK: Duration = Duration::from_secs(5);
/// How long the system's resolver may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Names come from the conf, and from the hosts that it allows: a long list of those must not fill the memory.
const MAX_HOSTS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn base(url: &str) -> Base {
        Base::try_new(url, "base_url").unwrap()
    }

    /// A resolver that gives these answers, one after the other, and none at the end.
    fn answering(answers: &[&[&str]]) -> Arc<Resolver> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        let answers: Vec<Vec<IpAddr>> = answers.iter().rev().map(parse).collect();
        let answers = Mutex::new(answers);
        Arc::new(Resolver::asking(Arc::new(move |_| {
            let answer = answers.lock().unwrap().pop().unwrap_or_default();
            Box::pin(async move { answer })
        })))
    }

    async fn address(resolver: &Arc<Resolver>) -> Option<String> {
        let host = base("http://two.example:1");
        let resolved = resolver.resolve(&host, SECOND).await.ok()?;
        Some(resolved.ip().to_string())
    }

    /// Makes it time for a look-up, and waits for its end.
    async fn look_again(resolver: &Arc<Resolver>) {
        let host = resolver.host("two.example");
        let mut rounds = host.rounds.subscribe();
        host.due.store(0, Relaxed);
        resolver.keep(&BTreeSet::from(["two.example"]));
        rounds.changed().await.unwrap();
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer_and_names_are_remembered() {
        let resolver = Arc::new(Resolver::default());
        let literal = resolver.resolve(&base("http://127.0.0.1:81"), SECOND).await;
        assert_eq!(literal.unwrap(), "127.0.0.1:81".parse().unwrap());
        let local = base("http://localhost:82");
        let first = resolver.resolve(&local, SECOND).await.unwrap();
        assert!(first.ip().is_loopback());
        // Nothing is left to wait for: the answer comes from memory.
        let again = resolver.resolve(&local, Duration::ZERO).await.unwrap();
        assert_eq!(again, first);
    }

    #[tokio::test]
    async fn a_failed_connection_turns_to_the_next_address() {
        let resolver = answering(&[&["127.0.0.1", "127.0.0.2"]]);
        for expected in ["127.0.0.1", "127.0.0.2", "127.0.0.1"] {
            assert_eq!(address(&resolver).await.unwrap(), expected);
            resolver.turn(&base("http://two.example:1"));
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_and_asked_for_again_later() {
        let resolver = answering(&[&[], &["127.0.0.1"]]);
        assert_eq!(address(&resolver).await, None);
        // Not at once: a burst of calls is no burst of look-ups.
        assert_eq!(address(&resolver).await, None);
        resolver.host("two.example").due.store(0, Relaxed);
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.1");
    }

    #[tokio::test]
    async fn the_last_good_answer_stays_when_the_resolver_fails() {
        let resolver = answering(&[&["127.0.0.1"], &[], &["127.0.0.2"]]);
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.1");
        look_again(&resolver).await;
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.1");
        look_again(&resolver).await;
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.2");
    }

    // faults.md, row 1: it has an end, sooner where nothing shows that the address is still the host's.
    #[tokio::test]
    async fn the_last_good_answer_of_a_resolver_that_goes_on_failing_has_an_end() {
        let day = 86_400;
        for (url, held, over) in [
            ("http://two.example:1", 59, 61),
            ("https://two.example:1", day - 1, day + 1),
        ] {
            let resolver = answering(&[&["127.0.0.1"], &[], &["127.0.0.2"]]);
            let later = |seconds: u64| {
                let ago = Duration::from_secs(seconds);
                Arc::new(Resolver {
                    hosts: ArcSwap::new(resolver.hosts.load_full()),
                    look_up: resolver.look_up.clone(),
                    started: resolver.started.checked_sub(ago).unwrap(),
                })
            };
            let host = resolver.host("two.example");
            let ask = async |resolver: &Arc<Resolver>| {
                // No look-up is due: what is known counts.
                host.due.store(u64::MAX, Relaxed);
                resolver.resolve(&base(url), SECOND).await.ok()
            };
            address(&resolver).await.unwrap();
            // What nobody has asked for is not failing.
            assert!(ask(&later(2 * day)).await.is_some(), "{url}");
            look_again(&resolver).await;
            assert!(ask(&later(held)).await.is_some(), "{url}");
            assert!(ask(&later(over)).await.is_none(), "{url}");
            look_again(&resolver).await;
            assert!(ask(&later(2 * day)).await.is_some(), "{url}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_stays_in_use_whatever_the_order_of_the_next_answer() {
        let resolver = answering(&[
            &["127.0.0.1", "127.0.0.2"],
            &["127.0.0.3", "127.0.0.2", "127.0.0.1"],
            &["127.0.0.3", "127.0.0.4"],
        ]);
        address(&resolver).await.unwrap();
        resolver.turn(&base("http://two.example:1"));
        look_again(&resolver).await;
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.2");
        look_again(&resolver).await;
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.3");
    }

    #[tokio::test]
    async fn a_stale_address_is_used_while_the_next_is_fetched_and_an_old_one_only_if_none_is() {
        let resolver = answering(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.3"], &[]]);
        let host = resolver.host("two.example");
        address(&resolver).await.unwrap();
        let mut rounds = host.rounds.subscribe();
        host.due.store(0, Relaxed);
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.1");
        rounds.changed().await.unwrap();
        assert_eq!(address(&resolver).await.unwrap(), "127.0.0.2");
        // Ten minutes from now, in the host's eyes.
        let old = Resolver {
            hosts: ArcSwap::new(resolver.hosts.load_full()),
            look_up: resolver.look_up.clone(),
            started: resolver
                .started
                .checked_sub(Duration::from_millis(OLD))
                .unwrap(),
        };
        let old = Arc::new(old);
        assert_eq!(address(&old).await.unwrap(), "127.0.0.3");
    }

    #[tokio::test]
    async fn calls_at_once_to_a_new_host_are_one_look_up() {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let resolver = Arc::new(Resolver::asking(Arc::new(move |_| {
            counter.fetch_add(1, Relaxed);
            Box::pin(async {
                tokio::task::yield_now().await;
                vec!["127.0.0.1".parse().unwrap()]
            })
        })));
        let (one, other) = tokio::join!(address(&resolver), address(&resolver));
        assert_eq!((one, count.load(Relaxed)), (other, 1));
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_costs_a_call_its_patience_and_no_more() {
        let resolver = Arc::new(Resolver::asking(Arc::new(|_| {
            Box::pin(std::future::pending())
        })));
        let host = base("http://slow.example");
        let error = resolver.resolve(&host, Duration::from_millis(5)).await;
        assert_eq!(error.unwrap_err().kind(), Kind::Dns);
    }
}
