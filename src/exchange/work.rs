//! What a completion takes: one call of its provider, or several.

use std::{sync::Arc, time::Duration};

use super::{Exchange, Seed, Terms, edits::Role, fan_out::FanOut, split::Share};
use crate::{
    error::Error,
    provider::{Target, live::LiveToken},
};

/// The calls of one completion.
#[derive(Debug)]
pub enum Work {
    /// One call.
    One(Box<Exchange>),
    Many(Box<FanOut>),
}

impl Work {
    pub fn try_new(
        mut shares: Vec<Share>,
        target: Target,
        terms: Terms,
        seed: Seed,
    ) -> Result<Self, Error> {
        let target = Arc::new(target);
        match shares.pop() {
            Some(share) if shares.is_empty() && share.plan.role == Role::Whole => {
                let exchange = Exchange::try_new(share, target, &terms, seed)?;
                Ok(Self::One(Box::new(exchange)))
            }
            last => {
                shares.extend(last);
                let fan_out = FanOut::try_new(shares, target, terms, seed)?;
                Ok(Self::Many(Box::new(fan_out)))
            }
        }
    }

    pub fn target(&self) -> &Arc<Target> {
        match self {
            Self::One(exchange) => &exchange.target,
            Self::Many(fan_out) => fan_out.target(),
        }
    }

    /// The client's own deadline for the whole of it.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::One(exchange) => exchange.timeout(),
            Self::Many(fan_out) => fan_out.timeout(),
        }
    }

    /// Takes the token that the target's credential was exchanged for; before a head is written.
    pub fn settle(&mut self, token: LiveToken) {
        match self {
            Self::One(exchange) => exchange.settle(token),
            Self::Many(fan_out) => fan_out.settle(token),
        }
    }
}
