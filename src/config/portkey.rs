//! `x-portkey-config`: a config in the header itself, or the name of one that the conf holds. Refusals are Portkey's, in its
//! words and its order.

use std::sync::Arc;

use super::{
    Config,
    headers::CONFIG,
    node::{NoNode, Node},
    schema::{Author, Problem},
    tree,
};
use crate::{error::Error, route::Route};

/// The route that the header's text brings or names. `provider`: the request's own word for one.
pub fn route(text: &str, provider: Option<&str>, conf: &Config) -> Result<Arc<Route>, Error> {
    if let Some(saved) = conf.configs.get(text) {
        return Ok(Arc::clone(saved));
    }
    let root = match Node::read_json(text) {
        Err(NoNode::NoJson) | Ok(Node::Null) => return Err(Error::invalid(CONFIG, NO_JSON)),
        Err(NoNode::Refused(why)) => {
            return Err(Error::invalid(CONFIG, format!("{INVALID}: {why}.")));
        }
        Ok(root) => root,
    };
    // Here the conf may say which provider, where the config does not.
    let conf_names = conf.default.provider.is_some() || !conf.models.rules().is_empty();
    let conf_names = conf_names && matches!(root, Node::Map(_));
    if provider.is_none() && !conf_names && !names_provider(&root) {
        return Err(Error::invalid(CONFIG, NO_PROVIDER));
    }
    refuse(tree::check(&root, conf, Author::Client))?;
    if root.get("options").is_some_and(is_truthy) {
        return Err(Error::invalid(CONFIG, OLD_FORMAT));
    }
    tree::read(&root, None, conf, Author::Client)
        .map(Arc::new)
        .or_else(|problems| {
            refuse(problems)?;
            Err(Error::invalid(CONFIG, INVALID))
        })
}

fn refuse(problems: Vec<Problem>) -> Result<(), Error> {
    if problems.is_empty() {
        return Ok(());
    }
    let problems = problems.iter().map(Problem::to_string).collect();
    Err(Error::invalid(CONFIG, INVALID).with_problems(problems))
}

fn names_provider(root: &Node) -> bool {
    let named = ["provider", "targets", "virtual_key"];
    named
        .iter()
        .any(|name| root.get(name).is_some_and(is_truthy))
}

/// As JavaScript has it.
fn is_truthy(node: &Node) -> bool {
    match node {
        Node::Null => false,
        Node::Flag(flag) => *flag,
        Node::Text(text) => !text.is_empty(),
        Node::Number(_) => node.number() != Some(0.0),
        Node::List(_) | Node::Map(_) => true,
    }
}

const NO_JSON: &str = "Invalid config passed. You need to pass a valid json";
const NO_PROVIDER: &str = "Either x-portkey-provider needs to be passed. Or the x-portkey-config header should have a valid config with provider details in it.";
const OLD_FORMAT: &str =
    "This version of config is not supported in this route. Please migrate to the latest version";
const INVALID: &str = "Invalid config passed";
