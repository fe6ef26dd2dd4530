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
    /// The permissions that a file of a secret may have for others than its owner; `gateway.secret_file_mode` sets them.
    pub secret_file_mode: u32,
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

    /// Resolves a secret; one that stands in the conf itself is warned of.
    pub fn secret(&self, path: &[&str], reference: &str) -> Result<Option<Secret>, ConfigError> {
        let secret = self.resolve(reference);
        let secret = secret.map_err(|message| self.error(path, message))?;
        if secret.is_some() && is_plain(reference) {
            self.warn(&self.error(path, PLAIN_TEXT.to_owned()));
        }
        Ok(secret)
    }

    /// The same where the caller knows the place, and warns. Err: what is wrong with it.
    pub fn resolve(&self, reference: &str) -> Result<Option<Secret>, String> {
        let text = if let Some(name) = reference.strip_prefix("env:") {
            let missing = || format!("the environment has no variable `{name}`");
            Zeroizing::new(self.surroundings.variable(name).ok_or_else(missing)?)
        } else if let Some(file) = reference.strip_prefix("file:") {
            self.secret_file(file)?
        } else {
            Zeroizing::new(reference.to_owned())
        };
        let secret = Secret::try_new(&text);
        if secret.is_none() && text.trim() != reference {
            return Err(format!("`{reference}` is empty"));
        }
        Ok(secret)
    }

    fn secret_file(&self, file: &str) -> Result<Zeroizing<String>, String> {
        let read = self.surroundings.secret_file(file);
        let (text, mode) = read.map_err(|why| format!("`{file}` cannot be read: {why}"))?;
        let text = Zeroizing::new(text);
        if let Some(open) = self.is_open(file, mode) {
            return Err(open);
        }
        if text.len() > MAX_SECRET_BYTES {
            return Err(format!(
                "`{file}` has more than {MAX_SECRET_BYTES} bytes: it is no secret"
            ));
        }
        Ok(text)
    }

    /// Says so if others than its owner have more of a file than the conf lets them.
    pub fn is_open(&self, file: &str, mode: u32) -> Option<String> {
        let open = mode & OTHERS & !self.secret_file_mode != 0;
        open.then(|| {
            format!(
                "`{file}` is open to others, as its mode is {mode:04o}: expected 0600 or 0400, or what \
                 `gateway.secret_file_mode` allows"
            )
        })
    }

    /// Tells of what is in use and should not be as it is.
    pub fn warn(&self, warning: &ConfigError) {
        self.surroundings.warn(&warning.to_string());
    }

    pub fn header(
        &self,
        path: &[&str],
        name: &str,
        value: &str,
    ) -> Result<(HeaderName, HeaderValue), ConfigError> {
        let text = match CREDENTIALS.contains(&&*name.to_ascii_lowercase()) {
            true => self.secret(path, value)?,
            false => self
                .resolve(value)
                .map_err(|message| self.error(path, message))?,
        };
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

/// Whether a secret stands in the conf itself.
pub fn is_plain(reference: &str) -> bool {
    let kinds = ["env:", "file:"];
    !kinds.iter().any(|kind| reference.starts_with(kind))
}

pub const PLAIN_TEXT: &str = "a secret in plain text, which whoever sees this file has; `env:NAME` or `file:PATH` keeps it out";
/// Of the permissions of a file, those of others than its owner.
const OTHERS: u32 = 0o077;
/// A service account's key has 3 KiB.
const MAX_SECRET_BYTES: usize = 64 << 10;
/// Headers whose values are secrets, whatever they are.
const CREDENTIALS: &[&str] = &[
    "api-key",
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-goog-api-key",
];
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Default)]
    struct Files {
        warnings: RefCell<Vec<String>>,
    }

    impl Surroundings for Files {
        fn variable(&self, _: &str) -> Option<String> {
            Some("sk-canary-env".to_owned())
        }

        fn file(&self, _: &str) -> Result<String, String> {
            Err("it is no plain file".to_owned())
        }

        /// A file's name is its mode.
        fn secret_file(&self, path: &str) -> Result<(String, u32), String> {
            match path {
                "long" => Ok(("x".repeat(MAX_SECRET_BYTES + 1), 0o600)),
                mode => Ok((
                    "sk-canary-file\n".to_owned(),
                    u32::from_str_radix(mode, 8).unwrap(),
                )),
            }
        }

        fn warn(&self, warning: &str) {
            self.warnings.borrow_mut().push(warning.to_owned());
        }
    }

    /// The conf, and what it was warned of.
    fn read(lines: &str) -> (Result<Config, ConfigError>, Vec<String>) {
        let files = Files::default();
        let read = Config::read(&Source {
            file: "conf.yaml",
            text: &format!("gateway:\n{lines}"),
            server_keys: &[],
            surroundings: &files,
            secret_file_mode: 0,
        });
        (read, files.warnings.into_inner())
    }

    // faults.md, secrets: files that others can read.
    #[test]
    fn a_file_of_a_secret_that_others_can_read_is_refused() {
        let key = |mode: &str, widest: &str| {
            let key = format!("  providers:\n    openai: {{ api_key: \"file:{mode}\" }}\n");
            read(&format!("{key}{widest}")).0
        };
        for mode in ["0600", "0400", "0700"] {
            assert!(key(mode, "").is_ok(), "{mode}");
        }
        for mode in ["0640", "0604", "0644", "0610", "0602"] {
            let error = key(mode, "").unwrap_err();
            assert_eq!(error.path, "gateway.providers.openai.api_key");
            let told = format!("`{mode}` is open to others, as its mode is {mode}: expected 0600");
            assert!(error.message.starts_with(&told), "{error}");
        }
        // Kubernetes gives a group what `fsGroup` names, Docker everybody.
        let widest = |mode: &str| format!("  secret_file_mode: \"{mode}\"\n");
        for (mode, wide, is_taken) in [
            ("0440", "0440", true),
            ("0640", "0440", true),
            ("0444", "0440", false),
            ("0444", "0444", true),
            ("0664", "0644", false),
        ] {
            assert_eq!(key(mode, &widest(wide)).is_ok(), is_taken, "{mode} {wide}");
        }
        for wrong in ["0666", "0040", "rw", "0755", "4"] {
            let error = key("0600", &widest(wrong)).unwrap_err();
            assert!(error.message.contains("expected one such as"), "{error}");
        }
        let error = key("long", "").unwrap_err();
        assert!(error.message.contains("65536 bytes"), "{error}");
    }

    #[test]
    fn a_secret_in_plain_text_is_warned_of_by_its_place_alone() {
        let lines = concat!(
            "  admin: { token: sk-canary-7c4a8d09ca3762af61e59520943dc264 }\n",
            "  providers:\n",
            "    openai: { api_key: \"env:KEY\" }\n",
            "    groq: { api_key: \"file:0600\" }\n",
            "    mistral-ai:\n",
            "      api_key: sk-canary-1\n",
            "      headers: { authorization: sk-canary-2, x-team: canary-no-secret }\n",
            "    together-ai:\n",
            "      api_keys:\n        - env:KEY\n        - { key: sk-canary-3 }\n",
            "    bedrock:\n",
            "      credentials: { aws_access_key_id: sk-canary-4, aws_secret_access_key: \"env:KEY\" }\n",
            "  configs:\n",
            "    two:\n",
            "      strategy: { mode: fallback }\n",
            "      targets:\n",
            "        - { provider: openai, api_key: sk-canary-5 }\n",
            "        - { provider: openai, api_key: \"env:KEY\" }\n",
            "  routes:\n",
            "    - config:\n        { provider: openai, api_key: sk-canary-6 }\n",
        );
        let (config, warnings) = read(lines);
        config.unwrap();
        let places: Vec<&str> = warnings
            .iter()
            .map(|warning| {
                assert!(!warning.contains("canary"), "{warning}");
                let place = warning.strip_prefix("conf.yaml:").unwrap();
                place.split(": ").nth(1).unwrap()
            })
            .collect();
        assert_eq!(
            places,
            [
                "gateway.admin.token",
                "gateway.providers.bedrock.credentials.aws_access_key_id",
                "gateway.providers.mistral-ai.api_key",
                "gateway.providers.mistral-ai.headers",
                "gateway.providers.together-ai.api_keys[1]",
                "gateway.configs.two.targets[0].api_key",
                "gateway.routes[0].config.api_key",
            ]
        );
    }
}
