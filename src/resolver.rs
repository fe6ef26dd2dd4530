//! Names to addresses.
//!
//! Names are resolved here because Pingora's own way blocks a worker and panics on a name without an address. An answer is
//! kept, and a stale one is used while a task fetches the next: only the first call to a host waits for its resolver.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Kind},
    provider::Base,
};

/// Addresses by host and port.
#[derive(Debug, Default)]
pub struct Resolver {
    known: Mutex<HashMap<(String, u16), Known>>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Which of them is in use.
    turn: usize,
    asked: Instant,
}

impl Resolver {
    pub async fn resolve(
        self: &Arc<Self>,
        base: &Base,
        patience: Duration,
    ) -> Result<SocketAddr, Error> {
        if let Ok(address) = base.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, base.port));
        }
        let key = (base.host.clone(), base.port);
        match self.known(&key) {
            Some((address, Age::Fresh)) => Ok(address),
            Some((address, Age::Stale)) => {
                let resolver = self.clone();
                tokio::spawn(async move { resolver.look_up(key, patience).await });
                Ok(address)
            }
            None => self.look_up(key, patience).await.ok_or_else(|| {
                Error::new(Kind::Dns, "The provider's host name could not be resolved.")
            }),
        }
    }

    /// A stale entry counts as asked for at once, so that one task refreshes it, not every call.
    fn known(&self, key: &(String, u16)) -> Option<(SocketAddr, Age)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get_mut(key)?;
        let address = entry
            .addresses
            .get(entry.turn % entry.addresses.len().max(1))?;
        if entry.asked.elapsed() < FRESH {
            return Some((*address, Age::Fresh));
        }
        entry.asked = Instant::now();
        Some((*address, Age::Stale))
    }

    async fn look_up(&self, key: (String, u16), patience: Duration) -> Option<SocketAddr> {
        let found = tokio::net::lookup_host((key.0.as_str(), key.1));
        let addresses: Vec<_> = tokio::time::timeout(patience, found)
            .await
            .ok()?
            .ok()?
            .collect();
        let first = *addresses.first()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_HOSTS {
            known.clear();
        }
        let entry = Known {
            addresses,
            turn: 0,
            asked: Instant::now(),
        };
        known.insert(key, entry);
        Some(first)
    }

    /// `base` took no connection: its next address has its turn.
    pub fn turn(&self, base: &Base) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get_mut(&(base.host.clone(), base.port)) {
            entry.turn = entry.turn.wrapping_add(1);
        }
    }
}

enum Age {
    Fresh,
    Stale,
}

/// How long a name's addresses are used without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// Names come from the conf, and from the hosts that it allows: a long list of those must not fill the memory.
const MAX_HOSTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> Base {
        Base::try_new(url, "base_url").unwrap()
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer_and_names_are_remembered() {
        let resolver = Arc::new(Resolver::default());
        let second = Duration::from_secs(1);
        let literal = resolver.resolve(&base("http://127.0.0.1:81"), second).await;
        assert_eq!(literal.unwrap(), "127.0.0.1:81".parse().unwrap());
        let local = base("http://localhost:82");
        let first = resolver.resolve(&local, second).await.unwrap();
        assert!(first.ip().is_loopback());
        // Nothing is left to wait for: the answer comes from memory.
        assert_eq!(
            resolver.resolve(&local, Duration::ZERO).await.unwrap(),
            first
        );
    }

    #[tokio::test]
    async fn a_failed_connection_turns_to_the_next_address() {
        let resolver = Arc::new(Resolver::default());
        let two: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse().unwrap());
        let entry = Known {
            addresses: two.to_vec(),
            turn: 0,
            asked: Instant::now(),
        };
        let host = base("http://two.example:1");
        resolver
            .known
            .lock()
            .unwrap()
            .insert((host.host.clone(), 1), entry);
        for expected in [two[0], two[1], two[0]] {
            let address = resolver.resolve(&host, Duration::ZERO).await.unwrap();
            assert_eq!(address, expected);
            resolver.turn(&host);
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_and_no_panic() {
        let resolver = Arc::new(Resolver::default());
        let error = resolver
            .resolve(&base("http://nowhere.invalid"), Duration::from_millis(200))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Dns);
    }
}
