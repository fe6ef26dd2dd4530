//! The built-in providers, one row each.
//!
//! A row says where the provider is, which dialect it speaks and how it takes its key; `refuses` holds what its own
//! documentation leaves out of that dialect, so that a client learns it from a 400 rather than from a wrong result. Text
//! completions are used where a provider has them for its current models, else chat. The list follows Portkey's slugs, also
//! of services that have closed: those say what took their place. A few more stand beside them.

use std::sync::LazyLock;

use http::HeaderName;

use crate::{
    completion::{
        Mark,
        Parameter::{
            self, BestOf, Echo, FrequencyPenalty, LogitBias, Logprobs, N, PresencePenalty, Prompts,
            Seed, Stop, Suffix, TokenIds, User,
        },
    },
    dialect::{
        Dialect,
        anthropic::ANTHROPIC,
        bedrock::BEDROCK as CONVERSE,
        bedrock_invoke::BEDROCK_INVOKE as INVOKE,
        chat::CHAT,
        cohere::COHERE,
        fim::FIM,
        gemini::GEMINI,
        mistral::MISTRAL,
        oci::OCI,
        openai::OPENAI,
        replicate::REPLICATE,
        sagemaker::{SAGEMAKER as CONTAINER, SAGEMAKER_CHAT, SAGEMAKER_OPENAI},
        tgi::TGI,
        triton::TRITON,
        vertex::VERTEX,
        watsonx::WATSONX as TEXT_GENERATION,
        workers_ai::WORKERS_AI as WORKERS,
    },
    provider::{
        Auth, Row,
        place::Place::{self, At, Own, Retired, With},
        scheme::{Part, Scheme},
        templates::{
            AZURE_AI, AZURE_OPENAI, BEDROCK, CORTEX, HUGGINGFACE, HUGGINGFACE_TGI, MISTRAL_AI,
            ORACLE, PREDIBASE, SAGEMAKER, TGI_LACKS, VERTEX_AI, WATSONX, WORKERS_AI,
        },
    },
};

