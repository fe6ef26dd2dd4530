//! The built-in providers, one row each.
//!
//! A row says where the provider is, which dialect it speaks and how it takes its key; `refuses` holds what its own
//! documentation leaves out of that dialect, so that a client learns it from a 400 rather than from a wrong result. Text
//! completions are used where a provider has them for its current models, else chat. The list follows Portkey's slugs.
//! Not here, because their service has closed: anyscale, kluster-ai, lambda, lepton, palm. Not here yet, because their
//! addresses or credentials need more than a row: Azure, Bedrock, Vertex, Workers AI and their like.

use std::sync::LazyLock;

use http::HeaderName;

use crate::{
    completion::Parameter::{
        self, BestOf, Echo, FrequencyPenalty, LogitBias, Logprobs, N, PresencePenalty, Prompts,
        Seed, Suffix, TokenIds, User,
    },
    dialect::{
        Dialect,
        anthropic::ANTHROPIC,
        chat::{CHAT, MISTRAL},
        cohere::COHERE,
        gemini::GEMINI,
        openai::OPENAI,
        replicate::REPLICATE,
    },
    provider::{Auth, Row},
};

/// Sorted by name.
#[rustfmt::skip] // A table: one provider a line.
pub static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    vec![
        chat("302ai", "https://api.302.ai/v1", &[]),
        chat("aibadgr", "https://aibadgr.com/api/v1", &[]),
        row("anthropic", "https://api.anthropic.com/v1", &ANTHROPIC, X_API_KEY, &[]),
        text("cerebras", "https://api.cerebras.ai/v1", &[PresencePenalty, FrequencyPenalty, LogitBias]),
        row("cohere", "https://api.cohere.com/v2", &COHERE, Auth::Bearer, &[]),
        chat("cometapi", "https://api.cometapi.com/v1", &[]),
        chat("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", &[LogitBias, User]),
        chat("deepbricks", "https://api.deepbricks.ai/v1", &[]),
        text("deepinfra", "https://api.deepinfra.com/v1/openai", &[Prompts, Suffix, BestOf, LogitBias]),
        // Its text completions stand under /beta alone.
        text("deepseek", "https://api.deepseek.com/beta", &[Prompts, TokenIds, N, BestOf, User, Seed, LogitBias]),
        text("featherless-ai", "https://api.featherless.ai/v1", &[Suffix, BestOf]),
        text("fireworks-ai", "https://api.fireworks.ai/inference/v1", &[Suffix, BestOf]),
        chat("github", "https://models.github.ai/inference", &[]),
        row("google", "https://generativelanguage.googleapis.com/v1beta", &GEMINI, X_GOOG_API_KEY, &[]),
        chat("groq", "https://api.groq.com/openai/v1", &[N, PresencePenalty, FrequencyPenalty, LogitBias]),
        chat("huggingface", "https://router.huggingface.co/v1", &[]),
        text("hyperbolic", "https://api.hyperbolic.xyz/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf]),
        chat("inference-net", "https://api.inference.net/v1", &[]),
        chat("iointelligence", "https://api.intelligence.io.solutions/api/v1", &[]),
        chat("krutrim", "https://cloud.olakrutrim.com/v1", &[]),
        chat("lemonfox-ai", "https://api.lemonfox.ai/v1", &[N, Seed, LogitBias]),
        chat("lingyi", "https://api.lingyiwanwu.com/v1", &[]),
        own("llama-cpp", &[Suffix, Echo, BestOf, Logprobs]),
        own("lm-studio", &[Prompts, TokenIds, N, Suffix, Echo, BestOf, Logprobs]),
        chat("matterai", "https://api.matterai.so/v1", &[]),
        row("mistral-ai", "https://api.mistral.ai/v1", &MISTRAL, Auth::Bearer, &[User, LogitBias]),
        chat("moonshot", "https://api.moonshot.cn/v1", &[Seed, LogitBias, User]),
        chat("ncompass", "https://api.ncompass.tech/v1", &[N]),
        text("nebius", "https://api.tokenfactory.nebius.com/v1", &[Suffix, BestOf]),
        text("nextbit", "https://api.nextbit256.com/v1", &[]),
        text("novita-ai", "https://api.novita.ai/openai/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf]),
        chat("nscale", "https://inference.api.nscale.com/v1", &[User, Seed]),
        own("ollama", &[Prompts, TokenIds, N, Echo, BestOf, Logprobs, LogitBias]),
        text("openai", "https://api.openai.com/v1", &[]),
        text("openrouter", "https://openrouter.ai/api/v1", &[Prompts, TokenIds, N, Suffix, Echo, BestOf, Logprobs]),
        text("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", &[Suffix, BestOf]),
        chat("perplexity-ai", "https://api.perplexity.ai", &[N, Seed, LogitBias, User]),
        row("replicate", "https://api.replicate.com/v1", &REPLICATE, Auth::Bearer, &[]),
        chat("sambanova", "https://api.sambanova.ai/v1", &[N, PresencePenalty, FrequencyPenalty, Seed, LogitBias, User]),
        own("sglang", &[Suffix, BestOf]),
        chat("siliconflow", "https://api.siliconflow.cn/v1", &[Seed, LogitBias, User]),
        own("tgi", &[TokenIds, N, PresencePenalty, Suffix, Echo, BestOf, Logprobs, LogitBias]),
        // Its echo stands beside the choices, in a `prompt` of its own, not before the text.
        text("together-ai", "https://api.together.xyz/v1", &[Prompts, TokenIds, Suffix, Echo, BestOf, User]),
        chat("upstage", "https://api.upstage.ai/v1/solar", &[N, Seed, LogitBias, User]),
        own("vllm", &[Suffix, BestOf]),
        chat("x-ai", "https://api.x.ai/v1", &[LogitBias]),
        chat("z-ai", "https://api.z.ai/api/paas/v4", ZHIPU_LACKS),
        chat("zhipu", "https://open.bigmodel.cn/api/paas/v4", ZHIPU_LACKS),
    ]
});

