//! The request of Text Generation Inference's own API, as its schema writes it; see [`super::tgi`].

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{extras, positive_max_tokens, tgi::Address, unsigned_seed};
use crate::{completion::CompletionRequest, error::Error};

#[derive(Serialize)]
pub(super) struct Body<'a> {
    inputs: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    parameters: Parameters<'a>,
}

#[derive(Serialize)]
struct Parameters<'a> {
    max_new_tokens: u64,
    /// Reason and counts come with them.
    details: bool,
    do_sample: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_of: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_full_text: Option<bool>,
    /// The tokens themselves come with `details`.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_n_tokens: Option<u32>,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

impl<'a> Body<'a> {
    pub(super) fn try_new(request: &'a CompletionRequest, address: Address) -> Result<Self, Error> {
        let told = address == Address::Invocations;
        let echo = request.echo == Some(true);
        // Its tokens are streamed without the prompt, whatever is asked for.
        if echo && request.stream {
            return Err(Error::invalid(
                "echo",
                "`echo` cannot be streamed by this provider.",
            ));
        }
        // The prompt's tokens are not told with it.
        if echo && request.logprobs.is_some() {
            return Err(Error::invalid(
                "logprobs",
                "`logprobs` cannot be told beside `echo` by this provider.",
            ));
        }
        // "`temperature` must be strictly positive": the likeliest token is taken where nothing is sampled.
        let greedy = request.temperature == Some(0.0);
        Ok(Self {
            inputs: request.sole_text()?,
            stream: told.then_some(request.stream),
            parameters: Parameters {
                max_new_tokens: positive_max_tokens(request)?,
                details: true,
                do_sample: !greedy,
                temperature: request.temperature.filter(|_| !greedy),
                top_p: top_p(request)?.filter(|_| !greedy),
                stop: &request.stop,
                seed: unsigned_seed(request)?,
                frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
                best_of: request.best_of.filter(|&n| n > 1),
                return_full_text: (echo || told).then_some(echo),
                top_n_tokens: request.logprobs.filter(|&count| count > 0),
                extra: extras(request).collect(),
            },
        })
    }
}

/// "`top_p` must be > 0.0 and < 1.0"; 1 cuts nothing off.
fn top_p(request: &CompletionRequest) -> Result<Option<f64>, Error> {
    match request.top_p {
        Some(p) if p <= 0.0 => Err(Error::invalid(
            "top_p",
            "`top_p` must be above 0 for this provider.",
        )),
        p => Ok(p.filter(|&p| p < 1.0)),
    }
}
