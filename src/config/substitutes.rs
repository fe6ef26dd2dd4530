//! The parts of a conf that put something in the place of what a provider lacks: `infill` and `tokenizers`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    completion::{
        infill::{Rule, Template, Templates},
        tokenizer::{Tokenizer, Tokenizers},
    },
    config::{ConfigError, source::Source},
    dialect::substitute::Substitutes,
};

/// One prompt for a gap.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfillFile {
    models: String,
    prompt: String,
    #[serde(default)]
    stop: Vec<String>,
}

/// Reads the prompts, and the files of the vocabularies.
pub fn read(
    infill: Vec<InfillFile>,
    tokenizers: &BTreeMap<String, String>,
    source: &Source<'_>,
) -> Result<Substitutes, ConfigError> {
    let rules = infill.into_iter().enumerate();
    let rules = rules.map(|(place, file)| file.resolve(place, source));
    let tokenizers = tokenizers.iter().map(|(models, path)| {
        let read = source.surroundings.file(path);
        let tokenizer = read
            .map_err(|why| format!("`{path}` cannot be read: {why}"))
            .and_then(|json| Tokenizer::try_new(&json).map_err(|why| format!("`{path}`: {why}")))
            .map_err(|message| source.error(&["gateway", "tokenizers", models], message))?;
        Ok((models.clone(), tokenizer))
    });
    Ok(Substitutes {
        infill: Templates::new(rules.collect::<Result<_, _>>()?),
        tokenizers: Tokenizers::new(tokenizers.collect::<Result<_, _>>()?),
    })
}

impl InfillFile {
    fn resolve(self, place: usize, source: &Source<'_>) -> Result<Rule, ConfigError> {
        let wrong = |key: &str, message: &str| {
            source.entry_error(&["gateway", "infill"], place, key, message.to_owned())
        };
        if self.models.is_empty() {
            return Err(wrong(
                "models",
                "expected a model's name, or a pattern of such names",
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(wrong("stop", "a stop sequence is empty"));
        }
        let template = Template::try_new(&self.prompt, self.stop);
        Ok(Rule {
            models: vec![self.models],
            except: Vec::new(),
            template: template.map_err(|message| wrong("prompt", &message))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Surroundings};

    struct Files;

    impl Surroundings for Files {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, path: &str) -> Result<String, String> {
            match path {
                "/tiny.json" => {
                    Ok(include_str!("../../tests/fixtures/tokenizers/tiny.json").into())
                }
                "/other.json" => Ok("{}".to_owned()),
                _ => Err("no such file".to_owned()),
            }
        }
    }

    fn read(text: &str) -> Result<Substitutes, ConfigError> {
        let source = Source {
            file: "conf.yaml",
            text,
            server_keys: &[],
            surroundings: &Files,
            secret_file_mode: 0,
        };
        Config::read(&source).map(|config| config.substitutes)
    }

    #[test]
    fn a_conf_adds_prompts_and_vocabularies() {
        let substitutes = read(concat!(
            "gateway:\n  infill:\n    - { models: \"acme-*\", prompt: \"<B>{suffix}<A>{prefix}<M>\", stop: [\"<E>\"] }\n",
            "  tokenizers: { \"acme-*\": /tiny.json }\n",
        ))
        .unwrap();
        assert!(substitutes.infill.find("acme-1").is_some());
        assert!(substitutes.infill.find("starcoder").is_some());
        assert!(substitutes.tokenizers.find("acme-1").is_some());
        assert!(substitutes.tokenizers.find("starcoder").is_none());
    }

    #[test]
    fn errors_name_file_line_path_and_what_is_wrong() {
        let infill = "gateway:\n  infill:\n    - models: a\n      prompt: \"{prefix}{suffix}\"\n    - models: b\n";
        for (text, line, path, part) in [
            (
                format!("{infill}      prompt: \"{{prefix}}\"\n"),
                6,
                "gateway.infill[1].prompt",
                "`{suffix}` must stand in it once",
            ),
            (
                format!("{infill}      prompt: \"{{suffix}}{{prefix}}\"\n      stop: [\"\"]\n"),
                7,
                "gateway.infill[1].stop",
                "is empty",
            ),
            (
                format!("{infill}      promt: x\n"),
                6,
                "gateway.infill[1].promt",
                "unknown field",
            ),
            (
                infill.to_owned(),
                5,
                "gateway.infill[1]",
                "missing field `prompt`",
            ),
            (
                "gateway:\n  infill:\n    - models: \"\"\n      prompt: x\n".to_owned(),
                3,
                "gateway.infill[0].models",
                "expected a model",
            ),
            (
                "gateway:\n  tokenizers:\n    a: /none.json\n".to_owned(),
                3,
                "gateway.tokenizers.a",
                "`/none.json` cannot be read: no such file",
            ),
            (
                "gateway:\n  tokenizers:\n    a: /other.json\n".to_owned(),
                3,
                "gateway.tokenizers.a",
                "no tokenizer.json",
            ),
        ] {
            let error = read(&text).map(|_| ()).expect_err(&text);
            assert_eq!((error.line, &*error.path), (line, path), "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }
}
