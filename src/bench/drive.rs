//! Drives one load against one target: callers that share a schedule, a tally and the connections.
//!
//! All callers run in the thread that calls [`drive`]. In an open loop a thread of its own tells them what is due, since an
//! async timer's step of a millisecond would be in every time.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use super::connection::{Connection, Server};
use crate::measure::{
    answer::{Answer, Asked, Failure},
    schedule::{Rate, Schedule},
    tally::Tally,
    template::Template,
};

/// A server and what it is asked, with the connections that wait for the next request.
pub struct Target {
    pub server: Server,
    pub template: Template,
    pub idle: Mutex<Vec<Connection>>,
}

/// How a target is asked.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub schedule: Schedule,
    pub asked: Asked,
    /// For one request, from when it was begun.
    pub timeout: Duration,
    /// Leaves a stream after this many events with text; 0: as soon as the request is written.
    pub abort_after: Option<u32>,
}

/// Sends what the schedule says and waits for all of it. `watch` sees the tally each second, and may break off: then what is
/// under way is left, and not counted.
pub async fn drive(
    target: &Arc<Target>,
    load: Load,
    watch: &mut dyn FnMut(&Tally) -> ControlFlow<()>,
) -> Tally {
    let course = Arc::new(Course {
        target: target.clone(),
        load,
        started: Instant::now(),
        next: AtomicU64::new(0),
        due: Semaphore::new(0),
        tally: Mutex::new(Tally::default()),
    });
    let mut callers = JoinSet::new();
    let concurrency = load.schedule.concurrency as u64;
    for _ in 0..load.schedule.total().unwrap_or(u64::MAX).min(concurrency) {
        let course = course.clone();
        callers.spawn(async move { course.call().await });
    }
    if let Some(rate) = load.schedule.rate {
        let course = course.clone();
        std::thread::spawn(move || course.pace(rate));
    }
    let mut second = time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    second.tick().await;
    loop {
        tokio::select! {
            biased;
            _ = second.tick() => {
                let goes_on = watch(&course.tally());
                if goes_on.is_break() {
                    // The callers end with their set, the pacemaker at its next look.
                    course.due.close();
                    break;
                }
            }
            ended = callers.join_next() => if ended.is_none() { break },
        }
    }
    let mut tally = course.tally().clone();
    tally.elapsed = course.started.elapsed();
    tally
}

struct Course {
    target: Arc<Target>,
    load: Load,
    started: Instant,
    /// The next request's number.
    next: AtomicU64,
    /// Requests that are due and not begun. Open loop only.
    due: Semaphore,
    tally: Mutex<Tally>,
}

/// One request to make.
struct Turn {
    number: u64,
    /// When its time starts.
    since: Instant,
}

/// How a request ended that did not fail.
enum End {
    Whole { completion_tokens: Option<u64> },
    Aborted,
}

/// What was seen of an answer so far.
#[derive(Default)]
struct Seen {
    texts: u32,
    last: Option<Instant>,
    bytes: u64,
}

impl Course {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the callers what is due, and at the end each of them that nothing more is.
    fn pace(&self, rate: Rate) {
        let total = self.load.schedule.total().unwrap_or(u64::MAX);
        let mut told = 0;
        while told < total && !self.due.is_closed() {
            let elapsed = self.started.elapsed();
            let due = rate.owed(elapsed).min(total);
            if due > told {
                self.due
                    .add_permits(usize::try_from(due - told).unwrap_or_default());
                told = due;
            } else {
                let pause = rate.due(told).saturating_sub(elapsed);
                std::thread::sleep(pause.min(LOOK));
            }
        }
        self.due.add_permits(self.load.schedule.concurrency);
    }

    async fn call(&self) {
        let mut scratch = Vec::new();
        while let Some(turn) = self.turn().await {
            self.ask(&turn, &mut scratch).await;
        }
    }

    async fn turn(&self) -> Option<Turn> {
        let rate = self.load.schedule.rate;
        if rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let is_due = self.load.schedule.includes(number, now - self.started);
        is_due.then(|| Turn {
            number,
            since: rate.map_or(now, |rate| self.started + rate.due(number)),
        })
    }

