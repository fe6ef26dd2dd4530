//! A conf's text as a whole: where in it an error stands, and what surrounds it.

use http::{HeaderName, HeaderValue};
use secrecy::zeroize::Zeroizing;

use crate::{
    config::{Config, ConfigError, Surroundings, schema::Step},
    provider::Secret,
};

/// A conf's text, and what surrounds it.
pub struct Source<'a> {
    /// The file's name, for errors.
    pub file: &'a str,
    pub text: &'a str,
    /// The top-level keys that the server framework reads from the same file.
    pub server_keys: &'a [String],
    pub surroundings: &'a dyn Surroundings,
}

impl Source<'_> {
    pub fn error(&self, path: &[&str], message: String) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: line_of(self.text, path),
            path: path.join("."),
            message,
        }
    }

    /// An error at `key` of a list's entry; the first has place 0.
    pub fn entry_error(
        &self,
        list: &[&str],
        place: usize,
        key: &str,
        message: String,
    ) -> ConfigError {
        let start = line_of(self.text, list);
        let line = line_in_entry(self.text.lines().skip(start), place, key);
        ConfigError {
            line: line.map_or(start, |line| start + line),
            path: format!("{}[{place}].{key}", list.join(".")),
            ..self.error(list, message)
        }
    }

    /// An error at a place that is told by steps through mappings and lists.
    pub fn error_at(&self, steps: &[Step], message: String) -> ConfigError {
        let mut path = String::new();
        for step in steps {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Item(place) => path.push_str(&format!("[{place}]")),
            }
        }
        ConfigError {
            line: line_at(self.text, steps),
            path,
            ..self.error(&[], message)
        }
    }

    /// The parser's own message is `path: what at line L column C`.
    pub fn syntax_error(&self, error: &serde_yaml::Error) -> ConfigError {
        let text = error.to_string();
        let (text, line) = match error.location() {
            Some(place) => (
                text.rsplit_once(" at line ")
                    .map_or(&*text, |(text, _)| text),
                place.line(),
            ),
            None => (&*text, 0),
        };
        let (path, message) = match text.split_once(": ") {
            Some((path, message)) if !path.contains(' ') => (path, message),
            _ => ("", text),
        };
        // The parser names the mapping; the key at fault stands on the line, unless that is where a list's entry starts.
        let line_text = line
            .checked_sub(1)
            .and_then(|before| self.text.lines().nth(before))
            .filter(|text| !text.trim_start().starts_with('-'));
        let key = line_text
            .and_then(|text| text.split_once(':'))
            .map(|(key, _)| key.trim());
        let path = match key {
            Some(key) if !path.is_empty() && !path.ends_with(key) => format!("{path}.{key}"),
            _ => path.to_owned(),
        };
        ConfigError {
            file: self.file.to_owned(),
            line,
            path,
            message: without_value(message),
        }
    }

    pub fn check_provider(
        &self,
        path: &[&str],
        name: &str,
        config: &Config,
    ) -> Result<(), ConfigError> {
        if config.providers.contains_key(name) {
            return Ok(());
        }
        let near: Vec<&str> = config
            .providers
            .keys()
            .map(String::as_str)
            .filter(|known| known.starts_with(name.get(..1).unwrap_or_default()))
            .collect();
        let message = format!(
            "unknown provider `{name}`; declare it in gateway.providers, or use one of: {}",
            near.join(", ")
        );
        Err(self.error(path, message))
    }

    pub fn check_address(&self, path: &[&str], address: &str) -> Result<(), ConfigError> {
        let parts = address.rsplit_once(':');
        let is_host = |host: &str| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            !host.is_empty() && (bracketed || !host.contains(':'))
        };
        match parts.filter(|(host, port)| is_host(host) && port.parse::<u16>().is_ok()) {
            Some(_) => Ok(()),
            None => Err(self.error(path, format!("`{address}` is not host:port"))),
        }
    }

    pub fn secret(&self, path: &[&str], reference: &str) -> Result<Option<Secret>, ConfigError> {
        let text = Zeroizing::new(if let Some(name) = reference.strip_prefix("env:") {
            let missing = || self.error(path, format!("the environment has no variable `{name}`"));
            self.surroundings.variable(name).ok_or_else(missing)?
        } else if let Some(file) = reference.strip_prefix("file:") {
            let unread = |why: String| self.error(path, format!("`{file}` cannot be read: {why}"));
            self.surroundings.file(file).map_err(unread)?
        } else {
            reference.to_owned()
        });
        let secret = Secret::try_new(&text);
        if secret.is_none() && text.trim() != reference {
            return Err(self.error(path, format!("`{reference}` is empty")));
        }
        Ok(secret)
    }

    pub fn header(
        &self,
        path: &[&str],
        name: &str,
        value: &str,
    ) -> Result<(HeaderName, HeaderValue), ConfigError> {
        let text = self.secret(path, value)?;
        let value = HeaderValue::try_from(text.as_ref().map_or("", |text| text.expose()));
        match (name.parse::<HeaderName>(), value) {
            (Ok(name), Ok(_)) if FRAMING.contains(&name.as_str()) => {
                Err(self.error(path, format!("`{name}` is set by the gateway itself")))
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                Ok((name, value))
            }
            _ => Err(self.error(path, format!("`{name}` is not a header that can be sent"))),
        }
    }
}

