//! What tests of figures and reports share.

use std::time::Duration;

use super::{
    answer::Failure,
    process::Reading,
    summary::{Report, Round, Settings, Subject},
    tally::Tally,
};

/// A round of `count` good requests in a second, each of `milliseconds`, and one cut.
pub fn round(count: u64, milliseconds: u64) -> Round {
    let mut tally = Tally::default();
    for number in 0..count {
        let time = Duration::from_millis(milliseconds + number % 7);
        tally.total.add(time);
        tally.first_token.add(time / 2);
        tally.between.add(time / 10);
        tally.end(Duration::from_millis(number * 1000 / count));
    }
    (tally.sent, tally.succeeded) = (count + 1, count);
    tally.failures.insert(Failure::Cut, 1);
    (tally.events, tally.bytes_received) = (count * 2, count * 300);
    tally.elapsed = Duration::from_secs(1);
    Round {
        tally,
        cpu: vec![Some(Duration::from_millis(20))],
        own_cpu: Some(Duration::from_millis(250)),
    }
}

pub fn report(names: [&str; 2]) -> Report {
    let subject = |name: &str, rounds| Subject {
        name: name.to_owned(),
        url: format!("http://{name}/v1/completions"),
        rounds,
    };
    let reading = Reading {
        cpu: Duration::from_secs(1),
        peak: 40 << 20,
    };
    let settings = Settings {
        concurrency: 4,
        requests: Some(100),
        rounds: 3,
        stream: true,
        prompt_bytes: 100,
        ..Settings::default()
    };
    Report::new(
        1_700_000_000,
        settings,
        vec![
            subject(
                names[0],
                vec![round(100, 10), round(200, 10), round(400, 10)],
            ),
            subject(names[1], vec![round(50, 20), round(50, 30), round(100, 40)]),
        ],
        &[(names[1].to_owned(), Some(reading))],
    )
}
