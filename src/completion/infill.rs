//! Fill in the middle by prompt: how each family of models is shown what stands before and behind a gap.
//!
//! For providers that take a raw prompt and have no `suffix` of their own. The words around the gap are control tokens, which
//! a server finds in the text of a prompt. Their sources:
//!
//! | family | source |
//! |---|---|
//! | Qwen2.5-Coder, Qwen3-Coder | <https://github.com/QwenLM/Qwen3-Coder#fill-in-the-middle-with-qwen3-coder> |
//! | StarCoder, StarCoder 2, CodeQwen 1.5 | <https://huggingface.co/bigcode/starcoder#fill-in-the-middle>, <https://arxiv.org/abs/2402.19173> section 5.1 |
//! | Stable Code | <https://huggingface.co/stabilityai/stable-code-3b> |
//! | Granite Code (StarCoder's tokenizer), Granite 4 | <https://arxiv.org/abs/2405.04324>, <https://www.ibm.com/granite/docs/use-cases/prompt-engineering> |
//! | Mellum | <https://huggingface.co/JetBrains/Mellum-4b-base>, <https://arxiv.org/abs/2510.05788> |
//! | SantaCoder | <https://huggingface.co/bigcode/santacoder#fill-in-the-middle> |
//! | Code Llama 7B and 13B, its base models alone | <https://www.llama.com/docs/model-cards-and-prompt-formats/meta-code-llama/>, `infilling_prompt_tokens` in <https://github.com/meta-llama/codellama/blob/main/llama/generation.py> |
//! | DeepSeek-Coder, V2 too | <https://github.com/deepseek-ai/DeepSeek-Coder#2-code-insertion> |
//! | CodeGemma, but for its chat models | <https://ai.google.dev/gemma/docs/codegemma/prompt-structure> |
//! | Codestral, but for its Mamba | <https://github.com/mistralai/cookbook/tree/main/concept-deep-dive/tokenization> |
//! | Seed-Coder | <https://arxiv.org/abs/2506.03524> section 3 |
//!
//! Not here: CodeGeeX4, whose prompt names the file's path and language too.
//!
//! * **The client's text is not searched for control tokens.** A prompt or suffix that holds one of its family's is taken by
//!   the model for a gap of its own, as it would be if the client had written the whole prompt. It harms nobody but the
//!   answer of that request.
//! * A server may leave special tokens out of the text it returns, or not know them for the end of the text. The stop
//!   sequences are for servers that show them.

use std::sync::LazyLock;

use serde_json::value::RawValue;

use crate::{
    completion::{CompletionRequest, Prompt},
    error::{Error, Kind},
    pattern,
};

/// The prompt of one family of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// JSON string text without its quotes: what stands before, between and behind the two texts.
    around: [String; 3],
    order: Order,
    /// What ends the middle, the surest first.
    stop: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    PrefixFirst,
    SuffixFirst,
}

/// Which models a template is for.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Model names; `*` stands for any run of characters, case does not count.
    pub models: Vec<String>,
    /// Those among them that it is not for.
    pub except: Vec<String>,
    pub template: Template,
}

/// The templates there are. The first rule that names a model counts: a conf's own stand before the built-in ones.
#[derive(Clone, Debug)]
pub struct Templates(Vec<Rule>);

impl Default for Templates {
    fn default() -> Self {
        Self(BUILT_IN.clone())
    }
}

impl Templates {
    /// `own` rules, and behind them the built-in ones.
    pub fn new(mut own: Vec<Rule>) -> Self {
        own.extend(BUILT_IN.iter().cloned());
        Self(own)
    }

    pub fn find(&self, model: &str) -> Option<&Template> {
        let model = model.to_lowercase();
        let rule = self.0.iter().find(|rule| rule.names(&model));
        rule.map(|rule| &rule.template)
    }
}

impl Rule {
    /// `model`: in lower case.
    fn names(&self, model: &str) -> bool {
        let one_of = |patterns: &[String]| {
            let mut patterns = patterns.iter().map(|pattern| pattern.to_lowercase());
            patterns.any(|pattern| pattern::matches(&pattern, model))
        };
        one_of(&self.models) && !one_of(&self.except)
    }
}

