//! Fuzz targets: what has to hold for any bytes whatever.
//!
//! A target is a plain function of bytes that panics where something does not hold. The first bytes of a test case choose among
//! dialects, cuts and wishes, the rest is what a client or an upstream sent. Two things call them:
//!
//! * the test in `replay`, in every run of the tests: each line of `fuzz/corpus`, all fixtures, and a fixed number of mutations of both;
//! * `fuzz/`, which is not part of a release: under libFuzzer, led by coverage, for as long as one likes (`fuzz/README.md`).
//!
//! A new target is one function and one row of [`TARGETS`].

mod addresses;
mod answers;
mod chance;
mod check;
mod conf;
pub mod corpus;
mod fan_out;
mod frames;
mod heads;
mod input;
mod relays;
#[cfg(test)]
mod replay;
mod requests;
mod seeds;

pub use chance::Chance;

/// One thing that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics where an invariant does not hold.
    pub run: fn(&[u8]),
    /// The test cases that a file of the repository gives, by its path and what is in it.
    pub seeds: fn(&str, &[u8]) -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($module:ident: $($name:ident)*;)*) => {
        pub const TARGETS: &[Target] = &[$($(Target {
            name: stringify!($name),
            run: $module::$name,
            seeds: seeds::$name,
        },)*)*];

        #[cfg(test)]
        mod replayed {
            use super::{Target, replay, seeds};
            $($(#[test]
            fn $name() {
                replay::target(Target {
                    name: stringify!($name),
                    run: super::$module::$name,
                    seeds: seeds::$name,
                });
            })*)*
        }
    };
}

targets! {
    frames: sse json_lines event_stream message;
    answers: frame failure reply stream;
    requests: request head config;
    heads: raw_head;
    fan_out: fan_out;
    conf: conf pause;
    addresses: base place follow reach json stars;
}
