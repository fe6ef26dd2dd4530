//! Connections to upstreams that wait for their next call.
//!
//! Pingora's pool watches each of them with a task of its own, which has to be woken and waited for before the connection can be
//! used. Here nothing runs while they wait but one look at all of them a second; what happened to one in between is found when it
//! is taken.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use pingora::{
    protocols::Stream,
    upstreams::peer::{HttpPeer, Peer},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

/// Whom a connection leads to: the address, and all else that its peer asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    address: SocketAddr,
    peer: u64,
}

impl Place {
    /// `None`: it is no address of the internet's, and its connections are not kept.
    pub fn of(peer: &HttpPeer) -> Option<Self> {
        Some(Self {
            address: *peer.address().as_inet()?,
            peer: peer.reuse_hash(),
        })
    }
}

/// The connections, of which there are at most so many.
pub struct Pool {
    state: Mutex<State>,
    most: usize,
}

#[derive(Default)]
struct State {
    /// Of each place those that came last are behind.
    places: HashMap<Place, VecDeque<Waiting>>,
    count: usize,
    /// The task that looks at them runs.
    is_watched: bool,
}

struct Waiting {
    stream: Stream,
    since: Instant,
}

impl Waiting {
    /// Whether it can be used: its server has neither closed it, nor said a word that nobody asked for.
    fn is_good(&mut self) -> bool {
        self.since.elapsed() < IDLE && is_quiet(&mut self.stream)
    }
}

impl Pool {
    pub fn new(most: usize) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { state, most })
    }

    /// The connection that was used last.
    pub fn take(&self, place: &Place) -> Option<Stream> {
        loop {
            // It is looked at without the lock: closing one takes a system call.
            let mut waiting = self.lock().pop(place)?;
            if waiting.is_good() {
                return Some(waiting.stream);
            }
        }
    }

    /// Keeps a connection. Where there are too many, the one that has waited longest goes.
    pub fn keep(self: &Arc<Self>, place: Place, stream: Stream) {
        let mut waiting = Waiting {
            stream,
            since: Instant::now(),
        };
        if self.most == 0 || !waiting.is_good() {
            return;
        }
        let mut state = self.lock();
        let surplus = (state.count >= self.most).then(|| state.pop_oldest());
        state.push(place, waiting);
        let is_watched = std::mem::replace(&mut state.is_watched, true);
        drop(state);
        drop(surplus);
        if !is_watched {
            self.watch();
        }
    }

    fn watch(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(watch(pool))),
            // The process ends, and all of them with it.
            Err(_) => self.lock().is_watched = false,
        }
    }

    /// Closes those that waited too long, or that their servers have closed. Whether some are left.
    fn sweep(&self) -> bool {
        let mut gone = Vec::new();
        let mut state = self.lock();
        for waiting in state.places.values_mut() {
            let mut kept = VecDeque::with_capacity(waiting.len());
            for mut waiting in waiting.drain(..) {
                if waiting.is_good() {
                    kept.push_back(waiting);
                } else {
                    gone.push(waiting);
                }
            }
            *waiting = kept;
        }
        state.places.retain(|_, waiting| !waiting.is_empty());
        state.count = state.count.saturating_sub(gone.len());
        state.is_watched = state.count > 0;
        state.is_watched
    }

    /// Nothing in it is left half done by a panic: what could be lost is a connection.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, place: Place, waiting: Waiting) {
        self.places.entry(place).or_default().push_back(waiting);
        self.count = self.count.saturating_add(1);
    }

    fn pop(&mut self, place: &Place) -> Option<Waiting> {
        let waiting = self.places.get_mut(place)?.pop_back()?;
        self.count = self.count.saturating_sub(1);
        Some(waiting)
    }

    fn pop_oldest(&mut self) -> Option<Waiting> {
        let fronts = self.places.values_mut().filter(|all| !all.is_empty());
        let oldest = fronts.min_by_key(|all| all.front().map(|waiting| waiting.since))?;
        let waiting = oldest.pop_front()?;
        self.count = self.count.saturating_sub(1);
        Some(waiting)
    }
}

async fn watch(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let goes_on = pool.upgrade().is_some_and(|pool| pool.sweep());
        if !goes_on {
            return;
        }
    }
}