const ZHIPU_LACKS: &[Parameter] = &[N, PresencePenalty, FrequencyPenalty, User, Seed, LogitBias];

const X_API_KEY: Auth = Auth::Header(HeaderName::from_static("x-api-key"));
const X_GOOG_API_KEY: Auth = Auth::Header(HeaderName::from_static("x-goog-api-key"));

const fn row(
    name: &'static str,
    base_url: &'static str,
    dialect: &'static dyn Dialect,
    auth: Auth,
    refuses: &'static [Parameter],
) -> Row {
    Row {
        name,
        base_url,
        dialect,
        auth,
        refuses,
    }
}

/// A provider of OpenAI-shaped chat.
const fn chat(name: &'static str, base_url: &'static str, refuses: &'static [Parameter]) -> Row {
    row(name, base_url, &CHAT, Auth::Bearer, refuses)
}

/// A provider of OpenAI-shaped text completions.
const fn text(name: &'static str, base_url: &'static str, refuses: &'static [Parameter]) -> Row {
    row(name, base_url, &OPENAI, Auth::Bearer, refuses)
}

/// A server that users run themselves: a conf, or the client, names its host.
const fn own(name: &'static str, refuses: &'static [Parameter]) -> Row {
    text(name, "", refuses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Base, base::Scheme};

    #[test]
    fn rows_are_sorted_and_named_once() {
        assert!(ROWS.is_sorted_by(|one, next| one.name < next.name));
    }

    #[test]
    fn every_public_base_url_is_well_formed_and_encrypted() {
        for row in ROWS.iter().filter(|row| !row.base_url.is_empty()) {
            let base = Base::try_new(row.base_url, "base_url").unwrap();
            assert_eq!(base.scheme, Scheme::Https, "{}", row.name);
            assert_eq!(base.to_string(), row.base_url);
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
