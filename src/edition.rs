//! One reading of the conf, and what was made of it. A reload puts the next one in its place; a request keeps the one it met
//! to its end, so that it never sees two confs. What the gateway learned and holds (counters, connections, addresses, tokens)
//! goes from edition to edition.

use std::sync::Arc;

use pingora::server::configuration::ServerConf;

use crate::{
    config::Config, error::Error, gateway::State, places::Places, proxy::Gateway,
    upstream::Upstream,
};

/// The gateway under one conf.
pub struct Edition {
    pub state: State,
    pub upstream: Arc<Upstream>,
    pub places: Arc<Places>,
}

impl Edition {
    /// The first one; `conf` sizes the connection pool of the gateway's own calls.
    pub fn first(config: Config, conf: &ServerConf) -> Result<Self, Error> {
        let (timeouts, lanes) = (config.timeouts, config.limits.upstream_calls);
        Ok(Self {
            upstream: Arc::new(Upstream::new(conf, timeouts, lanes)),
            state: State::try_new(config)?,
            places: Arc::default(),
        })
    }

    /// The one that follows under `config`.
    pub fn next(&self, config: Config) -> Self {
        let (timeouts, lanes) = (config.timeouts, config.limits.upstream_calls);
        Self {
            upstream: Arc::new(self.upstream.under(timeouts, lanes)),
            state: self.state.under(config),
            places: self.places.clone(),
        }
    }

    /// Looks up the conf's hosts whose time has come, in the background.
    pub fn look_up(&self) {
        self.upstream.resolver().keep(&self.state.config.hosts());
    }
}

impl Gateway {
    /// Serves the requests that come from now on under `config`; those in flight end under the conf that they met.
    pub fn renew(&self, config: Config) {
        let next = self.edition.load().next(config);
        self.tokens.fetch_by(next.upstream.clone());
        next.look_up();
        self.edition.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Weak, time::Duration};

    use super::*;

    fn with_total(seconds: u64) -> Config {
        let mut config = Config::default();
        config.timeouts.total = Duration::from_secs(seconds);
        config
    }

    #[test]
    fn a_request_ends_under_the_conf_it_met() {
        let gateway = Gateway::new(with_total(1), &ServerConf::default()).unwrap();
        let met = gateway.edition.load_full();
        gateway.renew(with_total(2));
        let total = |edition: &Edition| edition.upstream.timeouts().total.as_secs();
        assert_eq!((total(&met), total(&gateway.edition.load())), (1, 2));
    }

    #[test]
    fn counters_and_connections_go_from_edition_to_edition() {
        let gateway = Gateway::new(with_total(1), &ServerConf::default()).unwrap();
        gateway.edition.load().state.metrics.in_flight.inc();
        gateway.clone().renew(with_total(2));
        assert_eq!(gateway.edition.load().state.metrics.in_flight.get(), 1);
    }

    #[test]
    fn an_edition_that_nobody_is_served_under_is_gone() {
        let gateway = Gateway::new(with_total(1), &ServerConf::default()).unwrap();
        let editions: Vec<Weak<Edition>> = (2..9)
            .map(|seconds| {
                let current = Arc::downgrade(&gateway.edition.load_full());
                gateway.renew(with_total(seconds));
                current
            })
            .collect();
        assert!(editions.iter().all(|edition| edition.upgrade().is_none()));
    }
}
