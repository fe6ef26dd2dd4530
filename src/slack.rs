//! Gives memory back that nobody uses any more.
//!
//! An allocator keeps what is freed for the next who asks, and the binary's looks only while it frees something large whether
//! there is something that nobody has asked for in a while. A process that falls silent after a wave of streams frees nothing any
//! more: without this it would keep the wave's memory until the next one.

use std::{hint::black_box, time::Duration};

use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::time::{MissedTickBehavior, interval};

/// Frees something large now and then.
pub struct Slack;

#[async_trait]
impl BackgroundService for Slack {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut period = interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                _ = period.tick() => drop(black_box(Vec::<u8>::with_capacity(LARGE_BYTES))),
            }
        }
    }
}

const PERIOD: Duration = Duration::from_secs(2);
/// Has pages of its own in any allocator. None of them is touched, so that the system has no work with it.
const LARGE_BYTES: usize = 1 << 20;