/// Whether nothing has come. What has is an end, an error, or an answer to nothing.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut byte = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    let reading = tokio::task::unconstrained(std::future::poll_fn(|context| {
        std::pin::Pin::new(&mut *stream).poll_read(context, &mut byte)
    }));
    let polled = std::pin::pin!(reading).poll(&mut context);
    matches!(polled, Poll::Pending)
}

/// How long a connection is kept for the next call: less than the 5 s after which common model servers close theirs.
pub const IDLE: Duration = Duration::from_secs(4);
/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use pingora::protocols::l4::stream;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A connection, and its server's end.
    async fn pair() -> (Stream, TcpStream, Place) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let near: Stream = Box::new(stream::Stream::from(near.unwrap()));
        let place = Place { address, peer: 1 };
        (near, far.unwrap().0, place)
    }

    async fn is_closed(far: &mut TcpStream) -> bool {
        matches!(far.read(&mut [0; 1]).await, Ok(0))
    }

    /// Until the kernel has brought `stream` what its server did.
    async fn arrived(stream: &mut Stream) {
        while is_quiet(stream) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn each_place_has_its_own_and_the_last_comes_first() {
        let pool = Pool::new(8);
        let ((one, _a, place), (two, _b, other)) = (pair().await, pair().await);
        let (one_id, two_id) = (one.id(), two.id());
        let stranger = Place { peer: 2, ..place };
        pool.keep(place, one);
        pool.keep(place, two);
        assert!(pool.take(&stranger).is_none() && pool.take(&other).is_none());
        assert_eq!(pool.take(&place).unwrap().id(), two_id);
        assert_eq!(pool.take(&place).unwrap().id(), one_id);
        assert!(pool.take(&place).is_none());
    }

    #[tokio::test]
    async fn one_that_was_closed_or_spoken_to_is_given_to_nobody() {
        let pool = Pool::new(8);
        for says in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (mut near, mut far, place) = pair().await;
            far.write_all(says).await.unwrap();
            if says.is_empty() {
                far.shutdown().await.unwrap();
            }
            // It reads a byte of what was said; there is more.
            arrived(&mut near).await;
            pool.keep(place, near);
            assert!(pool.take(&place).is_none(), "kept");
            let (near, mut far, place) = pair().await;
            pool.keep(place, near);
            far.write_all(says).await.unwrap();
            if says.is_empty() {
                far.shutdown().await.unwrap();
            }
            let waiting = |pool: &Pool| {
                let mut state = pool.lock();
                state.places.get_mut(&place).and_then(|all| all.pop_back())
            };
            let mut kept = waiting(&pool).unwrap();
            arrived(&mut kept.stream).await;
            pool.lock().push(place, kept);
            assert!(pool.take(&place).is_none(), "taken");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_closed_in_time() {
        let pool = Pool::new(8);
        let (near, mut far, place) = pair().await;
        let begun = Instant::now();
        pool.keep(place, near);
        assert!(is_closed(&mut far).await);
        let waited = begun.elapsed();
        assert!((IDLE..IDLE + 2 * LOOK).contains(&waited), "{waited:?}");
        assert!(pool.lock().places.is_empty() && !pool.lock().is_watched);
        // And the next one is looked after again.
        let (near, mut far, place) = pair().await;
        pool.keep(place, near);
        assert!(is_closed(&mut far).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_its_server_closes_is_closed_here_within_a_second_or_two() {
        let pool = Pool::new(8);
        let (near, mut far, place) = pair().await;
        pool.keep(place, near);
        far.shutdown().await.unwrap();
        let begun = Instant::now();
        assert!(is_closed(&mut far).await);
        assert!(begun.elapsed() <= 2 * LOOK);
    }

    #[tokio::test]
    async fn there_are_no_more_than_allowed_and_the_oldest_goes() {
        let pool = Pool::new(2);
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (near, far, place) = pair().await;
            pool.keep(place, near);
            ends.push((far, place));
        }
        assert!(is_closed(&mut ends[0].0).await);
        assert_eq!(pool.lock().count, 2);
        assert!(pool.take(&ends[0].1).is_none());
        assert!(pool.take(&ends[1].1).is_some() && pool.take(&ends[2].1).is_some());
        let none = Pool::new(0);
        let (near, mut far, place) = pair().await;
        none.keep(place, near);
        assert!(is_closed(&mut far).await);
    }
}
