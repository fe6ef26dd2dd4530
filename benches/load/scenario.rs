//! What the ways are asked.

use std::time::Duration;

use pingora_completions::bench::{Question, Rate, template};

use crate::upstream::PROMPTS;

/// One load. Whoever only passes on is asked the upstream's own text completion; the gateway has to do more for some of them.
pub struct Scenario {
    pub name: &'static str,
    pub told: &'static str,
    pub connections: usize,
    pub question: Question,
    /// Of the upstream, before `/v1`.
    pub path: &'static str,
    /// To the gateway.
    pub header: &'static str,
    /// Whether it is one text completion for the gateway, too: then other AI gateways can be asked the same.
    pub is_one_completion: bool,
    pub abort_after: Option<u32>,
    /// Arrivals, however many are under way. `None`: the next comes when one has ended.
    pub rate: Option<Rate>,
    /// One answer, from its first byte to its last.
    pub lasts: Duration,
    pub rounds: u32,
    /// In how many turns a round is taken.
    pub turns: u32,
}

impl Scenario {
    pub fn named(name: &str) -> Self {
        let mut all = scenarios().into_iter();
        all.find(|scenario| scenario.name == name).unwrap()
    }

    /// A call of a fan-out that is its request's only one.
    pub fn alone() -> Self {
        Self {
            question: question(),
            connections: CONNECTIONS,
            ..Self::named("fan-out")
        }
    }
}

pub fn scenarios() -> Vec<Scenario> {
    let plain = |name, told| Scenario {
        name,
        told,
        connections: CONNECTIONS,
        question: question(),
        path: "",
        header: "x-portkey-provider: openai",
        is_one_completion: true,
        abort_after: None,
        rate: None,
        lasts: Duration::ZERO,
        rounds: ROUNDS,
        turns: TURNS,
    };
    let streamed = Question {
        stream: true,
        ..question()
    };
    // As many events a second in all, of however many streams.
    let crowd = |name, told| Scenario {
        connections: 400,
        question: streamed.clone(),
        turns: 1,
        // LiteLLM needs a model of its own for each place.
        is_one_completion: false,
        ..plain(name, told)
    };
    vec![
        plain("plain", "100-byte prompt, answered whole"),
        Scenario {
            question: streamed.clone(),
            ..plain("streamed", "16 tokens in one write")
        },
        Scenario {
            connections: 200,
            question: Question {
                model: Some("paced".to_owned()),
                ..streamed.clone()
            },
            path: "/paced",
            lasts: Duration::from_secs(1),
            turns: 1,
            header: "x-portkey-provider: paced",
            ..plain("paced", "streams of 50 tokens, one each 20 ms")
        },
        Scenario {
            // So many that a hundred are under way.
            rate: Some("250".parse().unwrap()),
            path: "/crowd/10",
            lasts: Duration::from_millis(400),
            header: "x-portkey-provider: hundred",
            ..crowd(
                "hundred",
                "streams of 40 tokens, one each 10 ms, 250 more each second",
            )
        },
        Scenario {
            rate: Some("250".parse().unwrap()),
            path: "/crowd/10",
            lasts: Duration::from_millis(400),
            header: "x-portkey-provider: hundred-anthropic",
            ..crowd(
                "hundred-anthropic",
                "the same, which the gateway translates from the Messages API",
            )
        },
        Scenario {
            connections: 1_000,
            path: "/crowd/100",
            lasts: Duration::from_secs(4),
            header: "x-portkey-provider: thousand",
            ..crowd("thousand", "streams of 40 tokens, one each 100 ms")
        },
        Scenario {
            connections: 5_000,
            path: "/crowd/500",
            lasts: Duration::from_secs(20),
            header: "x-portkey-provider: five-thousand",
            rounds: 2,
            ..crowd("five-thousand", "streams of 40 tokens, one each 500 ms")
        },
        Scenario {
            header: "x-portkey-provider: anthropic",
            is_one_completion: false,
            ..plain(
                "anthropic",
                "the gateway translates to the Messages API and back",
            )
        },
        Scenario {
            header: "x-portkey-provider: google",
            is_one_completion: false,
            ..plain("gemini", "the gateway translates to Gemini and back")
        },
        Scenario {
            header: "x-portkey-provider: anthropic",
            question: streamed.clone(),
            is_one_completion: false,
            ..plain(
                "anthropic-streamed",
                "16 tokens in one write, which the gateway translates from the Messages API",
            )
        },
        Scenario {
            header: "x-portkey-provider: google",
            question: streamed.clone(),
            is_one_completion: false,
            ..plain(
                "gemini-streamed",
                "16 tokens in one write, which the gateway translates from Gemini",
            )
        },
        Scenario {
            connections: 2,
            question: Question {
                prompts: PROMPTS,
                ..question()
            },
            path: "/list",
            header: "x-portkey-provider: single",
            is_one_completion: false,
            ..plain(
                "fan-out",
                "24 prompts: one call, but 24 of the gateway's, to a provider that takes one prompt",
            )
        },
        Scenario {
            header: FALLBACK,
            is_one_completion: false,
            ..plain(
                "fallback",
                "each tenth call of the gateway's fails and is made elsewhere",
            )
        },
        Scenario {
            connections: 8,
            question: Question {
                prompt: template::prompt(1 << 20),
                ..question()
            },
            ..plain("megabyte", "prompts of 1 MB")
        },
        Scenario {
            question: streamed,
            abort_after: Some(1),
            ..plain(
                "aborts",
                "streams that are left at their first event, each with a connection of its own",
            )
        },
    ]
}

fn question() -> Question {
    Question {
        model: Some("gpt-3.5-turbo-instruct".to_owned()),
        prompt: template::prompt(100),
        max_tokens: Some(20),
        usage: true,
        ..Question::default()
    }
}

const CONNECTIONS: usize = 32;
pub const ROUNDS: u32 = 5;
const TURNS: u32 = 8;
const FALLBACK: &str = r#"x-portkey-config: {"strategy":{"mode":"fallback"},"targets":[{"provider":"flaky"},{"provider":"openai"}]}"#;