/// Sorted by name. How the start of an answer is given is told for rows of text completions too: a conf can have them speak
/// `chat`. The pages it is documented on stand in `dialect/chat_turns.rs`.
#[rustfmt::skip] // A table: one provider a line.
pub static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    vec![
        chat("302ai", "https://api.302.ai/v1", &[]),
        chat("ai21", "https://api.ai21.com/studio/v1", &[PresencePenalty, FrequencyPenalty, User, Seed, LogitBias, Logprobs]),
        chat("aibadgr", "https://aibadgr.com/api/v1", &[]),
        row("anthropic", At("https://api.anthropic.com/v1"), &ANTHROPIC, X_API_KEY, &[]),
        closed("anyscale", "anyscale closed its public endpoints in 2024. Its models are at together-ai, fireworks-ai and others."),
        row("azure-ai", With(AZURE_AI), &CHAT, API_KEY, &[]).with(Scheme::Azure),
        row("azure-openai", With(AZURE_OPENAI), &OPENAI, API_KEY, &[]).with(Scheme::Azure),
        chat("baseten", "https://inference.baseten.co/v1", &[N, LogitBias, User]),
        row("bedrock", With(BEDROCK), &CONVERSE, Auth::Bearer, &[]).with(Scheme::Aws("bedrock")),
        row("bedrock-invoke", With(BEDROCK), &INVOKE, Auth::Bearer, &[]).with(Scheme::Aws("bedrock")),
        text("bytez", "https://api.bytez.com/models/v2/openai/v1", &[Prompts, TokenIds, N, Stop, Suffix, Echo, BestOf, User, Seed, LogitBias]),
        text("cerebras", "https://api.cerebras.ai/v1", &[PresencePenalty, FrequencyPenalty, LogitBias]),
        row("codestral", At("https://codestral.mistral.ai/v1"), &FIM, Auth::Bearer, &[]),
        row("cohere", At("https://api.cohere.com/v2"), &COHERE, Auth::Bearer, &[]),
        chat("cometapi", "https://api.cometapi.com/v1", &[]),
        row("cortex", With(CORTEX), &CHAT, Auth::Bearer, &[N, Seed, LogitBias, User, Logprobs]),
        chat("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", &[LogitBias, User]).prefilled(Mark::Partial),
        own_chat("databricks"),
        chat("deepbricks", "https://api.deepbricks.ai/v1", &[]),
        text("deepinfra", "https://api.deepinfra.com/v1/openai", &[Prompts, Suffix, BestOf, LogitBias]),
        // Its text completions stand under /beta alone.
        text("deepseek", "https://api.deepseek.com/beta", &[Prompts, TokenIds, N, BestOf, User, Seed, LogitBias]).prefilled(Mark::Prefix).prefilled(Mark::Prefix),
        text("featherless-ai", "https://api.featherless.ai/v1", &[Suffix, BestOf]),
        text("fireworks-ai", "https://api.fireworks.ai/inference/v1", &[Suffix, BestOf]),
        chat("friendliai", "https://api.friendli.ai/serverless/v1", &[N, LogitBias, User]),
        chat("github", "https://models.github.ai/inference", &[]),
        row("google", At("https://generativelanguage.googleapis.com/v1beta"), &GEMINI, X_GOOG_API_KEY, &[]),
        chat("groq", "https://api.groq.com/openai/v1", &[N, PresencePenalty, FrequencyPenalty, LogitBias, Logprobs]).prefilled(Mark::Role),
        row("huggingface", With(HUGGINGFACE), &CHAT, Auth::Bearer, &[]),
        row("huggingface-tgi", With(HUGGINGFACE_TGI), &TGI, Auth::Bearer, &[]),
        text("hyperbolic", "https://api.hyperbolic.xyz/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf]),
        chat("inference-net", "https://api.inference.net/v1", &[]),
        chat("iointelligence", "https://api.intelligence.io.solutions/api/v1", &[]),
        closed("kluster-ai", "kluster-ai has closed. Its models are at deepinfra, together-ai and others."),
        chat("krutrim", "https://cloud.olakrutrim.com/v1", &[]),
        closed("lambda", "lambda closed its inference API in 2025. Its models are at deepinfra, together-ai and others."),
        chat("lemonfox-ai", "https://api.lemonfox.ai/v1", &[N, Seed, LogitBias, Logprobs]),
        closed("lepton", "lepton closed its public API in 2025, when it became a part of nvidia. See the provider nvidia."),
        chat("lingyi", "https://api.lingyiwanwu.com/v1", &[]),
        own("llama-cpp", &[Suffix, Echo, BestOf, Logprobs]),
        own("lm-studio", &[Prompts, TokenIds, N, Suffix, Echo, BestOf, Logprobs]),
        own("lorax", &[Prompts, TokenIds, Suffix, BestOf, LogitBias]),
        chat("matterai", "https://api.matterai.so/v1", &[]),
        row("mistral-ai", With(MISTRAL_AI), &MISTRAL, Auth::Bearer, &[User, LogitBias]),
        own("modal", &[Suffix, BestOf]),
        chat("monsterapi", "https://llm.monsterapi.ai/v1", &[N, Seed, LogitBias, User, Logprobs]),
        chat("moonshot", "https://api.moonshot.cn/v1", &[Seed, LogitBias, User, Logprobs]).prefilled(Mark::Partial),
        chat("ncompass", "https://api.ncompass.tech/v1", &[N]),
        text("nebius", "https://api.tokenfactory.nebius.com/v1", &[Suffix, BestOf]),
        text("nextbit", "https://api.nextbit256.com/v1", &[]),
        text("novita-ai", "https://api.novita.ai/openai/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf]),
        chat("nscale", "https://inference.api.nscale.com/v1", &[User, Seed]),
        chat("nvidia", "https://integrate.api.nvidia.com/v1", &[N, User, LogitBias]),
        own("ollama", &[Prompts, TokenIds, N, Echo, BestOf, Logprobs, LogitBias]),
        text("openai", "https://api.openai.com/v1", &[]),
        text("openrouter", "https://openrouter.ai/api/v1", &[Prompts, TokenIds, N, Suffix, Echo, BestOf, Logprobs]).prefilled(Mark::Role).prefilled(Mark::Role),
        row("oracle", With(ORACLE), &OCI, Auth::None, &[]).with(Scheme::Oci),
        text("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", &[Suffix, BestOf]),
        closed("palm", "palm was shut down in 2024. Its successor is the provider google."),
        chat("perplexity-ai", "https://api.perplexity.ai", &[N, Seed, LogitBias, User, Logprobs]),
        row("predibase", With(PREDIBASE), &CHAT, Auth::Bearer, &[LogitBias, User]),
        // Its own shape at /v1/chat has given way to OpenAI's.
        chat("reka-ai", "https://api.reka.ai/v1", &[N, User, LogitBias, Logprobs]),
        row("replicate", At("https://api.replicate.com/v1"), &REPLICATE, Auth::Bearer, &[]),
        row("sagemaker", With(SAGEMAKER), &CONTAINER, Auth::None, &[]).with(Scheme::Aws("sagemaker")),
        row("sagemaker-chat", With(SAGEMAKER), &SAGEMAKER_CHAT, Auth::None, &[]).with(Scheme::Aws("sagemaker")),
        row("sagemaker-openai", With(SAGEMAKER), &SAGEMAKER_OPENAI, Auth::None, &[Suffix, BestOf]).with(Scheme::Aws("sagemaker")),
        chat("sambanova", "https://api.sambanova.ai/v1", &[N, PresencePenalty, FrequencyPenalty, Seed, LogitBias, User, Logprobs]),
        // It tells the chosen tokens without their alternatives.
        chat("scaleway", "https://api.scaleway.ai/v1", &[N, FrequencyPenalty, LogitBias, User, Logprobs]),
        own("sglang", &[Suffix, BestOf]).prefilled(Mark::ContinueFinalMessage),
        chat("siliconflow", "https://api.siliconflow.cn/v1", &[Seed, LogitBias, User, Logprobs]),
        own("tensorrt-llm", &[Suffix, Echo, BestOf]),
        own("tgi", TGI_LACKS),
        // Its echo stands beside the choices, in a `prompt` of its own, not before the text.
        text("together-ai", "https://api.together.xyz/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf, User]),
        row("triton", Own("/v2/models/ensemble"), &TRITON, Auth::None, &[]),
        chat("upstage", "https://api.upstage.ai/v1/solar", &[N, Seed, LogitBias, User, Logprobs]),
        row("vertex-ai", With(VERTEX_AI), &VERTEX, Auth::Bearer, &[]).with(Scheme::Google),
        own("vllm", &[Suffix, BestOf]).prefilled(Mark::ContinueFinalMessage).prefilled(Mark::ContinueFinalMessage),
        row("watsonx", With(WATSONX), &TEXT_GENERATION, Auth::Bearer, &[]),
        row("workers-ai", With(WORKERS_AI), &WORKERS, Auth::Bearer, &[]),
        chat("x-ai", "https://api.x.ai/v1", &[LogitBias]),
        chat("z-ai", "https://api.z.ai/api/paas/v4", ZHIPU_LACKS),
        chat("zhipu", "https://open.bigmodel.cn/api/paas/v4", ZHIPU_LACKS),
    ]
});

/// Whether some provider's place has a slot, or its credentials a part that a client may name, of this name.
pub fn is_option(name: &str) -> bool {
    ROWS.iter().any(|row| {
        let part = |part: &Part| part.name == name && !part.header.is_empty();
        row.place.slots().any(|slot| slot.name == name) || row.scheme.parts().iter().any(part)
    })
}

const ZHIPU_LACKS: &[Parameter] = &[
    N,
    PresencePenalty,
    FrequencyPenalty,
    User,
    Seed,
    LogitBias,
    Logprobs,
];

const API_KEY: Auth = Auth::Header(HeaderName::from_static("api-key"));
const X_API_KEY: Auth = Auth::Header(HeaderName::from_static("x-api-key"));
const X_GOOG_API_KEY: Auth = Auth::Header(HeaderName::from_static("x-goog-api-key"));

const fn row(
    name: &'static str,
    place: Place,
    dialect: &'static dyn Dialect,
    auth: Auth,
    refuses: &'static [Parameter],
) -> Row {
    Row {
        name,
        place,
        dialect,
        auth,
        scheme: Scheme::Key,
        refuses,
        prefill: None,
    }
}

impl Row {
    /// The same row, in whose chat the start of the answer can be given.
    fn prefilled(self, mark: Mark) -> Self {
        Self {
            prefill: Some(mark),
            ..self
        }
    }

    /// The same row, with credentials of several parts.
    fn with(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }
}

/// A provider of OpenAI-shaped chat.
const fn chat(name: &'static str, base_url: &'static str, refuses: &'static [Parameter]) -> Row {
    row(name, At(base_url), &CHAT, Auth::Bearer, refuses)
}

/// A provider of OpenAI-shaped text completions.
const fn text(name: &'static str, base_url: &'static str, refuses: &'static [Parameter]) -> Row {
    row(name, At(base_url), &OPENAI, Auth::Bearer, refuses)
}

/// A server that users run themselves: a conf, or the client, names its host.
const fn own(name: &'static str, refuses: &'static [Parameter]) -> Row {
    row(name, Own("/v1"), &OPENAI, Auth::Bearer, refuses)
}

/// A server of OpenAI-shaped chat that users run themselves.
const fn own_chat(name: &'static str) -> Row {
    row(name, Own("/serving-endpoints"), &CHAT, Auth::Bearer, &[])
}

/// A provider whose service has closed, and what took its place.
const fn closed(name: &'static str, instead: &'static str) -> Row {
    row(name, Retired(instead), &CHAT, Auth::Bearer, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{
        Base,
        base::Scheme,
        place::{Condition, Grammar, Named, NamedBy, Slot},
    };

    #[test]
    fn rows_are_sorted_and_named_once() {
        assert!(ROWS.is_sorted_by(|one, next| one.name < next.name));
    }

    #[test]
    fn every_public_base_url_is_well_formed_and_encrypted() {
        for row in ROWS.iter() {
            match row.place {
                At(url) => {
                    let base = Base::try_new(url, "base_url").unwrap();
                    assert_eq!(base.scheme, Scheme::Https, "{}", row.name);
                    assert_eq!(base.to_string(), url);
                }
                With(templates) => {
                    let last = templates.last().unwrap().only_if;
                    assert!(matches!(last, Condition::Always), "{}", row.name);
                    for template in templates {
                        let example = |slot: &Slot| {
                            let (value, by) = (slot.example.to_owned(), NamedBy::Conf);
                            let known = !matches!(slot.grammar, Grammar::Unused(_));
                            Ok(known.then_some(Named { value, by }))
                        };
                        let filled = template.fill("m", &example).unwrap();
                        assert_eq!(filled.base.scheme, Scheme::Https, "{}", row.name);
                        assert!(
                            !filled.base.to_string().contains(['{', '}']),
                            "{}",
                            row.name
                        );
                        assert!(!filled.query.contains(['{', '}']), "{}", row.name);
                    }
                }
                Own(_) | Retired(_) => {}
            }
        }
    }

    #[test]
    fn what_a_row_refuses_its_dialect_would_carry() {
        for row in ROWS.iter() {
            for parameter in row.refuses {
                let support = row.dialect.support(*parameter);
                assert_ne!(
                    support,
                    crate::completion::Support::Refused,
                    "{} {parameter:?}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn the_providers_that_clients_name_most_are_there() {
        for name in [
            "openai",
            "together-ai",
            "groq",
            "mistral-ai",
            "deepseek",
            "anthropic",
            "google",
            "openrouter",
            "fireworks-ai",
            "x-ai",
            "perplexity-ai",
            "deepinfra",
            "cerebras",
            "vllm",
            "llama-cpp",
            "ollama",
            "lm-studio",
            "sglang",
            "tgi",
        ] {
            assert!(ROWS.iter().any(|row| row.name == name), "{name}");
        }
    }
}
