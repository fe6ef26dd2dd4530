//! Whether and when one target is tried again. The caller keeps the time and makes the calls; here is what it goes by.
//!
//! As Portkey has it: `attempts` tries beside the first, for the statuses of a list, and for calls that brought no answer at all
//! whatever the list says. Unlike Portkey's 1 s, 2 s, 4 s without a limit, waits are drawn: clients that failed together must not
//! come back together. The whole range below a growing ceiling is drawn from ("full jitter"), which spreads a crowd thinnest for
//! the same number of calls (M. Brooker, "Exponential Backoff and Jitter", 2015); the ceilings are those of OpenAI's own SDKs,
//! 500 ms doubling, so that the mean wait is half of theirs.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue};

/// How often one target is tried again, and after what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Tries beside the first; 0: none.
    pub attempts: u32,
    /// Statuses that are tried again; `None`: [`RETRIED`].
    pub on: Option<Arc<[u16]>>,
    /// Whether an answer's own word on when to come back takes the place of the backoff.
    pub heed_retry_after: bool,
}

impl Retry {
    fn lists(&self, outcome: &Outcome) -> bool {
        match &self.on {
            Some(list) => outcome.is_one_of(list),
            None => RETRIED.contains(&outcome.status),
        }
    }
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The upstream's, or what the client would be told.
    pub status: u16,
    /// What a list of statuses may call it instead.
    pub alias: Option<u16>,
    /// There was no answer: the connection failed or broke off, or the first token did not come in time.
    pub transport: bool,
    /// As [`retry_after`] read it.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// Whether somebody's own list names it.
    pub fn is_one_of(&self, list: &[u16]) -> bool {
        let alias = self.alias.is_some_and(|alias| list.contains(&alias));
        list.contains(&self.status) || alias
    }
}

/// The waits between two tries of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait; each further one's is twice as high.
    pub base: Duration,
    /// No ceiling is higher.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The wait before retry number `retry` (0 is the first), drawn with `draw` of [0, 1).
    pub fn wait(self, retry: u32, draw: f64) -> Duration {
        let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
        let ceiling = self.base.saturating_mul(factor).min(self.cap);
        ceiling.mul_f64(draw.clamp(0.0, 1.0))
    }
}

/// How much retries may add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Retries per thousand first calls. 0: only the reserve.
    pub per_mille: u32,
    /// Retries per second that need no first calls.
    pub reserve: u32,
}

impl Default for Allowance {
    /// Finagle's and linkerd's figures.
    fn default() -> Self {
        Self {
            per_mille: 200,
            reserve: 10,
        }
    }
}

/// The tries of one request: those of its present target, and the time it has waited at the word of any.
#[derive(Clone, Debug, Default)]
pub struct Tries {
    backoff: Backoff,
    /// Retries of the present target.
    retries: u32,
    /// The sum of the waits that answers asked for.
    heeded: Duration,
    /// The last answer was one to try again, and was not.
    gave_up: bool,
}

impl Tries {
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            ..Self::default()
        }
    }

    /// The wait before the next try of the same target; `None`: this was its last.
    pub fn after(&mut self, retry: &Retry, outcome: &Outcome, draw: f64) -> Option<Duration> {
        let listed = retry.lists(outcome);
        self.gave_up = listed && retry.attempts > 0;
        if !(listed || outcome.transport) || self.retries >= retry.attempts {
            return None;
        }
        let wait = match outcome.retry_after.filter(|_| retry.heed_retry_after) {
            Some(asked) => self.heed(asked)?,
            None => self.backoff.wait(self.retries, draw),
        };
        self.retries += 1;
        self.gave_up = false;
        Some(wait)
    }

    /// A wait that an answer asked for, if the request still has the time: else the client is told at once, and can wait itself.
    fn heed(&mut self, asked: Duration) -> Option<Duration> {
        let heeded = self.heeded.saturating_add(asked);
        if heeded >= MAX_HEEDED {
            return None;
        }
        self.heeded = heeded;
        Some(asked)
    }

    /// The retry that [`Tries::after`] allowed is not made: the budget or the deadline forbids it.
    pub fn forgo(&mut self) {
        self.retries = self.retries.saturating_sub(1);
        self.gave_up = true;
    }

    /// The next target's tries are counted anew.
    pub fn turn(&mut self) {
        self.retries = 0;
        self.gave_up = false;
    }

    /// What `x-portkey-retry-attempt-count` says: the retries that the last answer took; -1: it was one to try again, and the
    /// tries were used up, or it asked for too long a wait.
    pub fn told(&self) -> i32 {
        match self.gave_up {
            true => -1,
            false => i32::try_from(self.retries).unwrap_or(i32::MAX),
        }
    }
}

