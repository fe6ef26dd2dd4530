//! Two counts over the last ten seconds, in fixed memory.

use std::time::Instant;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Ten buckets of one second each, written over as time goes round.
#[derive(Clone, Debug)]
pub struct Window {
    start: Instant,
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Seconds from the window's start; what an older one holds is past.
    second: u64,
    left: u32,
    right: u32,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            buckets: [Bucket::default(); BUCKETS],
        }
    }

    pub fn add(&mut self, side: Side, now: Instant) {
        let second = self.second(now);
        let at = usize::try_from(second % SPAN).unwrap_or_default();
        let Some(bucket) = self.buckets.get_mut(at) else {
            return;
        };
        if bucket.second != second {
            *bucket = Bucket {
                second,
                ..Bucket::default()
            };
        }
        let count = match side {
            Side::Left => &mut bucket.left,
            Side::Right => &mut bucket.right,
        };
        *count = count.saturating_add(1);
    }

    /// Left and right, of the last ten seconds.
    pub fn sums(&self, now: Instant) -> (u64, u64) {
        let second = self.second(now);
        let recent = |bucket: &&Bucket| bucket.second <= second && second - bucket.second < SPAN;
        let recent = self.buckets.iter().filter(recent);
        recent.fold((0, 0), |(left, right), bucket| {
            (left + u64::from(bucket.left), right + u64::from(bucket.right))
        })
    }

    pub fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }
}

const BUCKETS: usize = 10;
/// Seconds that a window looks back; as many as it has buckets.
pub const SPAN: u64 = BUCKETS as u64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_are_kept_for_ten_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = Window::new(start);
        window.add(Side::Left, at(0));
        window.add(Side::Right, at(999));
        window.add(Side::Right, at(5_000));
        assert_eq!(window.sums(at(5_000)), (1, 2));
        assert_eq!(window.sums(at(9_999)), (1, 2));
        assert_eq!(window.sums(at(10_000)), (0, 1), "the first second is past");
        window.add(Side::Left, at(10_500));
        assert_eq!(window.sums(at(14_999)), (1, 1));
        assert_eq!(window.sums(at(15_000)), (1, 0));
        assert_eq!(window.sums(at(1_000_000)), (0, 0));
        window.clear();
        assert_eq!(window.sums(at(10_500)), (0, 0));
    }

    #[test]
    fn a_time_before_the_start_counts_as_the_start() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut window = Window::new(start);
        window.add(Side::Left, start - Duration::from_secs(30));
        assert_eq!(window.sums(start), (1, 0));
    }
}