impl Template {
    /// Reads a text in which `{prefix}` and `{suffix}` stand once each. The error says what is wrong with it.
    pub fn try_new(prompt: &str, stop: Vec<String>) -> Result<Self, String> {
        let once = |name: &str| match prompt.matches(name).count() {
            1 => prompt.find(name).ok_or_else(String::new),
            count => Err(format!("`{name}` must stand in it once, not {count} times")),
        };
        let (prefix, suffix) = (once(PREFIX)?, once(SUFFIX)?);
        let (order, first, second) = if prefix < suffix {
            (Order::PrefixFirst, PREFIX, SUFFIX)
        } else {
            (Order::SuffixFirst, SUFFIX, PREFIX)
        };
        let parts = prompt.split_once(first).and_then(|(before, rest)| {
            let (between, behind) = rest.split_once(second)?;
            Some([before, between, behind].map(json_text))
        });
        parts
            .map(|around| Self {
                around,
                order,
                stop,
            })
            .ok_or_else(|| format!("`{PREFIX}` and `{SUFFIX}` overlap"))
    }

    /// Makes a request with a suffix one of a prompt alone: every text of its prompt gets its place, and the suffix is gone.
    pub fn fill(&self, request: &mut CompletionRequest) -> Result<(), Error> {
        let suffix = json_text(request.suffix.as_deref().unwrap_or_default());
        let prompt = match &request.prompt {
            Prompt::Absent => Prompt::Text(self.splice("", &suffix)?),
            Prompt::Text(text) => Prompt::Text(self.splice(inner(text), &suffix)?),
            Prompt::Texts(texts) => {
                let filled = texts.iter().map(|text| self.splice(inner(text), &suffix));
                Prompt::Texts(filled.collect::<Result<_, _>>()?)
            }
            Prompt::Tokens(_) | Prompt::TokenLists(_) => return Err(tokens()),
        };
        request.replace_prompt(prompt);
        request.suffix = None;
        Ok(())
    }

    /// Adds what ends the middle to the client's own stop sequences. Those beyond what the provider takes end the text here.
    pub fn stop(&self, request: &mut CompletionRequest) {
        for stop in &self.stop {
            if !request.stop.contains(stop) {
                request.stop.push(stop.clone());
            }
        }
    }

    /// All parts are JSON string text without quotes, and so is what they make: nothing of the prompt is decoded.
    fn splice(&self, prefix: &str, suffix: &str) -> Result<Box<RawValue>, Error> {
        let [before, between, behind] = &self.around;
        let (first, second) = match self.order {
            Order::PrefixFirst => (prefix, suffix),
            Order::SuffixFirst => (suffix, prefix),
        };
        let text = ["\"", before, first, between, second, behind, "\""].concat();
        RawValue::from_string(text)
            .map_err(|_| Error::new(Kind::Internal, "The prompt could not be written."))
    }
}

/// The JSON text of `text`, without its quotes.
fn json_text(text: &str) -> String {
    // Serialising a string cannot fail.
    let json = serde_json::to_string(text).unwrap_or_default();
    unquoted(&json).to_owned()
}

fn inner(text: &RawValue) -> &str {
    unquoted(text.get())
}

fn unquoted(json: &str) -> &str {
    let open = json.strip_prefix('"').unwrap_or(json);
    open.strip_suffix('"').unwrap_or(open)
}

fn tokens() -> Error {
    let message = "`suffix` needs a prompt of text for this provider, not of token ids.";
    Error::new(Kind::Unsupported, message).with_param("suffix")
}

const PREFIX: &str = "{prefix}";
const SUFFIX: &str = "{suffix}";

/// Models, those among them that cannot fill, the prompt, what ends the middle.
type Family = (
    &'static [&'static str],
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

const STARCODER: &str = "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>";
const STARCODER_STOP: &[&str] = &["<|endoftext|>", "<file_sep>", "<fim_prefix>", "<fim_pad>"];
const QWEN: &str = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>";

