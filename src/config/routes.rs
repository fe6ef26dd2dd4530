//! The conf's saved configs and routes: the grammar of `x-portkey-config`, in YAML.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;

use super::{
    Config, ConfigError,
    node::Node,
    schema::{Author, Problem, Step},
    source::Source,
    tree,
};
use crate::route::{
    Route,
    rules::{Rule, Rules, When},
};

/// Reads `gateway.configs` and `gateway.routes`; providers and limits are settled before.
pub fn apply(
    configs: BTreeMap<String, Node>,
    routes: &[Node],
    source: &Source<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    for (name, node) in configs {
        let at = [field("gateway"), field("configs"), field(&name)];
        if !is_config_name(&name) {
            let message =
                "a config's name starts with a letter and is of a-z, A-Z, 0-9, `-`, `_` and `.`";
            return Err(source.error_at(&at, message.to_owned()));
        }
        let route = read(&node, None, config, (source, &at))
            .map_err(|problems| told(source, &at, problems))?;
        config.configs.insert(name, Arc::new(route));
    }
    let mut rules = Vec::with_capacity(routes.len());
    for (place, node) in routes.iter().enumerate() {
        let at = [field("gateway"), field("routes"), Step::Item(place)];
        let rule =
            rule(node, config, (source, &at)).map_err(|problems| told(source, &at, problems))?;
        rules.push(rule);
    }
    config.routes = Rules::new(rules);
    Ok(())
}

fn read(
    node: &Node,
    defaults: Option<&Node>,
    config: &Config,
    (source, at): (&Source<'_>, &[Step]),
) -> Result<Route, Vec<Problem>> {
    let author = Author::Operator { source, at };
    let problems = tree::check(node, config, author);
    if !problems.is_empty() {
        return Err(problems);
    }
    tree::read(node, defaults, config, author)
}

/// A route: what it matches, and a config of its own, or the `config` that it names or holds, for which its other fields are
/// defaults.
fn rule(
    node: &Node,
    config: &Config,
    (source, at): (&Source<'_>, &[Step]),
) -> Result<Rule, Vec<Problem>> {
    let Node::Map(fields) = node else {
        return Err(vec![problem("", "a route is a mapping")]);
    };
    let own = fields
        .iter()
        .filter(|(name, _)| !ROUTE.contains(&name.as_str()));
    let own = Node::Map(own.cloned().collect());
    let when = node.get("match").map_or(Ok(When::default()), when)?;
    let route = match node.get("config") {
        None => Arc::new(read(&own, None, config, (source, at))?),
        Some(Node::Text(name)) => match config.configs.get(name) {
            Some(saved) if own.fields().is_empty() => Arc::clone(saved),
            Some(_) => return Err(vec![problem("config", NAMED)]),
            None => {
                return Err(vec![problem(
                    "config",
                    "gateway.configs has none of this name",
                )]);
            }
        },
        Some(inline) => {
            let refused = own
                .fields()
                .iter()
                .find(|(name, _)| !DEFAULTS.contains(&name.as_str()));
            if let Some((name, _)) = refused {
                return Err(vec![problem(name, NO_DEFAULT)]);
            }
            if !own.fields().is_empty() {
                refuse(tree::check(&own, config, Author::Operator { source, at }))?;
            }
            let below = |mut problem: Problem| {
                problem.path.insert(0, field("config"));
                problem
            };
            let at = [at, &[field("config")]].concat();
            let read = read(inline, Some(&own), config, (source, &at));
            Arc::new(read.map_err(|problems| problems.into_iter().map(below).collect::<Vec<_>>())?)
        }
    };
    Ok(Rule { when, route })
}

fn refuse(problems: Vec<Problem>) -> Result<(), Vec<Problem>> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn when(node: &Node) -> Result<When, Vec<Problem>> {
    let mut when = When::default();
    let wrong = |name: &str, message| vec![within("match", problem(name, message))];
    for (name, value) in node.fields() {
        match name.as_str() {
            "model" => when.models = patterns(value).ok_or_else(|| wrong(name, PATTERNS))?,
            "path" => when.paths = patterns(value).ok_or_else(|| wrong(name, PATTERNS))?,
            "header" => {
                for (header, value) in pairs(value).ok_or_else(|| wrong(name, PAIRS))? {
                    let header: HeaderName = header
                        .parse()
                        .map_err(|_| wrong(name, "this is no name of a header"))?;
                    when.headers.push((header, value));
                }
            }
            "metadata" => when.metadata = pairs(value).ok_or_else(|| wrong(name, PAIRS))?,
            _ => return Err(wrong(name, "expected model, path, header or metadata")),
        }
    }
    match node {
        Node::Map(_) => Ok(when),
        _ => Err(vec![problem("match", "it is a mapping")]),
    }
}

/// A text, or a list of them.
fn patterns(node: &Node) -> Option<Vec<String>> {
    let text = |node: &Node| node.text().map(str::to_owned);
    match node {
        Node::List(items) if !items.is_empty() => items.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    }
}

/// A mapping of names to texts.
fn pairs(node: &Node) -> Option<Vec<(String, String)>> {
    let pair = |(name, value): &(String, Node)| {
        let text = match value {
            Node::Text(text) => text.clone(),
            Node::Flag(_) | Node::Number(_) => value.to_value().to_string(),
            Node::Null | Node::List(_) | Node::Map(_) => return None,
        };
        Some((name.clone(), text))
    };
    match node {
        Node::Map(fields) => fields.iter().map(pair).collect(),
        _ => None,
    }
}

/// The first problem at its line, and the others behind it.
fn told(source: &Source<'_>, at: &[Step], problems: Vec<Problem>) -> ConfigError {
    let mut all = problems.into_iter();
    let first = all
        .next()
        .unwrap_or_else(|| problem("", "it cannot be read"));
    let mut message = first.message;
    for other in all {
        message = format!("{message}; {other}");
    }
    source.error_at(&[at, &first.path].concat(), message)
}

fn problem(name: &str, message: &str) -> Problem {
    let path = if name.is_empty() {
        Vec::new()
    } else {
        vec![field(name)]
    };
    Problem {
        path,
        message: message.to_owned(),
    }
}

fn within(name: &str, mut problem: Problem) -> Problem {
    problem.path.insert(0, field(name));
    problem
}

fn field(name: &str) -> Step {
    Step::Field(name.to_owned())
}

/// Never what could be JSON.
fn is_config_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let first = name.bytes().next();
    let literal = ["true", "false", "null"].contains(&name);
    first.is_some_and(|byte| byte.is_ascii_alphabetic())
        && !literal
        && name.len() <= 64
        && name.bytes().all(allowed)
}

/// A route's own fields.
const ROUTE: &[&str] = &["match", "config"];
/// What a route's config inherits from it.
const DEFAULTS: &[&str] = &[
    "model",
    "override_params",
    "retry",
    "request_timeout",
    "custom_host",
    "forward_headers",
    "strict_open_ai_compliance",
    "cb_config",
    "unsupported",
    "prompt_as",
    "max_concurrent",
];
const NAMED: &str = "a saved config is used as it is: defaults beside it have no effect";
const NO_DEFAULT: &str = "beside `config` it has no effect: targets do not inherit it";
const PATTERNS: &str = "it is a pattern or a list of them";
const PAIRS: &str = "it is a mapping of names to patterns";
