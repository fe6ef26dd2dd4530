//! How many calls of fan-outs are in flight to one host: a request of a thousand prompts must not be a flood for its provider.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::provider::Base;

/// The lanes of every host. Plain requests, one call each, do not need one.
#[derive(Debug)]
pub struct Lanes {
    /// Of each host.
    size: usize,
    by_host: Mutex<HashMap<(String, u16), Arc<Semaphore>>>,
}

impl Lanes {
    pub fn new(size: usize) -> Self {
        Self {
            size: size.clamp(1, Semaphore::MAX_PERMITS),
            by_host: Mutex::default(),
        }
    }

    /// The same ones, unless their number is another.
    pub fn resized(lanes: &Arc<Self>, size: usize) -> Arc<Self> {
        match Self::new(size) {
            other if other.size != lanes.size => Arc::new(other),
            _ => lanes.clone(),
        }
    }

    /// Waits for one to `base`. It is free again when what comes back is dropped.
    pub async fn enter(&self, base: &Base) -> Option<OwnedSemaphorePermit> {
        // Nobody closes these: `None` is never seen.
        self.of(base).acquire_owned().await.ok()
    }

    fn of(&self, base: &Base) -> Arc<Semaphore> {
        let key = (base.host.clone(), base.port);
        let mut by_host = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        if by_host.len() >= MAX_IDLE_HOSTS && !by_host.contains_key(&key) {
            by_host.retain(|_, lanes| Arc::strong_count(lanes) > 1);
        }
        let lanes = by_host.entry(key);
        lanes
            .or_insert_with(|| Arc::new(Semaphore::new(self.size)))
            .clone()
    }
}

/// Clients can name hosts (a region, an account): those nobody calls now are forgotten.
const MAX_IDLE_HOSTS: usize = 1_024;
