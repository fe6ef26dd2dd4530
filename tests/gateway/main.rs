//! The binary, end to end, over real sockets on loopback.

mod bodies;
mod canary;
mod catalogue;
mod chaos;
mod completions;
mod counts;
mod credentials;
mod deadlines;
mod embedding;
mod fallback;
mod fan_out;
mod faults;
mod follow;
mod front;
mod gaps;
mod handover;
mod head;
mod headers;
#[path = "../fixtures/heads.rs"]
mod heads;
mod health;
mod hedge;
mod http2;
mod identities;
mod leaving;
mod passing;
mod portkey;
mod process;
mod prompt_as;
mod providers;
mod reload;
mod support;
mod tls;
mod upstream_tls;
