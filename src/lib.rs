//! A Pingora filter that makes every LLM provider speak OpenAI's `POST /v1/completions`.
//!
//! A client sends a text completion and names a provider, or lets the conf choose. The gateway says it in the provider's own
//! dialect, and what comes back becomes a `text_completion` again, whole or streamed. Every other path passes unchanged.
//!
//! ```text
//!  client bytes                                                                  upstream bytes
//!      │ head                                                                         ▲      │
//!      ▼                                                                              │      ▼
//!  config::headers ── who is called, with which key, on which terms                   │   wire: frames
//!      │ body                                                                         │      │
//!      ▼                                                                              │      ▼
//!  completion::request ──▶ gateway ──▶ Exchange ──▶ Dialect::write_request ───────────┘   Dialect::read_frame
//!    CompletionRequest      provider      │                                                  │ a chunk
//!                           and model     ▼                                                  ▼
//!                         client bytes ◀───────────── completion: the writer ◀──────────── Relay
//! ```
//!
//! **Everything between the sockets is free of IO**: bytes in, bytes out, with the time and a random number as arguments.
//! That is what lets a test feed a stream at every possible cut. **Three carriers move the bytes, and decide nothing**:
//! a conductor, for completions; gather, for those that take several calls of their provider; and Pingora's own phases, for
//! every other path and, where a conf wants no heartbeats, plain streams. All interpret the same exchange.
//!
//! **Who does what** of a request is settled once, before anything goes upstream (`dialect::settle`): the provider, the gateway
//! in its place, or nobody, which is a 400 that names the parameter.
//!
//! # A tour
//!
//! | room | what it holds |
//! |---|---|
//! | [`Error`] | the one error: whose fault, which status, what the client is told |
//! | `depth`, `surrogates` | how deep JSON is nested; half of a character in it |
//! | `pattern` | names with `*` in them |
//! | `scan` | JSON read where it stands |
//! | `head` | a request's head, checked byte by byte; how far its body reaches |
//! | `wire` | bytes ⇄ frames: server-sent events, JSON lines, AWS event streams, cut anywhere |
//! | [`completion`] | the request and the answer of the API page, and the set of its parameters |
//! | [`dialect`] | how one family of APIs says "completion"; the table of what it can carry |
//! | [`provider`] | where a call goes and as whom: one row per provider |
//! | `route`, `metrics` | the model map; the counters |
//! | `keys` | the keys that the gateway gives to clients: who asks, and what they may ask for |
//! | `front`, `tls` | the apps that the gateway stands in front of; the listeners' certificates |
//! | `health` | what is remembered of targets: circuits, paces, budgets; the choice among several |
//! | `config` | the YAML conf and the request headers, as [`Config`] and its parts |
//! | `exchange` | one request's life: the calls it takes, how an answer is read and edited, the relay |
//! | `passage` | a request of the transparent proxy |
//! | `gateway` | a request's head and body become an answer, a passage or an exchange |
//! | `tokens`, `issuer` | the tokens that some credentials are exchanged for: kept and refreshed, fetched |
//! | `proxy`, `passing`, `relaying`, `reception`, `conductor`, `gather`, `tunnel`, `client`, `leg`, `pulse`, `pursuit`, `lanes`, `places`, `opening`, `call`, `upstream`, `idle`, `resolver`, `downstream`, `arrival`, `context`, `ticket`, `door`, `intake`, `h2_intake`, `refusal`, `edition`, `drain`, `mishap`, `race`, `regard`, `quoted`, `slack` | the IO around it |
//! | `measure`, `bench` | a load on any server and what came of it; sending it |
//! | [`server`], `reload`, `admin`, `emulator`, `log_queue` | the process: listeners, the operator's port, the emulated providers, the log's lines |
//! | `fuzzing`, `counting` | what has to hold for any bytes; steps whose instructions are counted; in no release |
//!
//! Imports point down this table; `tests/layers.rs` holds it.
//!
//! # Inside another Pingora service
//!
//! [`Gateway`] is a [`ProxyHttp`](pingora::proxy::ProxyHttp):
//!
//! ```no_run
//! use pingora::{prelude::Server, proxy::http_proxy_service};
//! use pingora_completions::{Config, Gateway};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = Server::new(None)?;
//! server.bootstrap();
//! let gateway = Gateway::new(Config::default(), &server.configuration)?;
//! let mut service = http_proxy_service(&server.configuration, gateway);
//! service.add_tcp("127.0.0.1:8787");
//! server.add_service(service);
//! server.run_forever();
//! # }
//! ```
//!
//! and serves one request of another filter with [`Gateway::serve`].
#![forbid(unsafe_code)]
// A panic ends a client's request, and an operator's process where it is the wrong thread: tests may, nothing else.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod admin;
mod arrival;
pub mod bench;
mod call;
mod client;
pub mod completion;
mod conductor;
mod config;
mod context;
#[cfg(feature = "counting")]
#[doc(hidden)]
pub mod counting;
mod depth;
pub mod dialect;
mod door;
mod downstream;
mod drain;
mod edition;
#[expect(
    clippy::indexing_slicing,
    reason = "it writes fields into JSON objects of its own making; it is no part of the road of a request"
)]
mod emulator;
mod error;
mod exchange;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod gather;
mod guard;
mod h2_intake;
mod head;
mod health;
mod idle;
mod intake;
mod issuer;
mod keys;
mod lanes;
mod leg;
mod log_queue;
mod measure;
mod metrics;
mod mishap;
mod opening;
mod passage;
mod passing;
mod pattern;
mod places;
pub mod provider;
mod proxy;
mod pulse;
mod pursuit;
mod quoted;
mod race;
mod reception;
mod refusal;
mod regard;
mod relaying;
mod reload;
mod resolver;
mod route;
mod scan;
pub mod server;
mod slack;
mod surrogates;
mod ticket;
mod tls;
mod tokens;
mod tunnel;
mod upstream;
mod wire;

pub use config::{Config, ConfigError, Reader, Surroundings, source::Source};
pub use context::Context;
pub use error::Error;
#[doc(hidden)]
pub use exchange::relay;
pub use keys::{KeyHash, new_key};
pub use log_queue::LogQueue;
pub use proxy::Gateway;
pub use reload::Reread;
