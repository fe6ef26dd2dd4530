//! The relay of one upstream's answer as a test case wants it: which dialect, what the client asked, which edits.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::{
    check::{self, CLIENT_KEY},
    frames::messages,
    input::{Input, pieces},
};
use crate::{
    completion::{Compliance, Partial, Shape},
    config::Config,
    dialect::{
        Dialect, anthropic, bedrock, bedrock_invoke, chat, cohere, fim, gemini, mistral, oci,
        ollama, openai, replicate, sagemaker, tgi, triton, vertex, watsonx, workers_ai,
    },
    error::Error,
    exchange::{
        edits::{Plan, Role},
        relay::{Answer, Counts, Relay, Wishes},
    },
    provider::{Credential, Secret, Target, target::Choice},
    wire::Framing,
};

/// How a test case is read.
pub struct Asked {
    pub dialect: &'static dyn Dialect,
    pub wishes: Wishes,
    pub plan: Plan,
    pub shape: Shape,
    /// The client reads what the provider speaks.
    pub verbatim: bool,
}

impl Asked {
    /// Of the first three bytes.
    fn read(input: &mut Input<'_>) -> Self {
        let choice = usize::from(input.byte() & 0x7f) % ALL.len();
        let (how, edits) = (input.byte(), input.byte());
        let dialect = ALL.get(choice).copied().unwrap_or(&openai::OPENAI);
        let verbatim = choice == VERBATIM;
        let wishes = wishes(how);
        if verbatim || how & 0x20 != 0 {
            // That endpoint has one choice, without an echo.
            return Self {
                dialect,
                wishes: Wishes {
                    choices: 1,
                    ..wishes
                },
                plan: plan(edits & 0x31, 1),
                shape: Shape::Fim,
                verbatim,
            };
        }
        Self {
            dialect,
            wishes,
            plan: plan(edits, wishes.choices),
            shape: Shape::Text,
            verbatim,
        }
    }
}

/// What came out of a relay.
#[derive(Debug)]
pub struct Relayed {
    pub bytes: Vec<u8>,
    /// The client gets this in place of an answer.
    pub end: Option<Error>,
    pub failed: bool,
}

/// Relays the bytes behind four that say how; whole and in pieces, which is the same.
pub fn same_at_every_cut(bytes: &[u8], answer: Answer) -> (Relayed, Asked) {
    let mut input = Input::new(bytes);
    let asked = Asked::read(&mut input);
    let cuts = input.byte();
    let dialect = asked.dialect;
    let framed = match dialect.framing() {
        Framing::EventStream | Framing::PayloadParts if answer != Answer::Whole => {
            messages(input.rest())
        }
        _ => input.rest().to_vec(),
    };
    let run = |pieces: &[&[u8]]| {
        let partial = Partial {
            shape: asked.shape,
            ..seeded()
        };
        let mut relay = Relay::new(dialect, partial, asked.wishes, answer).for_target(target());
        if !asked.plan.is_empty() {
            relay = relay.with_edits(asked.plan.clone());
        }
        relay_of(&mut relay, pieces)
    };
    let whole = run(&[&framed]);
    let cut = run(&pieces(cuts, &framed));
    assert_eq!(check::show(&whole.bytes), check::show(&cut.bytes));
    assert!(whole.bytes == cut.bytes, "a cut changes the answer");
    assert_eq!(told(&whole), told(&cut));
    let most = framed
        .len()
        .saturating_mul(MOST_TIMES)
        .saturating_add(MOST_MORE);
    assert!(
        whole.bytes.len() <= most,
        "{} bytes of {}",
        whole.bytes.len(),
        framed.len()
    );
    (whole, asked)
}

fn told(relayed: &Relayed) -> (Option<String>, bool) {
    let end = relayed.end.as_ref().map(|error| check::show(&error.body()));
    (end, relayed.failed)
}

pub fn relay_of(relay: &mut Relay, pieces: &[&[u8]]) -> Relayed {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&relay.push(Bytes::copy_from_slice(piece)));
    }
    let end = match relay.finish() {
        Ok(rest) => {
            bytes.extend_from_slice(&rest);
            None
        }
        Err(error) => Some(error),
    };
    if let Some(failure) = relay.failure() {
        check::error(failure, CLIENT_KEY);
    }
    Relayed {
        bytes,
        end,
        failed: relay.failure().is_some(),
    }
}

