//! The provider table in the forms people and programs read: all of them are made from [`ROWS`].

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::{
    completion::{Parameter, PromptAs, Support},
    dialect::{PromptForm, settle::support},
    provider::{
        Auth, Row,
        place::{Default, Place, Slot},
        scheme::Part,
        table::ROWS,
    },
};

/// One provider a line: name, dialect, how it takes its key, base URL.
pub fn lines() -> String {
    ROWS.iter().fold(String::new(), |mut lines, row| {
        let (name, dialect) = (row.name, row.dialect.name());
        // Writing to a string cannot fail.
        let _ = writeln!(
            lines,
            "{name:<16} {dialect:<10} {:<22} {}",
            auth(row),
            place(row)
        );
        lines
    })
}

/// A JSON array with each provider's parameters.
pub fn json() -> String {
    let entries: Vec<Entry> = ROWS.iter().map(Entry::from).collect();
    // Strings alone: serialising them cannot fail.
    serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n"
}

/// README's table of providers and parameters.
pub fn markdown() -> String {
    let mut table = "| provider | dialect | prompt |".to_owned();
    for parameter in Parameter::ALL {
        let _ = write!(table, " {} |", parameter.title().replace("prompt: ", ""));
    }
    table += "\n|---|---|---|";
    table += &":-:|".repeat(Parameter::ALL.len());
    table.push('\n');
    for row in ROWS
        .iter()
        .filter(|row| !matches!(row.place, Place::Retired(_)))
    {
        let _ = write!(
            table,
            "| {} | {} | {} |",
            row.name,
            row.dialect.name(),
            row.dialect.prompt_form().as_str()
        );
        for parameter in Parameter::ALL {
            let mark = match support(row.dialect, row.refuses, parameter) {
                Support::Native => "●",
                Support::Emulated => "◐",
                Support::Refused => "–",
            };
            let _ = write!(table, " {mark} |");
        }
        table.push('\n');
    }
    table
}

fn ways(row: &Row) -> Vec<&'static str> {
    let is_text = row.dialect.prompt_form() == PromptForm::Text;
    let takes_prefill = is_text || row.dialect.prefill(row.prefill, None).is_some();
    let has = |way: &PromptAs| takes_prefill || *way != PromptAs::Prefill;
    let ways = PromptAs::ALL.into_iter().filter(has);
    ways.map(PromptAs::as_str).collect()
}

fn auth(row: &Row) -> String {
    match (row.auth.title(), row.scheme.title()) {
        (key, "") => key,
        (_, more) if row.auth == Auth::None => more.to_owned(),
        (key, more) => format!("{key}, {more}"),
    }
}

fn place(row: &Row) -> &'static str {
    match row.place {
        Place::At(url) => url,
        Place::With(templates) => templates.last().map_or("", |template| template.url),
        Place::Own(_) => "(the host you run it on)",
        Place::Retired(instead) => instead,
    }
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    dialect: &'static str,
    /// `text`, or `chat` where the prompt becomes a user's message.
    prompt: &'static str,
    /// The ways in which a prompt can be put: see `x-completions-prompt-as`. A text is continued in all of them.
    prompt_as: Vec<&'static str>,
    auth: String,
    /// With `{name}` for each option; `null`: a conf or the client names it.
    base_url: Option<&'static str>,
    /// What a client or a conf can, or has to, name.
    options: Vec<OptionEntry>,
    /// Credentials of several parts, as `auth` names them. A part without a header is for the conf alone.
    credentials: Vec<PartEntry>,
    /// Its service has closed: what to use instead.
    retired: Option<&'static str>,
    parameters: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct OptionEntry {
    name: &'static str,
    header: &'static str,
    required: bool,
    /// The upstream's header that holds the value; `null`: its place is in the URL.
    sent_as: Option<&'static str>,
}

#[derive(Serialize)]
struct PartEntry {
    name: &'static str,
    header: Option<&'static str>,
}

impl From<&'static Part> for PartEntry {
    fn from(part: &'static Part) -> Self {
        Self {
            name: part.name,
            header: (!part.header.is_empty()).then_some(part.header),
        }
    }
}

impl From<&'static Slot> for OptionEntry {
    fn from(slot: &'static Slot) -> Self {
        Self {
            name: slot.name,
            header: slot.header,
            required: slot.default == Default::None,
            sent_as: slot.sent_as,
        }
    }
}

impl From<&'static Row> for Entry {
    fn from(row: &'static Row) -> Self {
        let cell = |parameter: Parameter| support(row.dialect, row.refuses, parameter).as_str();
        Self {
            name: row.name,
            dialect: row.dialect.name(),
            prompt: row.dialect.prompt_form().as_str(),
            prompt_as: ways(row),
            auth: auth(row),
            base_url: match row.place {
                Place::At(_) | Place::With(_) => Some(place(row)),
                Place::Own(_) | Place::Retired(_) => None,
            },
            options: row.place.slots().map(OptionEntry::from).collect(),
            credentials: row.scheme.parts().iter().map(PartEntry::from).collect(),
            retired: match row.place {
                Place::Retired(instead) => Some(instead),
                Place::At(_) | Place::With(_) | Place::Own(_) => None,
            },
            parameters: Parameter::ALL
                .into_iter()
                .map(|parameter| (parameter.title(), cell(parameter)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_every_provider() {
        assert_eq!(lines().lines().count(), ROWS.len());
        let retired = ROWS
            .iter()
            .filter(|row| matches!(row.place, Place::Retired(_)));
        assert_eq!(markdown().lines().count(), ROWS.len() - retired.count() + 2);
        let entries: Vec<serde_json::Value> = serde_json::from_str(&json()).unwrap();
        assert_eq!(entries.len(), ROWS.len());
        let openai = entries
            .iter()
            .find(|entry| entry["name"] == "openai")
            .unwrap();
        assert_eq!(openai["parameters"]["echo"], "native");
        let bedrock = entries
            .iter()
            .find(|entry| entry["name"] == "bedrock")
            .unwrap();
        let key_id = &bedrock["credentials"][0];
        assert_eq!(key_id["header"], "x-portkey-aws-access-key-id");
    }

    #[test]
    fn the_readme_holds_the_table_of_this_code() {
        let readme = include_str!("../../README.md");
        assert!(
            readme.contains(&markdown()),
            "paste the output of --providers=markdown"
        );
    }
}
