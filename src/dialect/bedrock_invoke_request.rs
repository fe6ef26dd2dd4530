//! The requests of Amazon Bedrock's InvokeModel: each family of models has a body of its own; see [`super::bedrock_invoke`].

use serde::Serialize;
use serde_json::value::RawValue;

use super::{bedrock, extras};
use crate::{
    completion::CompletionRequest,
    error::{Error, Kind},
};

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Body<'a> {
    Llama {
        prompt: &'a RawValue,
        max_gen_len: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        top_p: Option<f64>,
    },
    Mistral {
        prompt: &'a RawValue,
        max_tokens: u64,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        stop: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        top_p: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        top_k: Option<&'a RawValue>,
    },
    #[serde(rename_all = "camelCase")]
    Titan {
        input_text: &'a RawValue,
        text_generation_config: TitanConfig<'a>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TitanConfig<'a> {
    max_token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
}

impl<'a> Body<'a> {
    pub(super) fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        let family = Family::of(request.model())?;
        family.check(request)?;
        let prompt = request.sole_text()?;
        let max_tokens = bedrock::check(request)?;
        let (temperature, top_p) = (request.temperature, request.top_p);
        Ok(match family {
            Family::Llama => Self::Llama {
                prompt,
                max_gen_len: max_tokens,
                temperature,
                top_p,
            },
            Family::Mistral => Self::Mistral {
                prompt,
                max_tokens,
                stop: &request.stop,
                temperature,
                top_p,
                top_k: extras(request).next().map(|(_, top_k)| top_k),
            },
            Family::Titan => Self::Titan {
                input_text: prompt,
                text_generation_config: TitanConfig {
                    max_token_count: max_tokens,
                    temperature,
                    top_p,
                    stop_sequences: &request.stop,
                },
            },
        })
    }
}

/// The families of models that take a prompt as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Titan,
}

impl Family {
    /// An id's family stands before its name, and behind the region of an inference profile. An ARN holds the id behind its last
    /// `/`; that of an application's own profile names no model.
    fn of(model: &str) -> Result<Self, Error> {
        let id = model.rsplit('/').next().unwrap_or(model);
        let in_region = |prefix: &&str| id.strip_prefix(*prefix);
        let id = REGIONS.iter().find_map(in_region).unwrap_or(id);
        FAMILIES
            .iter()
            .find(|(start, _)| id.starts_with(start))
            .map(|&(_, family)| family)
            .ok_or_else(|| {
                let message = "`model` must be of meta.llama, mistral or amazon.titan-text: no other takes a prompt as it is.";
                Error::invalid("model", message)
            })
    }

    /// What the body of one family lacks, and the others have.
    fn check(self, request: &CompletionRequest) -> Result<(), Error> {
        if self == Self::Llama && !request.stop.is_empty() {
            return Err(self.lacks("stop"));
        }
        match extras(request).next() {
            Some((name, _)) if self != Self::Mistral => Err(self.lacks(name)),
            _ => Ok(()),
        }
    }

    fn lacks(self, param: &str) -> Error {
        let message = format!("`{param}` is not supported by {self:?} models of this provider.");
        Error::new(Kind::Unsupported, message).with_param(param.to_owned())
    }
}

/// What the ids of inference profiles begin with:
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html>.
const REGIONS: &[&str] = &[
    "apac.", "au.", "ca.", "eu.", "global.", "jp.", "us-gov.", "us.",
];
const FAMILIES: &[(&str, Family)] = &[
    ("amazon.titan-text", Family::Titan),
    ("meta.llama", Family::Llama),
    ("mistral.", Family::Mistral),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_behind_regions_and_in_arns() {
        for (model, family) in [
            ("us.meta.llama3-1-8b-instruct-v1:0", Family::Llama),
            ("meta.llama4-scout-17b-instruct-v1:0", Family::Llama),
            ("eu.mistral.mistral-large-2402-v1:0", Family::Mistral),
            ("amazon.titan-text-express-v1", Family::Titan),
            (
                "arn:aws:bedrock:us-east-1::foundation-model/amazon.titan-text-lite-v1",
                Family::Titan,
            ),
            (
                "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.meta.llama3-3-70b-instruct-v1:0",
                Family::Llama,
            ),
        ] {
            assert_eq!(Family::of(model).unwrap(), family, "{model}");
        }
        for model in [
            "",
            "us.",
            "amazon.titan-embed-text-v1",
            "amazon.nova-pro-v1:0",
            "xmeta.llama3",
            "us.us.meta.llama3",
        ] {
            assert_eq!(
                Family::of(model).unwrap_err().param(),
                Some("model"),
                "{model}"
            );
        }
    }
}