    async fn ask(&self, turn: &Turn, scratch: &mut Vec<u8>) {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let bytes = self.target.template.bytes(turn.number, scratch);
        let exchange = self.exchange(turn, bytes, &mut seen);
        let ended = time::timeout(self.load.timeout, exchange).await;
        let now = Instant::now();
        let mut tally = self.tally();
        if self.load.schedule.rate.is_some() {
            tally.late.add(begun.saturating_duration_since(turn.since));
        }
        tally.sent += 1;
        tally.bytes_sent += bytes.len() as u64;
        tally.bytes_received += seen.bytes;
        match ended.unwrap_or(Err(Failure::Timeout)) {
            Ok(End::Whole { completion_tokens }) => {
                tally.succeeded += 1;
                tally.total.add(now.saturating_duration_since(turn.since));
                tally.tokens += completion_tokens.unwrap_or_default();
                tally.told += u64::from(completion_tokens.is_some());
            }
            Ok(End::Aborted) => tally.aborted += 1,
            Err(failure) => *tally.failures.entry(failure).or_default() += 1,
        }
        tally.end(now - self.started);
    }

    async fn exchange(&self, turn: &Turn, bytes: &[u8], seen: &mut Seen) -> Result<End, Failure> {
        let (mut connection, mut was_kept) = self.send(bytes).await?;
        let mut answer = Answer::new(self.load.asked);
        loop {
            if self
                .load
                .abort_after
                .is_some_and(|texts| seen.texts >= texts)
            {
                return Ok(End::Aborted);
            }
            let read = connection.read().await;
            if was_kept && seen.bytes == 0 && !matches!(read, Ok(1..)) {
                connection = self.send_again(bytes).await?;
                was_kept = false;
                continue;
            }
            let count = read.map_err(|_| Failure::Cut)?;
            seen.bytes += count as u64;
            if count == 0 {
                answer.close()?;
                break;
            }
            match answer.read(&mut connection.input) {
                Ok(brought) => {
                    if brought.texts > 0 {
                        self.note(turn, brought.texts, seen);
                    }
                    if brought.is_whole {
                        break;
                    }
                }
                Err(failure) => {
                    if matches!(failure, Failure::Status(_)) {
                        self.keep(connection, &answer);
                    }
                    return Err(failure);
                }
            }
        }
        self.keep(connection, &answer);
        Ok(End::Whole {
            completion_tokens: answer.completion_tokens,
        })
    }

    /// Over the connection that was used last, or a new one; and whether it was kept.
    async fn send(&self, bytes: &[u8]) -> Result<(Connection, bool), Failure> {
        let Some(mut kept) = self.kept() else {
            return Ok((self.send_anew(bytes).await?, false));
        };
        match kept.write(bytes).await {
            Ok(()) => Ok((kept, true)),
            Err(_) => Ok((self.send_again(bytes).await?, false)),
        }
    }

    /// Its server had closed a connection that was kept, which shows when it is asked: what a server does with a request, it does
    /// with one on a new connection.
    async fn send_again(&self, bytes: &[u8]) -> Result<Connection, Failure> {
        self.tally().sent_again += 1;
        self.send_anew(bytes).await
    }

    async fn send_anew(&self, bytes: &[u8]) -> Result<Connection, Failure> {
        let opened = Connection::open(&self.target.server).await;
        self.tally().connections += u64::from(opened.is_ok());
        let mut connection = opened.map_err(|_| Failure::Connect)?;
        let written = connection.write(bytes).await;
        written.map(|()| connection).map_err(|_| Failure::Cut)
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle();
        std::iter::from_fn(|| idle.pop()).find(Connection::is_idle)
    }

    fn keep(&self, connection: Connection, answer: &Answer) {
        if answer.keeps_alive() && connection.input.is_empty() {
            self.idle().push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        let idle = &self.target.idle;
        idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events with text have come, in one read.
    fn note(&self, turn: &Turn, texts: u32, seen: &mut Seen) {
        let now = Instant::now();
        let mut tally = self.tally();
        tally.events += u64::from(texts);
        match seen.last {
            None => tally
                .first_token
                .add(now.saturating_duration_since(turn.since)),
            Some(last) => tally.between.add(now - last),
        }
        if texts > 1 {
            tally.between.add_many(Duration::ZERO, u64::from(texts - 1));
        }
        seen.texts += texts;
        seen.last = Some(now);
    }
}

/// How long the pacemaker sleeps at most before it looks whether the load goes on.
const LOOK: Duration = Duration::from_millis(200);
