//! A Pingora filter that makes every LLM provider speak OpenAI's `POST /v1/completions`.
#![forbid(unsafe_code)]

pub mod completion;
mod config;
pub mod dialect;
mod error;
mod exchange;
mod gateway;
mod metrics;
pub mod provider;
mod route;
mod wire;

pub use error::Error;
