//! How a provider's prompts are put, as a conf file says: checked when it is read, not at the first request.

use crate::{
    completion::{Mark, PromptAs},
    config::{Config, ConfigError, source::Source},
    dialect::PromptForm,
    provider::Provider,
};

impl Config {
    /// The way that a prompt is to be put, first that applies: the client's word, the provider's row, the general one.
    pub fn prompt_as(&self, client: Option<PromptAs>, provider: &Provider) -> PromptAs {
        let own = client.or(provider.prompt_as);
        own.unwrap_or(self.prompt_as)
    }
}

/// `prompt_as` and `prefill` of one provider.
pub struct PromptKeys(pub Option<PromptAs>, pub Option<Mark>);

impl PromptKeys {
    pub fn apply(self, provider: &mut Provider, source: &Source<'_>) -> Result<(), ConfigError> {
        let Self(prompt_as, mark) = self;
        let (form, dialect) = (provider.dialect.prompt_form(), provider.dialect);
        let wrong = |key: &str, message: String| {
            Err(source.error(&["gateway", "providers", &provider.name, key], message))
        };
        if let Some(mark) = mark
            && (form == PromptForm::Text || dialect.prefill(Some(mark), None) != Some(mark))
        {
            let message = format!("the dialect `{}` has no such way", dialect.name());
            return wrong("prefill", message);
        }
        let prefill = mark.or(provider.prefill);
        let has_none = form == PromptForm::Chat && dialect.prefill(prefill, None).is_none();
        if prompt_as == Some(PromptAs::Prefill) && has_none {
            let message = format!(
                "{} documents no way to give the start of the model's message; expected `message` or `continue`",
                provider.name
            );
            return wrong("prompt_as", message);
        }
        provider.prefill = prefill;
        provider.prompt_as = prompt_as;
        Ok(())
    }
}
