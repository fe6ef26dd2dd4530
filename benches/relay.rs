//! How fast a relay is, without sockets: MB/s of upstream bytes and allocations per event or reply, for each dialect.
//!
//! `cargo bench --bench relay`. One thread; the input of a run is made before the clock starts.

mod samples;

use std::time::Instant;

use bytes::Bytes;
use pingora_completions::{dialect::Dialect, relay::Answer};

use samples::{relay, samples};

const EVENTS: usize = 2_000;
const ROUNDS: usize = 40;

fn measure(
    name: &str,
    dialect: &'static dyn Dialect,
    answer: Answer,
    reads: &[Bytes],
    units: usize,
) {
    relay(dialect, answer, reads);
    let bytes: usize = reads.iter().map(Bytes::len).sum();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        relay(dialect, answer, reads);
    }
    let seconds = started.elapsed().as_secs_f64();
    let allocated = allocation_counter::measure(|| {
        relay(dialect, answer, reads);
    });
    let megabytes = (bytes * ROUNDS) as f64 / 1e6;
    println!(
        "{name:<42} {:>7.0} MB/s {:>7.0} ns each {:>7.2} allocations each",
        megabytes / seconds,
        seconds * 1e9 / (ROUNDS * units) as f64,
        allocated.count_total as f64 / units as f64,
    );
}

fn main() {
    for sample in samples() {
        let events = sample.events(EVENTS);
        let joined = |events: &[Bytes]| -> Vec<Bytes> {
            let joined = events.concat();
            joined
                .chunks(16 << 10)
                .map(Bytes::copy_from_slice)
                .collect()
        };
        let name = |form: &str| format!("{}: {form}", sample.name);
        measure(
            &name("stream, one event a read"),
            sample.dialect,
            Answer::Stream,
            &events,
            EVENTS,
        );
        measure(
            &name("stream, 16 KiB a read"),
            sample.dialect,
            Answer::Stream,
            &joined(&events),
            EVENTS,
        );
        measure(
            &name("no event like the one before"),
            sample.dialect,
            Answer::Stream,
            &joined(&sample.unlike_events(EVENTS)),
            EVENTS,
        );
        let whole = vec![Bytes::from(sample.whole.clone())];
        measure(
            &name("whole, 4 KB"),
            sample.dialect,
            Answer::Whole,
            &whole,
            1,
        );
    }
}
