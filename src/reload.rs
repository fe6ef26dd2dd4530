//! A new conf for a process that runs, by SIGHUP or `POST /reload` on the operator's port.
//!
//! The file is read again, whole, and every name and secret in it resolved, before anything changes: a conf that is refused
//! leaves the old one in use. What a process takes from its conf at its start alone, such as its listeners, stays as it is and
//! is named.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, ConfigError},
    proxy::Gateway,
    server::Ready,
};

/// Reads the conf as it stands at that moment.
pub type Reread = Box<dyn Fn() -> Result<Ready, ConfigError> + Send + Sync>;

/// What else takes something from a conf that has just come into use, such as a listener its certificates. It cannot refuse:
/// what is wrong with a conf is found out when it is read.
pub type Renewal = Box<dyn Fn(&Config) + Send + Sync>;

/// Settings by their place in the conf, in words: none of them is a secret.
pub type Fixed = BTreeMap<String, String>;

/// A conf that came into use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values are not in use.
    pub needs_restart: Vec<String>,
}

/// Brings the conf of a gateway up to date.
pub struct Reloader {
    gateway: Gateway,
    reread: Reread,
    /// What this process was started with.
    fixed: Fixed,
    renewals: Vec<Renewal>,
    /// Two at a time could leave the older conf in use.
    turn: Mutex<()>,
}

impl Reloader {
    pub fn new(gateway: Gateway, reread: Reread, fixed: Fixed, renewals: Vec<Renewal>) -> Self {
        Self {
            gateway,
            reread,
            fixed,
            renewals,
            turn: Mutex::default(),
        }
    }

    /// Whether another process takes over, which reads the conf for itself.
    pub fn is_retiring(&self) -> bool {
        let edition = self.gateway.edition.load();
        edition.upstream.leaving().is_retiring()
    }

    /// Reads the conf again and puts it to use, or says why it is not.
    pub async fn reload(self: &Arc<Self>) -> Result<Reloaded, ConfigError> {
        let reloader = self.clone();
        // Files are read, and a tokenizer's takes its time.
        let reloading = tokio::task::spawn_blocking(move || reloader.reload_now());
        let reloaded = reloading.await.unwrap_or_else(|_| Err(stopped()));
        let counter = match &reloaded {
            Ok(_) => "applied",
            Err(_) => "refused",
        };
        self.gateway
            .edition
            .load()
            .state
            .metrics
            .count_reload(counter);
        match &reloaded {
            Ok(Reloaded { needs_restart }) if needs_restart.is_empty() => {
                log::info!("the conf was reloaded");
            }
            Ok(Reloaded { needs_restart }) => {
                let keys = needs_restart.join(", ");
                log::warn!(
                    "the conf was reloaded, but what is new of these needs a restart: {keys}"
                );
            }
            Err(error) => log::error!("the conf was not reloaded, the old one stays: {error}"),
        }
        reloaded
    }

    fn reload_now(&self) -> Result<Reloaded, ConfigError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = (self.reread)()?;
        let needs_restart = changed(&self.fixed, &ready.fixed());
        let mut config = ready.into_config();
        config.tls = as_bound(&self.gateway.edition.load().state.config.tls, &config.tls);
        for renewal in &self.renewals {
            renewal(&config);
        }
        self.gateway.renew(config);
        Ok(Reloaded { needs_restart })
    }
}

/// Reloads at every SIGHUP.
pub struct Hangup(pub Arc<Reloader>);

#[async_trait]
impl BackgroundService for Hangup {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                log::error!("SIGHUP cannot be heard: {error}");
                return;
            }
        };
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                heard = hangup.recv() => match heard {
                    // It is in the log how it went.
                    Some(()) => drop(self.0.reload().await),
                    None => return,
                },
            }
        }
    }
}

/// What `new` says of the ports that are open, and of no other. One of which it says nothing any more stays as it is: a port
/// of TLS must not turn into one without because its address in the conf is another.
fn as_bound<T: Clone>(old: &BTreeMap<u16, T>, new: &BTreeMap<u16, T>) -> BTreeMap<u16, T> {
    let kept = |(port, old): (&u16, &T)| (*port, new.get(port).unwrap_or(old).clone());
    old.iter().map(kept).collect()
}

/// Keys that are not what they were.
fn changed(old: &Fixed, new: &Fixed) -> Vec<String> {
    let differs = |key: &&String| old.get(*key) != new.get(*key);
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut keys: Vec<String> = new.keys().filter(differs).chain(gone).cloned().collect();
    keys.sort();
    keys
}

fn stopped() -> ConfigError {
    ConfigError {
        file: String::new(),
        line: 0,
        path: String::new(),
        message: "reading the conf came to no end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_open_keeps_its_tls_and_gets_its_new_certificate() {
        let old = BTreeMap::from([(443, "a"), (444, "b")]);
        let new = BTreeMap::from([(443, "renewed"), (8443, "b")]);
        let bound = BTreeMap::from([(443, "renewed"), (444, "b")]);
        assert_eq!(as_bound(&old, &new), bound);
    }

    #[test]
    fn keys_that_are_new_other_or_gone_are_named() {
        let fixed = |pairs: &[(&str, &str)]| -> Fixed {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        let old = fixed(&[("gone", "1"), ("other", "1"), ("same", "1")]);
        let new = fixed(&[("new", "1"), ("other", "2"), ("same", "1")]);
        assert_eq!(changed(&old, &new), ["gone", "new", "other"]);
        assert!(changed(&new, &new).is_empty());
    }
}
