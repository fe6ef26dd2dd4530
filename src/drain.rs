//! A process's way out: SIGTERM and SIGQUIT, until the last answer is out or the time for that is up.
//!
//! ```text
//!  SIGQUIT, and a successor waits ─▶ retiring ── 5 s, both accept ──┐
//!  SIGTERM ─────────────────────────────────────────────────────────┴─▶ draining ─▶ quiet for a second ─▶ end
//!                                                                          └─ limit ─▶ over: streams are told ─▶ end
//! ```
//!
//! From `retiring` on HTTP/1 answers say `connection: close`, so that clients in touch move to the successor by themselves;
//! HTTP/2 clients get a GOAWAY when draining begins. An idle connection is not shut while anything is in flight: its next
//! request is answered, and only that ends it.

use std::{
    collections::HashMap,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch},
    services::background::BackgroundService,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use crate::{
    error::{Error, Kind},
    metrics::Metrics,
};

/// How far a process is on its way out. Shared by all that has to know.
#[derive(Debug, Default)]
pub struct Leaving {
    retiring: AtomicBool,
    over: AtomicBool,
    guests: AtomicUsize,
    /// Who is to be woken when it is over, by a number of its own.
    waiting: Mutex<HashMap<u64, Waker>>,
    numbers: AtomicU64,
}

/// A request's wait for the end of the time that it has on the way out. It does nothing until it is polled.
///
/// Its task is woken once, at that end. A shared notification would take its lock each time that a stream waits for an event.
pub struct Vigil {
    leaving: Arc<Leaving>,
    known: Option<(u64, Waker)>,
}

impl Vigil {
    /// Why the request has to end, once it has.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<Error> {
        let is_known = |(_, waker): &(u64, Waker)| waker.will_wake(context.waker());
        if !self.known.as_ref().is_some_and(is_known) {
            let number = match self.known {
                Some((number, _)) => number,
                None => self.leaving.numbers.fetch_add(1, Ordering::Relaxed),
            };
            let waker = context.waker().clone();
            self.leaving.waiting().insert(number, waker.clone());
            self.known = Some((number, waker));
        }
        // Behind it: who comes too late to be woken sees it here.
        match self.leaving.check() {
            Err(stopping) => Poll::Ready(stopping),
            Ok(()) => Poll::Pending,
        }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if let Some((number, _)) = &self.known {
            self.leaving.waiting().remove(number);
        }
    }
}

/// Something that is waited for beside the requests in flight, until it is dropped.
pub struct Guest(Arc<Leaving>);

impl Leaving {
    /// Whether clients should connect anew for their next request.
    pub fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    /// Why what is in flight has to end, if it has.
    pub fn check(&self) -> Result<(), Error> {
        match self.over.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::new(Kind::Stopping, "The gateway is being stopped.")),
        }
    }

    pub fn vigil(self: &Arc<Self>) -> Vigil {
        Vigil {
            leaving: self.clone(),
            known: None,
        }
    }

    /// What is in flight has to end.
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_values().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn guest(self: &Arc<Self>) -> Guest {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(self.clone())
    }

    fn has_guests(&self) -> bool {
        self.guests.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pingora's signals, but for one case: a SIGQUIT without a successor, which would end a service that nobody continues.
pub struct Signals {
    pub leaving: Arc<Leaving>,
    /// Where the successor takes over the listeners.
    pub upgrade_sock: String,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut quit = Heard::of(SignalKind::quit());
        let mut terminate = Heard::of(SignalKind::terminate());
        let mut interrupt = Heard::of(SignalKind::interrupt());
        loop {
            tokio::select! {
                () = quit.next() => {
                    if self.has_successor().await {
                        self.leaving.retiring.store(true, Ordering::Relaxed);
                        return ShutdownSignal::GracefulUpgrade;
                    }
                    log::error!("SIGQUIT: no process started with -u waits at {}; going on", self.upgrade_sock);
                }
                () = terminate.next() => return ShutdownSignal::GracefulTerminate,
                () = interrupt.next() => return ShutdownSignal::FastShutdown,
            }
        }
    }
}