/// When an answer asks to be called again: the first of its headers that says so in a way that can be read. Never more than
/// [`MAX_ASKED`]; a date that has passed is zero.
pub fn retry_after(headers: &HeaderMap, now_unix: u64) -> Option<Duration> {
    let asked = |name, unit| headers.get(name).and_then(|value| number(value, unit));
    let asked = asked("retry-after-ms", 1e-3)
        .or_else(|| asked("x-ms-retry-after-ms", 1e-3))
        .or_else(|| asked("retry-after", 1.0))
        .or_else(|| until(headers.get("retry-after")?, now_unix))?;
    Some(asked.min(MAX_ASKED))
}

/// A `retry-after` as every client reads it: whole seconds, rounded up. `None`: it says nothing that can be read.
pub fn whole_seconds(value: &HeaderValue, now_unix: u64) -> Option<HeaderValue> {
    let asked = number(value, 1.0).or_else(|| until(value, now_unix))?;
    let asked = asked.min(MAX_ASKED);
    let part = u64::from(asked.subsec_nanos() > 0);
    Some(HeaderValue::from(asked.as_secs().saturating_add(part)))
}

/// A count of `unit`s of seconds. RFC 9110 knows whole ones alone; some providers send fractions.
fn number(value: &HeaderValue, unit: f64) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    // Without signs, exponents, `inf` and `nan`, which Rust reads as well.
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
    let count: f64 = text.parse().ok().filter(|_| plain)?;
    Some(Duration::try_from_secs_f64(count * unit).unwrap_or(MAX_ASKED))
}

/// An HTTP date of any of RFC 9110's three forms.
fn until(value: &HeaderValue, now_unix: u64) -> Option<Duration> {
    let date = httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?;
    let date = date.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_secs(now_unix)))
}

