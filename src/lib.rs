//! A Pingora filter that makes every LLM provider speak OpenAI's `POST /v1/completions`.
#![forbid(unsafe_code)]

mod admin;
pub mod completion;
mod conductor;
mod config;
mod context;
pub mod dialect;
mod door;
mod downstream;
mod emulator;
mod error;
mod exchange;
mod gateway;
mod metrics;
pub mod provider;
mod proxy;
mod route;
pub mod server;
mod upstream;
mod wire;

pub use config::{Config, ConfigError, Surroundings};
pub use error::Error;
pub use proxy::Gateway;