#[rustfmt::skip] // A table: one family a line.
const FAMILIES: &[Family] = &[
    (&["*qwen2.5-coder*", "*qwen2p5-coder*", "*qwen-2.5-coder*", "*qwen3-coder*", "*qwen-3-coder*"], &[],
        QWEN, &["<|endoftext|>", "<|file_sep|>", "<|fim_pad|>", "<|repo_name|>"]),
    (&["*codegemma*"], &["*-it", "*-it-*", "*instruct*"],
        QWEN, &["<|file_separator|>", "<|fim_prefix|>", "<|fim_suffix|>", "<eos>"]),
    (&["*granite-4*", "*granite4*"], &[],
        QWEN, &["<|end_of_text|>", "<|fim_pad|>", "<|fim_prefix|>"]),
    (&["*starcoder*", "*codeqwen*"], &[],
        STARCODER, STARCODER_STOP),
    (&["*stable-code*", "*stablecode*"], &["*instruct*"],
        STARCODER, STARCODER_STOP),
    (&["*granite*code*"], &[],
        STARCODER, STARCODER_STOP),
    (&["*mellum-4b*"], &[],
        "<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>", &["<|endoftext|>", "<filename>", "<fim_suffix>"]),
    (&["*santacoder*"], &[],
        "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>", &["<|endoftext|>"]),
    (&["*codellama*7b*", "*codellama*13b*", "*code-llama*7b*", "*code-llama*13b*"], &["*python*", "*instruct*", "*70b*"],
        "<PRE> {prefix} <SUF>{suffix} <MID>", &[" <EOT>", "<EOT>", "</s>"]),
    (&["*deepseek-coder*"], &[],
        "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>", &["<｜end▁of▁sentence｜>", "<｜fim▁begin｜>"]),
    (&["*codestral*"], &["*mamba*"],
        "[SUFFIX]{suffix}[PREFIX]{prefix}", &["</s>", "[PREFIX]", "[SUFFIX]"]),
    (&["*seed-coder*"], &["*reasoning*"],
        "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>", &["<[end▁of▁sentence]>", "<[fim-suffix]>"]),
];

static BUILT_IN: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    // A test holds that every built-in template is well formed.
    FAMILIES.iter().filter_map(built_in).collect()
});