/// What is tried again where nobody says: Portkey's list.
pub const RETRIED: &[u16] = &[429, 500, 502, 503, 504];
/// What a request may wait in all at the word of its answers: Portkey's limit. A client's own patience is of this order.
const MAX_HEEDED: Duration = Duration::from_secs(60);
/// No answer asks for more: sums of waits must not overflow.
const MAX_ASKED: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16) -> Outcome {
        Outcome {
            status,
            alias: None,
            transport: false,
            retry_after: None,
        }
    }

    fn times(attempts: u32) -> Retry {
        Retry {
            attempts,
            ..Retry::default()
        }
    }

    #[test]
    fn ceilings_double_up_to_the_cap_and_the_draw_takes_its_share() {
        let millis = |retry, draw| Backoff::default().wait(retry, draw).as_millis();
        let ceilings: Vec<u128> = (0..7).map(|retry| millis(retry, 1.0)).collect();
        assert_eq!(ceilings, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!((millis(3, 0.0), millis(3, 0.25)), (0, 1_000));
        for retry in [31, 32, 33, u32::MAX] {
            assert_eq!(millis(retry, 1.0), 10_000);
        }
        assert_eq!((millis(0, -1.0), millis(0, 7.0)), (0, 500));
    }

    #[test]
    fn what_is_tried_again_and_what_the_client_is_told() {
        let listed = |attempts, on: &[u16]| Retry {
            attempts,
            on: Some(on.into()),
            heed_retry_after: false,
        };
        let dead = Outcome {
            transport: true,
            ..outcome(502)
        };
        // The rule, the outcomes one after the other, the tries it comes to, and what the count header says.
        let cases: [(Retry, &[Outcome], usize, i32); 12] = [
            (times(0), &[outcome(500); 3], 1, 0),
            (times(2), &[outcome(200)], 1, 0),
            (times(2), &[outcome(500), outcome(200)], 2, 1),
            (times(2), &[outcome(429); 5], 3, -1),
            (times(2), &[outcome(503), outcome(400)], 2, 1),
            (times(2), &[outcome(408); 3], 1, 0),
            (times(2), &[outcome(401); 3], 1, 0),
            (listed(2, &[401]), &[outcome(401); 3], 3, -1),
            (listed(2, &[401]), &[outcome(500); 3], 1, 0),
            (listed(2, &[]), &[dead; 3], 3, 2),
            (times(1), &[dead; 3], 2, -1),
            (times(1), &[dead, outcome(200)], 2, 1),
        ];
        for (retry, outcomes, expected, told) in cases {
            let mut tries = Tries::default();
            let mut made = 0;
            for outcome in outcomes {
                made += 1;
                if tries.after(&retry, outcome, 0.5).is_none() {
                    break;
                }
            }
            let about = format!("{retry:?} {outcomes:?}");
            assert_eq!((made, tries.told()), (expected, told), "{about}");
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_takes_the_place_of_the_backoff() {
        let asking = |seconds| Outcome {
            retry_after: Some(Duration::from_secs(seconds)),
            ..outcome(429)
        };
        let heeding = Retry {
            heed_retry_after: true,
            ..times(9)
        };
        let mut tries = Tries::default();
        let mut waits = |seconds| tries.after(&heeding, &asking(seconds), 0.0);
        assert_eq!(waits(0), Some(Duration::ZERO));
        assert_eq!(waits(40), Some(Duration::from_secs(40)));
        assert_eq!(waits(20), None, "the sum reaches 60 s");
        assert_eq!(waits(19), Some(Duration::from_secs(19)));
        tries.turn();
        assert_eq!(
            tries.after(&heeding, &asking(1), 0.0),
            None,
            "the next target does not renew the request's patience"
        );
        assert_eq!(tries.told(), -1);
        // Who does not heed it backs off.
        let mut tries = Tries::default();
        let wait = tries.after(&times(1), &asking(3_600), 0.5);
        assert_eq!(wait, Some(Duration::from_millis(250)));
    }

    #[test]
    fn the_next_target_starts_anew() {
        let mut tries = Tries::default();
        assert!(tries.after(&times(1), &outcome(500), 1.0).is_some());
        assert!(tries.after(&times(1), &outcome(500), 1.0).is_none());
        tries.turn();
        assert_eq!(tries.told(), 0);
        assert!(tries.after(&times(1), &outcome(500), 1.0).is_some());
        tries.forgo();
        assert_eq!(tries.told(), -1);
        let wait = tries.after(&times(1), &outcome(500), 1.0);
        assert_eq!(wait, Some(Duration::from_millis(500)));
    }

    #[test]
    fn headers_say_when_to_come_back() {
        // 2026-11-24 19:30:00 GMT.
        let now = 1_795_548_600;
        let read = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            retry_after(&headers, now).map(|wait| wait.as_millis())
        };
        let day = Some(86_400_000);
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<u128>);
        let cases: &[Case<'_>] = &[
            (&[], None),
            (&[("retry-after", "2")], Some(2_000)),
            (&[("retry-after", " 2 ")], Some(2_000)),
            (&[("retry-after", "0")], Some(0)),
            (&[("retry-after", "1.5")], Some(1_500)),
            (&[("retry-after-ms", "250")], Some(250)),
            (&[("retry-after-ms", "250.5")], Some(250)),
            (
                &[("x-ms-retry-after-ms", "70"), ("retry-after", "1")],
                Some(70),
            ),
            (
                &[("retry-after-ms", "60"), ("x-ms-retry-after-ms", "70")],
                Some(60),
            ),
            (
                &[("retry-after-ms", "soon"), ("retry-after", "3")],
                Some(3_000),
            ),
            (
                &[("retry-after", "Tue, 24 Nov 2026 19:30:07 GMT")],
                Some(7_000),
            ),
            (
                &[("retry-after", "Tuesday, 24-Nov-26 19:30:07 GMT")],
                Some(7_000),
            ),
            (&[("retry-after", "Tue Nov 24 19:30:07 2026")], Some(7_000)),
            (&[("retry-after", "Tue, 24 Nov 2026 19:29:59 GMT")], Some(0)),
            (&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], day),
            (&[("retry-after", "99999999999999999999999999")], day),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "+1")], None),
            (&[("retry-after", "1e3")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", ".")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "later")], None),
            (&[("retry-after", "2, 3")], None),
        ];
        for (pairs, expected) in cases {
            assert_eq!(read(pairs), *expected, "{pairs:?}");
        }
        // What the client is told.
        for (value, told) in [
            ("2", Some("2")),
            ("0", Some("0")),
            ("1.01", Some("2")),
            ("Tue, 24 Nov 2026 19:30:07 GMT", Some("7")),
            ("Tue, 24 Nov 2026 19:29:59 GMT", Some("0")),
            ("99999999999999999999999999", Some("86400")),
            ("-1", None),
            ("soon", None),
        ] {
            let value = HeaderValue::from_static(value);
            let seconds = whole_seconds(&value, now);
            assert_eq!(seconds, told.map(HeaderValue::from_static), "{value:?}");
        }
        let mut headers = HeaderMap::new();
        let bytes = HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        headers.insert("retry-after", bytes);
        assert_eq!(retry_after(&headers, now), None);
    }
}
