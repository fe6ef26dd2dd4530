//! What Linux tells of a process: its CPU time and its memory, from the texts of `/proc`.

use std::time::Duration;

/// A process as it was at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// User and system time of all its threads, in steps of 10 ms.
    pub cpu: Duration,
    /// The most memory it has had resident in its life, in bytes.
    pub peak: u64,
}

impl Reading {
    /// Of the texts of `/proc/PID/stat` and `/proc/PID/status`.
    pub fn of(stat: &str, status: &str) -> Option<Self> {
        // A program's name, in brackets, may hold anything.
        let fields = stat.rsplit_once(')')?.1;
        let mut times = fields.split_whitespace().skip(11);
        let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = peak.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            cpu: TICK.saturating_mul(u32::try_from(user.checked_add(system)?).ok()?),
            peak: kilobytes.checked_mul(1024)?,
        })
    }
}

/// `USER_HZ` is 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 4 0 100 1 1 1";
    const STATUS: &str = "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";

    #[test]
    fn cpu_and_peak_are_read_from_what_linux_writes() {
        let reading = Reading::of(STAT, STATUS).unwrap();
        assert_eq!(
            (reading.cpu, reading.peak),
            (Duration::from_secs(3), 2 << 20)
        );
        for (stat, status) in [
            ("", STATUS),
            (STAT, ""),
            ("7 (x) S 1", STATUS),
            (STAT, "VmHWM: x kB"),
        ] {
            assert_eq!(Reading::of(stat, status), None);
        }
    }
}