fn built_in(&(models, except, prompt, stop): &Family) -> Option<Rule> {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    Some(Rule {
        models: owned(models),
        except: owned(except),
        template: Template::try_new(prompt, owned(stop)).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn request(fields: &str) -> CompletionRequest {
        let body = format!(r#"{{"model":"m",{fields}}}"#);
        CompletionRequest::read(Bytes::from(body)).unwrap()
    }

    fn filled(model: &str, fields: &str) -> CompletionRequest {
        let templates = Templates::default();
        let template = templates.find(model).expect(model);
        let mut request = request(fields);
        template.fill(&mut request).unwrap();
        template.stop(&mut request);
        request
    }

    fn prompt(request: &CompletionRequest) -> String {
        serde_json::to_string(&request.prompt).unwrap()
    }

    #[test]
    fn every_built_in_template_is_well_formed() {
        assert_eq!(BUILT_IN.len(), FAMILIES.len());
        for (models, _, _, stop) in FAMILIES {
            assert!(!stop.is_empty(), "{models:?}");
            assert!(models.iter().all(|model| *model == model.to_lowercase()));
        }
    }

    #[test]
    fn each_family_gets_its_own_words_in_its_own_order() {
        for (model, wanted) in [
            (
                "Qwen/Qwen2.5-Coder-7B",
                "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
            ),
            (
                "accounts/fireworks/models/qwen2p5-coder-32b-instruct",
                "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
            ),
            (
                "qwen3-coder:30b",
                "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
            ),
            (
                "google/codegemma-7b",
                "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
            ),
            (
                "ibm-granite/granite-4.0-h-tiny",
                "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
            ),
            (
                "bigcode/starcoder2-15b",
                "<fim_prefix>P<fim_suffix>S<fim_middle>",
            ),
            (
                "stabilityai/stable-code-3b",
                "<fim_prefix>P<fim_suffix>S<fim_middle>",
            ),
            (
                "ibm/granite-8b-code-instruct",
                "<fim_prefix>P<fim_suffix>S<fim_middle>",
            ),
            (
                "JetBrains/Mellum-4b-base",
                "<fim_suffix>S<fim_prefix>P<fim_middle>",
            ),
            (
                "bigcode/santacoder",
                "<fim-prefix>P<fim-suffix>S<fim-middle>",
            ),
            ("codellama/CodeLlama-13b-hf", "<PRE> P <SUF>S <MID>"),
            ("codellama:7b-code", "<PRE> P <SUF>S <MID>"),
            (
                "@hf/thebloke/deepseek-coder-6.7b-base-awq",
                "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
            ),
            (
                "deepseek-ai/DeepSeek-Coder-V2-Lite-Base",
                "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
            ),
            ("mistralai/Codestral-22B-v0.1", "[SUFFIX]S[PREFIX]P"),
            (
                "ByteDance-Seed/Seed-Coder-8B-Base",
                "<[fim-suffix]>S<[fim-prefix]>P<[fim-middle]>",
            ),
        ] {
            let request = filled(model, r#""prompt":"P","suffix":"S""#);
            assert_eq!(prompt(&request), format!("\"{wanted}\""), "{model}");
            assert!(request.suffix.is_none() && !request.stop.is_empty());
            assert!(request.source().is_none());
        }
    }

    #[test]
    fn models_that_cannot_fill_have_no_template() {
        for model in [
            "gpt-3.5-turbo-instruct",
            "llama-3-8b",
            "codellama/CodeLlama-34b-hf",
            "codellama/CodeLlama-7b-Python-hf",
            "codellama/CodeLlama-7b-Instruct-hf",
            "google/codegemma-7b-it",
            "mistralai/Mamba-Codestral-7B-v0.1",
            "qwen2.5-7b",
            "THUDM/codegeex4-all-9b",
            "",
        ] {
            assert!(Templates::default().find(model).is_none(), "{model}");
        }
    }

    #[test]
    fn a_prompt_is_spliced_as_it_was_written_and_a_suffix_is_escaped() {
        let fields = r#""prompt":"a\n\u00e9\"\\","suffix":"\u00e9\n\"""#;
        assert_eq!(
            prompt(&filled("starcoder", fields)),
            r#""<fim_prefix>a\n\u00e9\"\\<fim_suffix>é\n\"<fim_middle>""#
        );
        let both = filled("codestral", r#""prompt":["a","b"],"suffix":"c""#);
        assert_eq!(
            prompt(&both),
            r#"["[SUFFIX]c[PREFIX]a","[SUFFIX]c[PREFIX]b"]"#
        );
        let nothing = filled("codestral", r#""suffix":"c""#);
        assert_eq!(prompt(&nothing), r#""[SUFFIX]c[PREFIX]""#);
    }

    #[test]
    fn the_clients_stop_sequences_stand_first() {
        let fields = r#""prompt":"P","suffix":"S","stop":["\n\n","</s>","b"]"#;
        assert_eq!(
            filled("codestral", fields).stop,
            ["\n\n", "</s>", "b", "[PREFIX]", "[SUFFIX]"]
        );
    }

    #[test]
    fn token_ids_have_no_place_in_a_template() {
        let templates = Templates::default();
        let template = templates.find("starcoder").unwrap();
        let mut request = request(r#""prompt":[1,2],"suffix":"S""#);
        let error = template.fill(&mut request).unwrap_err();
        assert_eq!(
            (error.param(), error.status().as_u16()),
            (Some("suffix"), 400)
        );
    }

    #[test]
    fn a_confs_rule_stands_before_the_built_in_ones() {
        let template = Template::try_new("<B>{suffix}<A>{prefix}<M>", vec![]).unwrap();
        let templates = Templates::new(vec![Rule {
            models: vec!["My-*".to_owned(), "starcoder".to_owned()],
            except: Vec::new(),
            template: template.clone(),
        }]);
        assert_eq!(templates.find("my-model"), Some(&template));
        assert_eq!(templates.find("StarCoder"), Some(&template));
        assert_ne!(templates.find("starcoder2"), Some(&template));
    }

    #[test]
    fn a_template_needs_both_texts_once() {
        for (prompt, part) in [
            ("{prefix}", "`{suffix}` must stand in it once, not 0 times"),
            ("{suffix}", "`{prefix}`"),
            ("{prefix}{suffix}{prefix}", "not 2 times"),
            ("", "`{prefix}`"),
        ] {
            let error = Template::try_new(prompt, Vec::new()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
