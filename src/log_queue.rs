//! The lines of the process's log, written by a thread of its own: who logs never waits for whoever reads.
//!
//! Lines wait in one buffer. A line that has no place there, because the log's reader has stopped, is dropped and counted;
//! once lines are written again, one of them says how many are missing.

use std::{
    fmt,
    io::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use memchr::{memchr, memchr_iter, memrchr};
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use prometheus::IntCounter;

/// Where a logger puts its lines. Clones share one queue.
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// A line has come, or a flush.
    arrived: Condvar,
    /// All that came is written.
    drained: Condvar,
    out: Mutex<Box<dyn Write + Send>>,
    /// The lines that were dropped; there once a thread writes.
    dropped: OnceLock<IntCounter>,
}

/// Lines that are not written yet.
#[derive(Default)]
struct Waiting {
    /// Whole lines; at most [`MAX_BYTES`].
    lines: Vec<u8>,
    /// Those that were here before are being written.
    writing: bool,
    /// Somebody waits for that.
    urgent: bool,
}

impl LogQueue {
    /// Writes each line at once, until the server starts the thread.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            drained: Condvar::new(),
            out: Mutex::new(Box::new(out)),
            dropped: OnceLock::new(),
        }))
    }

    /// Leaves the writing to a thread from here on; to be called once. A process that forks has to do so before: a fork
    /// leaves threads behind.
    pub(crate) fn start(&self, dropped: &IntCounter) {
        let (queue, counter) = (self.clone(), dropped.clone());
        let thread = thread::Builder::new().name("log".to_owned());
        if thread.spawn(move || queue.write(&counter)).is_ok() {
            let _ = self.0.dropped.set(dropped.clone());
        }
    }

    /// Takes a line with its end.
    pub fn push(&self, line: &[u8]) {
        let Some(dropped) = self.0.dropped.get() else {
            // Nobody is there to be told that a log cannot be written.
            let _ = lock(&self.0.out).write_all(line);
            return;
        };
        let mut waiting = lock(&self.0.waiting);
        if waiting.lines.len().saturating_add(line.len()) > MAX_BYTES {
            dropped.inc();
            return;
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if first {
            self.0.arrived.notify_one();
        }
    }

    /// Returns when all lines are written, or after a second: nobody may be reading.
    pub fn flush(&self) {
        if self.0.dropped.get().is_none() {
            return;
        }
        let until = Instant::now() + PATIENCE;
        let mut waiting = lock(&self.0.waiting);
        while waiting.writing || !waiting.lines.is_empty() {
            waiting.urgent = true;
            self.0.arrived.notify_one();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = wait(&self.0.drained, waiting, left);
        }
    }

    /// The thread's work, without end.
    fn write(&self, dropped: &IntCounter) {
        let (mut lines, mut told) = (Vec::new(), 0);
        loop {
            self.take(&mut lines);
            let mut written = false;
            for piece in pieces(&lines) {
                match lock(&self.0.out).write_all(piece) {
                    Ok(()) => written = true,
                    Err(_) => dropped.inc_by(count(piece)),
                }
            }
            lines.clear();
            let missing = dropped.get().saturating_sub(told);
            if written && missing > 0 {
                told += missing;
                log::warn!("{missing} lines of the log were dropped: it could not be written");
            }
        }
    }

    /// Waits for lines, and a moment for those behind them: a thread that is woken for each costs more than the line.
    fn take(&self, lines: &mut Vec<u8>) {
        let mut waiting = lock(&self.0.waiting);
        waiting.writing = false;
        if waiting.lines.is_empty() {
            waiting.urgent = false;
            self.0.drained.notify_all();
        }
        while waiting.lines.is_empty() {
            let arrived = self.0.arrived.wait(waiting);
            waiting = arrived.unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + GATHER;
        while !waiting.urgent {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = wait(&self.0.arrived, waiting, left);
        }
        waiting.writing = true;
        std::mem::swap(lines, &mut waiting.lines);
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").finish_non_exhaustive()
    }
}

/// Starts the log's thread in a daemon, which has forked by then.
pub(crate) struct Start {
    pub log: LogQueue,
    pub dropped: IntCounter,
}

#[async_trait]
impl BackgroundService for Start {
    async fn start(&self, _: ShutdownWatch) {
        self.log.start(&self.dropped);
    }
}

/// Lines in pieces that a pipe takes whole, so that no other process's lines get into the middle of one. A line that is
/// longer is a piece of its own.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = lines.get(..PIPE_BYTES).unwrap_or(lines);
        let end = memrchr(b'\n', start).or_else(|| memchr(b'\n', lines));
        let (piece, rest) = lines.split_at_checked(end.map_or(lines.len(), |end| end + 1))?;
        lines = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn count(lines: &[u8]) -> u64 {
    u64::try_from(memchr_iter(b'\n', lines).count()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(
    event: &Condvar,
    waiting: MutexGuard<'a, Waiting>,
    time: Duration,
) -> MutexGuard<'a, Waiting> {
    let waited = event.wait_timeout(waiting, time);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// Bytes of lines that wait: some 3,000 requests, more than a reader that lives is behind. Twice that is held while as many
/// are being written.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that a pipe takes in one piece (`PIPE_BUF` on Linux).
const PIPE_BYTES: usize = 4_096;
/// How long a line waits for others.
const GATHER: Duration = Duration::from_millis(5);
/// How long a process that ends waits for its last lines to be read.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        io::{self, BufRead, BufReader, PipeReader, Read, pipe},
        sync::mpsc,
    };

    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "lines").unwrap()
    }

    /// A log whose reader is the caller.
    fn piped() -> (LogQueue, IntCounter, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let (log, dropped) = (LogQueue::new(writer), counter());
        log.start(&dropped);
        (log, dropped, reader)
    }

    #[test]
    fn lines_are_written_at_once_until_there_is_a_thread() {
        let (mut reader, writer) = pipe().unwrap();
        let log = LogQueue::new(writer);
        log.push(b"one\n");
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\n");
    }

    #[test]
    fn all_lines_are_written_in_their_order_before_a_flush_ends() {
        let (log, dropped, reader) = piped();
        let reading = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map(Result::unwrap);
            lines
                .take_while(|line| line != "end")
                .collect::<Vec<String>>()
        });
        let sent: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
        for line in &sent {
            log.push(format!("{line}\n").as_bytes());
            if line.ends_with("999") {
                log.flush();
            }
        }
        log.push(b"end\n");
        assert_eq!(reading.join().unwrap(), sent);
        assert_eq!(dropped.get(), 0);
    }

    // faults.md, row 30: nobody reads the pipe.
    #[test]
    fn who_logs_waits_for_no_reader_and_what_is_dropped_is_counted() {
        let (log, dropped, reader) = piped();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        for _ in 0..30_000 {
            log.push(&line);
        }
        // A process that ends does not wait for one either.
        log.flush();
        let missing = dropped.get();
        assert!(missing > 0);
        let reading = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map(Result::unwrap);
            let seen = lines.take_while(|line| line != "end");
            seen.fold(0, |seen, line| {
                assert_eq!(line.len(), 99);
                seen + 1
            })
        });
        log.flush();
        log.push(b"end\n");
        assert_eq!(reading.join().unwrap() + missing, 30_000);
    }

    #[test]
    fn a_line_that_could_not_be_written_is_counted() {
        struct Full(mpsc::Sender<()>);
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(());
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (tried, tries) = mpsc::channel();
        let (log, dropped) = (LogQueue::new(Full(tried)), counter());
        log.start(&dropped);
        log.push(b"one\ntwo\n");
        tries.recv().unwrap();
        log.flush();
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn pieces_are_whole_lines_that_a_pipe_takes_at_once() {
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        for lengths in [
            &[1][..],
            &[PIPE_BYTES],
            &[PIPE_BYTES - 1, 1, 1],
            &[10, PIPE_BYTES + 1, 10],
            &[3_000, 3_000, 3_000],
        ] {
            let lines: Vec<u8> = lengths.iter().flat_map(|length| line(*length)).collect();
            let cut: Vec<&[u8]> = pieces(&lines).collect();
            assert_eq!(cut.concat(), lines);
            for piece in cut {
                assert!(piece.ends_with(b"\n"));
                assert!(
                    piece.len() <= PIPE_BYTES || count(piece) == 1,
                    "{lengths:?}"
                );
            }
        }
        assert_eq!(pieces(b"").count(), 0);
    }
}
