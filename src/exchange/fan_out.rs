//! A request that takes several calls of its provider: each has an exchange of its own, and their choices become one answer.
//!
//! ```text
//!              ┌─▶ Exchange (shift 0) ─┐
//!  shares ─────┼─▶ Exchange (shift 1) ─┼─▶ one reply, or events as they come; then the counts of all, and the end
//!              └─▶ Exchange (shift 2) ─┘
//! ```

use std::{iter, sync::Arc};

use bytes::Bytes;

use super::{
    Deadlines, Exchange, ReplyForm, Report, Seed, Terms,
    relay::Counts,
    reply::{Gathered, OwnedChoice},
    seeded,
    split::Share,
};
use crate::{
    completion::{Completion, Partial, Usage},
    dialect::UpstreamRequest,
    error::Error,
    exchange::relay::Relay,
    provider::Target,
};

/// The calls of one request.
#[derive(Debug)]
pub struct FanOut {
    target: Arc<Target>,
    reply: ReplyForm,
    terms: Terms,
    counts: Counts,
    seed: Partial,
    /// In the order of their choices.
    parts: Vec<Exchange>,
    failure: Option<Error>,
}

/// Bounds of a fan-out.
#[derive(Clone, Copy, Debug)]
pub struct FanOutLimits {
    /// Calls in flight at a time.
    pub concurrent_calls: usize,
    /// Bytes of all their bodies together.
    pub bytes: usize,
}

impl FanOut {
    /// `rest`: the shares behind the first. Each is gone once its body is written.
    pub fn try_new(
        (first, rest): (Share, impl Iterator<Item = Result<Share, Error>>),
        target: Arc<Target>,
        terms: Terms,
        seed: Seed,
    ) -> Result<Self, Error> {
        let request = &first.request;
        let (reply, counts) = (ReplyForm::asked(request), Counts::asked(request));
        let seed = seeded(request, seed);
        let mut parts = Vec::new();
        let mut last: Option<UpstreamRequest> = None;
        let mut bytes: usize = 0;
        for share in iter::once(Ok(first)).chain(rest) {
            let share = share?;
            let body = match last.take().filter(|_| share.repeats) {
                Some(same) => same,
                None => target.provider.dialect.write_request(&share.request)?,
            };
            if !share.repeats {
                bytes = bytes.saturating_add(body.body.len());
                check_bytes(bytes, terms.fan_out.bytes)?;
            }
            last = Some(body.clone());
            parts.push(Exchange::part(
                share,
                body,
                target.clone(),
                &terms,
                seed.clone(),
            ));
        }
        Ok(Self {
            target,
            reply,
            terms,
            counts,
            seed,
            parts,
            failure: None,
        })
    }

    pub fn parts_mut(&mut self) -> &mut [Exchange] {
        &mut self.parts
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub fn reply(&self) -> ReplyForm {
        self.reply
    }

    pub fn deadlines(&self) -> &Deadlines {
        &self.terms.deadlines
    }

    /// Calls in flight at a time; at least 1.
    pub fn concurrent_calls(&self) -> usize {
        self.terms.fan_out.concurrent_calls.max(1)
    }

    /// Changes the target of all calls.
    pub fn change_target(&mut self, change: impl FnOnce(&mut Target)) {
        change(Arc::make_mut(&mut self.target));
        for part in &mut self.parts {
            part.target = self.target.clone();
        }
    }

    /// One of the calls failed: the request has.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// All counts added up; `None` unless every call told its own: part of a sum is a wrong one.
    pub fn usage(&self) -> Option<Usage> {
        let usages = self.relays().map(|relay| relay?.partial().usage);
        usages
            .reduce(|sum, usage| Some(sum?.plus(usage?)))
            .flatten()
    }

    /// The client's whole answer. `choices`: those of each call, in any order.
    pub fn write_reply(&self, choices: Gathered) -> Bytes {
        let choices = choices.in_order(self.terms.best);
        let reply = Completion {
            choices: choices.iter().map(OwnedChoice::as_choice).collect(),
        };
        let mut out = Vec::new();
        self.partial()
            .write_reply(&reply, self.terms.compliance, &mut out);
        Bytes::from(out)
    }

    /// What ends the client's stream.
    pub fn end_stream(&self) -> Bytes {
        let mut out = Vec::new();
        if self.counts != Counts::None {
            self.partial().write_usage(&mut out);
        }
        out.extend_from_slice(DONE);
        Bytes::from(out)
    }

    pub fn report(&self) -> Report<'_> {
        Report {
            model: &self.seed.model,
            reply: self.reply,
            calls: self.parts.len(),
            usage: self.usage().or_else(|| self.counted()),
            unknown: self
                .relays()
                .flatten()
                .map(|relay| relay.partial().unknown)
                .sum(),
            failure: self.failure.as_ref(),
        }
    }

    /// What the calls that told a count come to: the least that the provider will bill.
    fn counted(&self) -> Option<Usage> {
        let told = self.relays().filter_map(|relay| relay?.partial().usage);
        told.reduce(Usage::plus)
    }

    /// The answer's own head: the model as the provider names it.
    fn partial(&self) -> Partial {
        let models = self.relays().flatten().map(|relay| &relay.partial().model);
        Partial {
            model: models
                .into_iter()
                .next()
                .unwrap_or(&self.seed.model)
                .clone(),
            usage: self.usage(),
            ..self.seed.clone()
        }
    }

    fn relays(&self) -> impl Iterator<Item = Option<&Relay>> {
        self.parts.iter().map(Exchange::relay)
    }
}

/// Each prompt is written into a body of its own beside the rest of the request.
fn check_bytes(bytes: usize, limit: usize) -> Result<(), Error> {
    if bytes > limit {
        let message =
            format!("The calls that the request takes are larger than {limit} bytes together.");
        return Err(Error::invalid("prompt", message));
    }
    Ok(())
}

const DONE: &[u8] = b"data: [DONE]\n\n";
