//! What a completion takes: one call of its provider, or several.

use std::sync::Arc;

use super::{Deadlines, Exchange, Seed, Terms, edits::Role, fan_out::FanOut, split::Share};
use crate::{
    error::Error,
    provider::{
        Target,
        live::LiveToken,
        pool::{KeyPool, TakenKey},
    },
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
        mut shares: impl Iterator<Item = Result<Share, Error>>,
        target: Target,
        terms: Terms,
        seed: Seed,
    ) -> Result<Self, Error> {
        let target = Arc::new(target);
        let first = shares.next().transpose()?;
        let first = first.ok_or_else(|| Error::invalid("prompt", "`prompt` must not be empty."))?;
        if first.plan.role == Role::Whole {
            let exchange = Exchange::try_new(first, target, &terms, seed)?;
            return Ok(Self::One(Box::new(exchange)));
        }
        let fan_out = FanOut::try_new((first, shares), target, terms, seed)?;
        Ok(Self::Many(Box::new(fan_out)))
    }

    pub fn target(&self) -> &Arc<Target> {
        match self {
            Self::One(exchange) => &exchange.target,
            Self::Many(fan_out) => fan_out.target(),
        }
    }

    pub fn deadlines(&self) -> &Deadlines {
        match self {
            Self::One(exchange) => exchange.deadlines(),
            Self::Many(fan_out) => fan_out.deadlines(),
        }
    }

    /// Takes the token that the target's credential was exchanged for; before a head is written.
    pub fn settle(&mut self, token: LiveToken) {
        self.change_target(|target| target.settle(token));
    }

    /// Takes one of the target's keys, if it has several; before a head is written.
    pub fn take_key(&mut self, choose: impl FnOnce(&Arc<KeyPool>) -> Option<TakenKey>) {
        if let Some(key) = self.target().pool().and_then(choose) {
            self.change_target(|target| target.take(key));
        }
    }

    fn change_target(&mut self, change: impl FnOnce(&mut Target)) {
        match self {
            Self::One(exchange) => exchange.change_target(change),
            Self::Many(fan_out) => fan_out.change_target(change),
        }
    }
}
