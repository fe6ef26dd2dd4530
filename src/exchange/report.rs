//! What a request came to.

use super::ReplyForm;
use crate::{completion::Usage, error::Error};

/// What an exchange comes to, for the log and the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub model: &'a str,
    pub reply: ReplyForm,
    /// Calls of the provider.
    pub calls: usize,
    pub usage: Option<Usage>,
    /// Events that were left out, as their kind is not known.
    pub unknown: u64,
    pub failure: Option<&'a Error>,
}
