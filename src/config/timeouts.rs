//! `x-completions-timeouts`: the deadlines that a client sets for its own request, as `first_token=2000, total=30000` in
//! milliseconds. They shorten the conf's, never lengthen them.

use std::time::Duration;

use super::{Timeouts, headers::Own};
use crate::error::Error;

/// A client's own deadlines; what it does not name is the conf's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub connect: Option<Duration>,
    pub first_token: Option<Duration>,
    pub idle: Option<Duration>,
    pub total: Option<Duration>,
}

impl Asked {
    pub fn read(own: &Own<'_>) -> Result<Self, Error> {
        let Some(list) = own.text(TIMEOUTS)? else {
            return Ok(Self::default());
        };
        let mut asked = Self::default();
        for entry in list.split(',') {
            asked.take(entry.trim()).ok_or_else(wrong)?;
        }
        Ok(asked)
    }

    /// `None`: it is no deadline of ours, or one that was named before.
    fn take(&mut self, entry: &str) -> Option<()> {
        let (name, millis) = entry.split_once('=')?;
        let place = match name.trim_end() {
            "connect" => &mut self.connect,
            "first_token" => &mut self.first_token,
            "idle" => &mut self.idle,
            "total" => &mut self.total,
            _ => return None,
        };
        let millis = millis
            .trim_start()
            .parse()
            .ok()
            .filter(|&millis| millis > 0)?;
        match place.replace(Duration::from_millis(millis)) {
            None => Some(()),
            Some(_) => None,
        }
    }

    /// These within the conf's.
    pub fn within(self, conf: &Timeouts) -> Self {
        let least =
            |own: Option<Duration>, conf: Option<Duration>| own.into_iter().chain(conf).min();
        Self {
            // The peer has the conf's already.
            connect: self.connect.filter(|own| *own < conf.connect),
            first_token: least(self.first_token, conf.first_token),
            idle: least(self.idle, conf.idle),
            total: self.total,
        }
    }

    /// The whole request's.
    pub fn total(self, conf: &Timeouts) -> Duration {
        self.total.map_or(conf.total, |own| own.min(conf.total))
    }
}

fn wrong() -> Error {
    let message = format!(
        "`{TIMEOUTS}` must be a list of `connect`, `first_token`, `idle` and `total`, each once, with whole milliseconds, such as `first_token=2000, total=30000`."
    );
    Error::invalid(TIMEOUTS, message)
}

pub const TIMEOUTS: &str = "x-completions-timeouts";

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn read(value: &'static str) -> Result<Asked, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUTS, value.parse().unwrap());
        Asked::read(&Own::of(&headers))
    }

    #[test]
    fn a_client_shortens_what_the_conf_allows() {
        let conf = Timeouts {
            idle: Some(Duration::from_secs(1)),
            ..Timeouts::default()
        };
        let asked = read("connect=50,first_token = 70 , idle=5000, total=9000").unwrap();
        let held = asked.within(&conf);
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis());
        assert_eq!(millis(held.connect), Some(50));
        assert_eq!(millis(held.first_token), Some(70));
        assert_eq!(millis(held.idle), Some(1000));
        assert_eq!(asked.total(&conf), Duration::from_secs(9));
        let long = read("connect=60000, total=9000000").unwrap();
        assert_eq!(
            (long.within(&conf).connect, long.total(&conf)),
            (None, conf.total)
        );
        assert_eq!(
            Asked::read(&Own::of(&HeaderMap::new())).unwrap(),
            Asked::default()
        );
    }

    #[test]
    fn what_is_no_deadline_is_refused_by_name() {
        for value in [
            "total",
            "total=",
            "total=0",
            "total=1.5",
            "total=-1",
            "total=1s",
            "read=5",
            "idle=1,idle=2",
            "idle=1,",
            "=1",
        ] {
            let error = read(value).expect_err(value);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some(TIMEOUTS)),
                "{value}"
            );
        }
    }
}
