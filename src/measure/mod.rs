//! What a load on a `/v1/completions` server is, and what came of it: requests, their schedule, how an answer is judged,
//! figures and reports. Pure: bytes and durations in, numbers and text out. `bench` carries it out.

pub mod answer;
mod body;
pub mod endpoint;
#[cfg(test)]
mod fixtures;
pub mod html;
mod plot;
pub mod process;
pub mod schedule;
pub mod summary;
pub mod table;
pub mod tally;
pub mod template;
