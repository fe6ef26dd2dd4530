//! The binary, end to end, over real sockets on loopback.

mod bodies;
mod canary;
mod completions;
mod counts;
mod credentials;
mod embedding;
mod faults;
mod http2;
mod leaving;
mod passing;
mod process;
mod providers;
mod support;