/// Headers on which the request's own form hangs.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A parser's message without the value it quotes, which can be a key in the wrong place: `invalid type: string "…",
/// expected a map` keeps its first words and its last.
fn without_value(message: &str) -> String {
    match message.split_once(" \"") {
        Some((what, rest)) if what.starts_with("invalid ") => {
            let expected = rest.rfind("\", expected").map(|at| at + 1);
            let expected = expected.and_then(|at| rest.get(at..)).unwrap_or_default();
            format!("{what}{expected}")
        }
        _ => message.to_owned(),
    }
}

/// The line of `key` in a block list's entry, or where the entry starts; 1 is the first of `lines`, which begin below the
/// list's own name.
fn line_in_entry<'l>(
    lines: impl Iterator<Item = &'l str>,
    place: usize,
    key: &str,
) -> Option<usize> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let (mut list, mut seen, mut found) = (None, 0, None);
    for (number, line) in (1..).zip(lines) {
        let text = line.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let list = *list.get_or_insert(depth(line));
        let starts = text.starts_with('-') && depth(line) == list;
        if depth(line) < list || depth(line) == list && !starts || starts && found.is_some() {
            break;
        }
        seen += usize::from(starts);
        if seen != place + 1 {
            continue;
        }
        found = found.or(Some(number));
        let mut words = text.split([' ', '{', ',', '-']);
        if words.any(|word| word.strip_suffix(':') == Some(key)) {
            return Some(number);
        }
    }
    found
}

/// The line of the deepest of `steps` that can be found in block style.
fn line_at(text: &str, steps: &[Step]) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    // The line of what was found last, and how deep it stands; what is inside it stands deeper.
    let (mut found, mut depth) = (None, None);
    for step in steps {
        let next = match step {
            Step::Field(name) => field_line(&lines, (found, depth), name),
            Step::Item(place) => item_line(&lines, (found, depth), *place),
        };
        let Some((line, deep)) = next else { break };
        (found, depth) = (Some(line), Some(deep));
    }
    found.map_or(0, |line| line + 1)
}

type At = (Option<usize>, Option<usize>);

/// The lines that are none of a comment's, with their depths, from `line` on.
fn told_lines<'l>(
    lines: &'l [&'l str],
    line: usize,
) -> impl Iterator<Item = (usize, usize, &'l str)> {
    let deep = |(number, line): (usize, &'l &str)| {
        let text = line.trim_start();
        let is_told = !text.is_empty() && !text.starts_with('#');
        is_told.then_some((number, line.len() - text.len(), text))
    };
    lines.iter().enumerate().skip(line).filter_map(deep)
}

fn field_line(lines: &[&str], (found, depth): At, name: &str) -> Option<(usize, usize)> {
    for (number, deep, text) in told_lines(lines, found.unwrap_or(0)) {
        let is_inside = depth.is_none_or(|depth| deep > depth);
        if !is_inside && Some(number) != found {
            return None;
        }
        // In a list, a mapping's first key stands behind the dash.
        let key = text.trim_start_matches("- ");
        let column = deep + text.len() - key.len();
        let key = key.trim_start_matches(['"', '\'']).strip_prefix(name);
        let is_key = key.is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'));
        if is_key && depth.is_none_or(|depth| column > depth) {
            return Some((number, column));
        }
    }
    None
}

fn item_line(lines: &[&str], (found, depth): At, place: usize) -> Option<(usize, usize)> {
    let start = found.map_or(0, |line| line + 1);
    let (mut list, mut seen) = (None, 0);
    for (number, deep, text) in told_lines(lines, start) {
        let is_item = text.starts_with('-');
        let list = *list.get_or_insert(deep);
        if depth.is_some_and(|depth| deep < depth) || deep < list || deep == list && !is_item {
            return None;
        }
        if deep == list && seen == place {
            return Some((number, deep));
        }
        seen += usize::from(deep == list);
    }
    None
}

/// The line on which the deepest part of `path` stands that can be found. Block style only; a flow mapping counts by the
/// line it starts on.
fn line_of(text: &str, path: &[&str]) -> usize {
    let mut found = 0;
    let mut rest = path.iter();
    let mut wanted = rest.next();
    for (number, line) in text.lines().enumerate() {
        let Some(key) = wanted else { break };
        let line = line
            .trim_start()
            .trim_start_matches("- ")
            .trim_start_matches(['"', '\'']);
        let after = line
            .strip_prefix(key)
            .map(|after| after.trim_start_matches(['"', '\'']));
        if after.is_some_and(|after| after.starts_with(':')) {
            found = number + 1;
            wanted = rest.next();
        }
    }
    found
}
