//! One request's life.

mod output;
pub mod relay;
