//! What is done while an open stream brings nothing: comments for whoever waits for it, and in the end its end.
//!
//! One timer for the whole stream. It is not set anew with each event, which would cost every event for the sake of a pause
//! that most streams never have: when it fires, it looks back at when the last one came.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use memchr::memchr;
use tokio::time::{Instant, Sleep};

use crate::{
    error::{Deadline, Error, Kind},
    exchange::Deadlines,
};

/// The pauses of one stream.
pub struct Pulse {
    timer: Pin<Box<Sleep>>,
    /// So often the client is shown that somebody is there.
    heartbeat: Option<Duration>,
    /// The longest pause between two events.
    idle: Option<Duration>,
    /// When the last event came.
    heard: Instant,
    /// When the client was last written to.
    written: Instant,
}

impl Pulse {
    pub fn of(deadlines: &Deadlines) -> Self {
        Self::new(deadlines.heartbeat, deadlines.idle)
    }

    fn new(heartbeat: Option<Duration>, idle: Option<Duration>) -> Self {
        let now = Instant::now();
        let first = heartbeat.into_iter().chain(idle).min();
        Self {
            timer: Box::pin(tokio::time::sleep(first.unwrap_or_default())),
            heartbeat,
            idle,
            heard: now,
            written: now,
        }
    }

    /// The client was written `out`. A provider's comments are no event, and a pause goes on through them.
    pub fn wrote(&mut self, out: &[u8]) {
        self.written = Instant::now();
        if !is_comment(out) {
            self.heard = self.written;
        }
    }

    /// Waits for a pause that is too long, and says what the client gets for it. `Err`: nothing more is waited for.
    pub async fn beat(&mut self) -> Result<Bytes, Error> {
        loop {
            let end = self.idle.map(|idle| self.heard + idle);
            let beat = self.heartbeat.map(|period| self.written + period);
            let Some(due) = end.into_iter().chain(beat).min() else {
                return std::future::pending().await;
            };
            if self.timer.deadline() < due {
                // Only what has fired is set anew.
                self.timer.as_mut().await;
                self.timer.as_mut().reset(due);
                continue;
            }
            self.timer.as_mut().await;
            let now = Instant::now();
            if end.is_some_and(|end| end <= now) {
                return Err(paused(self.idle.unwrap_or_default()));
            }
            if beat.is_some_and(|beat| beat <= now) {
                self.written = now;
                return Ok(Bytes::from_static(COMMENT));
            }
        }
    }
}

fn paused(patience: Duration) -> Error {
    let seconds = patience.as_secs_f64();
    let message = format!("The provider's stream brought nothing for {seconds} s.");
    Error::new(Kind::Timeout(Deadline::Idle), message)
}

/// Whether there is nothing in `out` but comments of an event stream. Of anything else, its first byte is enough.
pub fn is_comment(mut out: &[u8]) -> bool {
    while let Some(first) = out.first() {
        if !matches!(first, b':' | b'\r' | b'\n') {
            return false;
        }
        let end = memchr(b'\n', out).map_or(out.len(), |end| end + 1);
        out = out.get(end..).unwrap_or_default();
    }
    true
}

/// Clients skip lines that begin with a colon.
const COMMENT: &[u8] = b": waiting\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_filled_with_comments_and_has_an_end() {
        let mut pulse = Pulse::new(Some(2 * SECOND), Some(5 * SECOND));
        let begun = Instant::now();
        let elapsed = || begun.elapsed().as_secs();
        assert_eq!(
            (pulse.beat().await.unwrap().as_ref(), elapsed()),
            (COMMENT, 2)
        );
        assert_eq!(
            (pulse.beat().await.unwrap().as_ref(), elapsed()),
            (COMMENT, 4)
        );
        let error = pulse.beat().await.unwrap_err();
        assert_eq!((error.label(), elapsed()), ("idle_timeout", 5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_puts_both_off() {
        let mut pulse = Pulse::new(Some(2 * SECOND), Some(3 * SECOND));
        let begun = Instant::now();
        for _ in 0..4 {
            let beat = tokio::time::timeout(3 * SECOND / 2, pulse.beat()).await;
            assert!(beat.is_err(), "no pause of 2 s yet");
            pulse.wrote(b"data: {}\n\n");
        }
        assert!(pulse.beat().await.is_ok());
        assert_eq!(begun.elapsed(), 8 * SECOND);
        assert!(pulse.beat().await.is_err());
        assert_eq!(begun.elapsed(), 9 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_providers_comments_are_no_events_but_a_sign_of_life() {
        let mut pulse = Pulse::new(Some(2 * SECOND), Some(5 * SECOND));
        let begun = Instant::now();
        for _ in 0..3 {
            let beat = tokio::time::timeout(3 * SECOND / 2, pulse.beat()).await;
            assert!(beat.is_err(), "it was written to 1.5 s ago");
            pulse.wrote(b": ping\n\n");
        }
        assert_eq!(pulse.beat().await.unwrap_err().label(), "idle_timeout");
        assert_eq!(begun.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn without_either_nothing_is_done() {
        let mut pulse = Pulse::new(None, None);
        assert!(
            tokio::time::timeout(3600 * SECOND, pulse.beat())
                .await
                .is_err()
        );
    }
}