impl Signals {
    /// The successor may still be on its way up.
    async fn has_successor(&self) -> bool {
        let waits = async {
            while !waits_at(&self.upgrade_sock) {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, waits).await.is_ok()
    }
}

/// A signal, or, where it cannot be heard, silence.
struct Heard(Option<Signal>);

impl Heard {
    fn of(kind: SignalKind) -> Self {
        let heard = signal(kind);
        Self(heard.inspect_err(|error| log::error!("{error}")).ok())
    }

    async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending().await
        }
    }
}

/// Whether a process listens at a Unix socket of streams. It must not notice, as it takes whoever connects for its
/// predecessor: a datagram's socket is turned away there, and a file that nobody listens at refuses otherwise.
fn waits_at(path: &str) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    match asked {
        Ok(()) => false,
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied
        ),
    }
}

/// Ends the process once it has been told to stop and the last request is answered.
pub struct Drain {
    pub metrics: Arc<Metrics>,
    pub leaving: Arc<Leaving>,
    /// Longest wait for that.
    pub limit: Duration,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.changed().await.is_err() {
            return;
        }
        self.leaving.retiring.store(true, Ordering::Relaxed);
        let in_flight = self.metrics.in_flight.get();
        log::info!("draining: no new connections, {in_flight} in flight");
        let mut interrupt = Heard::of(SignalKind::interrupt());
        tokio::select! {
            drained = timeout(self.limit, self.quiet()) => match drained {
                Ok(()) => log::info!("drained"),
                Err(_) => self.cut().await,
            },
            () = interrupt.next() => log::warn!("told to end at once"),
        }
        log::logger().flush();
        std::process::exit(0);
    }
}

impl Drain {
    /// Until nothing is in flight, and nothing new has come for a while: a client that has just connected has not sent its
    /// request yet, and one that has just been answered may send its next.
    async fn quiet(&self) {
        let mut since = Instant::now();
        loop {
            sleep(TICK).await;
            if self.metrics.in_flight.get() > 0 {
                since = Instant::now();
            }
            let quiet = since.elapsed();
            if quiet >= LINGER && (quiet >= FLUSH || !self.leaving.has_guests()) {
                return;
            }
        }
    }

    /// Has the streams that are left told, and gives them the time to be.
    async fn cut(&self) {
        let in_flight = self.metrics.in_flight.get();
        log::warn!("the time to drain is up, {in_flight} in flight are cut");
        self.leaving.end();
        sleep(LINGER).await;
    }
}

const TICK: Duration = Duration::from_millis(20);
/// A client's request follows its connection, or its last answer, within this: more than a round trip.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client of HTTP/2 may take for the last bytes of answers that were written, and to say goodbye.
const FLUSH: Duration = Duration::from_secs(10);
/// How long after a SIGQUIT its successor may be there.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_successor_is_seen_without_its_noticing() {
        let name = format!("successor-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let path = path.to_str().unwrap();
        assert!(!waits_at(path));
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(waits_at(path));
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(listener);
        // A file that was left behind.
        assert!(!waits_at(path));
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_woken_at_the_end_and_who_comes_later_told() {
        let leaving = Arc::new(Leaving::default());
        let wait = |leaving: &Arc<Leaving>| {
            let mut vigil = leaving.vigil();
            async move { std::future::poll_fn(|context| vigil.poll(context)).await }
        };
        let waiting = tokio::spawn(wait(&leaving));
        drop(leaving.vigil());
        while leaving.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        leaving.end();
        assert_eq!(waiting.await.unwrap().kind(), Kind::Stopping);
        assert_eq!(wait(&leaving).await.kind(), Kind::Stopping);
        assert!(leaving.waiting().is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn a_guest_is_waited_for_until_it_is_gone() {
        let leaving = Arc::new(Leaving::default());
        let guest = leaving.guest();
        assert!(leaving.has_guests());
        drop(guest);
        assert!(!leaving.has_guests());
    }
}