pub fn wishes(how: u8) -> Wishes {
    Wishes {
        compliance: if how & 1 == 0 {
            Compliance::Strict
        } else {
            Compliance::Loose
        },
        counts: match how >> 1 & 3 {
            0 => Counts::None,
            1 => Counts::Final,
            _ => Counts::Running,
        },
        choices: u32::from(how >> 3 & 3).max(1),
        max_event_bytes: if how & 0x40 == 0 { 1 << 20 } else { 512 },
    }
}

/// What the gateway does to the answer; 0: nothing.
fn plan(edits: u8, choices: u32) -> Plan {
    let has = |bit: u8| edits >> bit & 1 == 1;
    let prompt: Arc<str> = Arc::from("Say é: ");
    Plan {
        shift: if has(3) { 7 } else { 0 },
        choices,
        repeated: has(0).then(|| prompt.clone()),
        echo: has(1).then_some(prompt),
        stops: match edits >> 4 & 3 {
            0 => Arc::default(),
            1 => Arc::from(["END".to_owned()]),
            2 => Arc::from(["\n\n".to_owned(), "é\"".to_owned()]),
            _ => Arc::from(["aab".to_owned(), "ab".to_owned(), "b".to_owned()]),
        },
        role: if has(3) { Role::Part } else { Role::Whole },
    }
}

pub fn seeded() -> Partial {
    Partial {
        id: "cmpl-0".to_owned(),
        created: 1,
        model: "m".to_owned(),
        limit: 16,
        ..Partial::default()
    }
}

/// One whose key must not come back.
pub fn target() -> Arc<Target> {
    static TARGET: LazyLock<Arc<Target>> = LazyLock::new(|| {
        let choice = Choice {
            custom: None,
            credential: Secret::try_new(CLIENT_KEY).map(Credential::Key),
            held: None,
            model: "m",
            option: &|_| Ok(None),
        };
        let openai = Config::default().provider("openai");
        let target = openai.and_then(|provider| Target::try_new(provider, choice));
        check::made(target.map(Arc::new))
    });
    TARGET.clone()
}

/// Every dialect, and the variants that some have.
pub const ALL: &[&dyn Dialect] = &[
    &fim::VERBATIM,
    &openai::OPENAI,
    &chat::CHAT,
    &mistral::MISTRAL,
    &fim::FIM,
    &anthropic::ANTHROPIC,
    &gemini::GEMINI,
    &ollama::OLLAMA,
    &cohere::COHERE,
    &tgi::TGI,
    &triton::TRITON,
    &vertex::VERTEX,
    &oci::OCI,
    &workers_ai::WORKERS_AI,
    &bedrock::BEDROCK,
    &bedrock_invoke::BEDROCK_INVOKE,
    &watsonx::WATSONX,
    &replicate::REPLICATE,
    &sagemaker::SAGEMAKER,
    &sagemaker::SAGEMAKER_OPENAI,
    &sagemaker::SAGEMAKER_CHAT,
    &oci::OCI_COHERE,
    &vertex::VERTEX_ANTHROPIC,
    &vertex::VERTEX_MISTRAL,
    &vertex::VERTEX_OPEN,
    &tgi::TGI_INVOCATIONS,
    &openai::OPENAI_UNCOUNTED,
];

/// The place in [`ALL`] of the dialect of Mistral's own endpoint.
const VERBATIM: usize = 0;
/// An answer may be this much larger than what the upstream sent: `{}` in a list of choices becomes a whole choice.
const MOST_TIMES: usize = 64;
const MOST_MORE: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::ALL;
    use crate::dialect::DIALECTS;

    /// Its order is the corpus's, so that it is written down; what it lacks would never be tried.
    #[test]
    fn every_dialect_is_tried() {
        let tried = |name: &str| ALL.iter().any(|dialect| dialect.name() == name);
        for dialect in DIALECTS {
            assert!(tried(dialect.name()), "{}", dialect.name());
        }
    }
}
