//! Portkey's schema of a config: which fields it checks, in which order, and what it says of those that are wrong.
//!
//! Its gateway checks with a validator of JavaScript that goes through an object's fields in the schema's order and then through
//! the rules for the object as a whole, which it leaves out where a type within was wrong. Clients know its sentences. What it
//! does not check is checked in [`tree`](super::tree).

use std::fmt;

use super::{node::Node, source::Source};

/// One thing that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: Vec<Step>,
    pub message: String,
}

/// One step from a config's root to a place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Field(String),
    Item(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Item(place) => write!(f, "{place}"),
        }
    }
}

/// As Portkey lists it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: Vec<String> = self.path.iter().map(Step::to_string).collect();
        write!(f, "path: {}, message: {}", path.join(","), self.message)
    }
}

/// What a schema leaves to those who know the gateway.
pub struct Known<'a> {
    pub providers: &'a dyn Fn(&str) -> bool,
    /// Their names, for the one who named another.
    pub provider_names: &'a dyn Fn() -> String,
    pub hosts: &'a dyn Fn(&str) -> bool,
    /// Whether the conf itself holds an option of a provider.
    pub holds: &'a dyn Fn(&str, &str) -> bool,
    pub author: Author<'a>,
}

/// Who wrote a config.
#[derive(Clone, Copy)]
pub enum Author<'a> {
    Client,
    /// The operator, in this conf and there; its texts may be references to secrets.
    Operator {
        source: &'a Source<'a>,
        at: &'a [Step],
    },
}

/// Everything that `root` has wrong.
pub fn check(root: &Node, known: &Known<'_>) -> Vec<Problem> {
    let mut check = Check {
        known,
        path: Vec::new(),
        problems: Vec::new(),
    };
    check.config(root);
    check.problems
}

/// What a value has to be.
enum Shape {
    Text,
    Number,
    Flag,
    Object,
    /// An object of texts; an operator's may be one text.
    Account,
    Provider,
    /// One of a set of words.
    Word(&'static [&'static str], &'static str),
    List(&'static Shape),
    /// A list of texts, or one of objects.
    Guardrails,
    Fields(&'static [Field]),
    Config,
}

struct Field(&'static str, Need, Shape);

enum Need {
    Needed,
    Optional,
}

use Need::{Needed, Optional};

const NUMBERS: Shape = Shape::List(&Shape::Number);
const OBJECTS: Shape = Shape::List(&Shape::Object);

#[rustfmt::skip] // A table: one field a line, in Portkey's order.
static CONFIG: &[Field] = &[
    Field("strategy", Optional, Shape::Fields(&[
        Field("mode", Needed, Shape::Word(&["single", "loadbalance", "fallback", "conditional"], "mode")),
        Field("on_status_codes", Optional, NUMBERS),
        Field("conditions", Optional, Shape::List(&Shape::Fields(&[
            Field("query", Needed, Shape::Object),
            Field("then", Needed, Shape::Text),
        ]))),
        Field("default", Optional, Shape::Text),
    ])),
    Field("provider", Optional, Shape::Provider),
    Field("api_key", Optional, Shape::Text),
    Field("aws_secret_access_key", Optional, Shape::Text),
    Field("aws_access_key_id", Optional, Shape::Text),
    Field("aws_session_token", Optional, Shape::Text),
    Field("aws_region", Optional, Shape::Text),
    Field("cache", Optional, Shape::Fields(&[
        Field("mode", Needed, Shape::Word(&["simple", "semantic"], "cache.mode")),
        Field("max_age", Optional, Shape::Number),
    ])),
    Field("retry", Optional, Shape::Fields(&[
        Field("attempts", Needed, Shape::Number),
        Field("on_status_codes", Optional, NUMBERS),
        Field("use_retry_after_header", Optional, Shape::Flag),
    ])),
    Field("weight", Optional, Shape::Number),
    Field("on_status_codes", Optional, NUMBERS),
    Field("targets", Optional, Shape::List(&Shape::Config)),
    Field("request_timeout", Optional, Shape::Number),
    Field("custom_host", Optional, Shape::Text),
    Field("forward_headers", Optional, Shape::List(&Shape::Text)),
    Field("vertex_project_id", Optional, Shape::Text),
    Field("vertex_region", Optional, Shape::Text),
    Field("after_request_hooks", Optional, OBJECTS),
    Field("before_request_hooks", Optional, OBJECTS),
    Field("vertex_service_account_json", Optional, Shape::Account),
    Field("input_guardrails", Optional, Shape::Guardrails),
    Field("output_guardrails", Optional, Shape::Guardrails),
    Field("openai_project", Optional, Shape::Text),
    Field("openai_organization", Optional, Shape::Text),
    Field("azure_model_name", Optional, Shape::Text),
    Field("azure_auth_mode", Optional, Shape::Text),
    Field("strict_open_ai_compliance", Optional, Shape::Flag),
];

/// How far a value's check came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checked {
    /// To its end, whatever it found.
    Through,
    /// To a wrong type: rules for the whole are not asked.
    Stopped,
}

impl Checked {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Through, Self::Through) => Self::Through,
            (Self::Stopped, _) | (_, Self::Stopped) => Self::Stopped,
        }
    }
}

struct Check<'a> {
    known: &'a Known<'a>,
    path: Vec<Step>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn config(&mut self, node: &Node) -> Checked {
        let checked = self.fields(node, CONFIG);
        if checked == Checked::Through {
            self.rules(node);
        }
        checked
    }

    /// The rules for an object as a whole.
    fn rules(&mut self, node: &Node) {
        let has = |name: &str| node.get(name).is_some();
        let says_something = SUFFICIENT.iter().any(|name| has(name));
        let balances = has("strategy") && has("targets");
        if !says_something && !balances {
            self.tell(SAYS_NOTHING);
        }
        let host = node.get("custom_host").and_then(Node::text);
        if host.is_some_and(|host| !host.is_empty() && !(self.known.hosts)(host)) {
            self.tell("Invalid custom host");
        }
        let is_vertex = node.get("provider").and_then(Node::text) == Some("vertex-ai");
        // The conf's own row may have them.
        let said = |name: &str| has(name) || (self.known.holds)("vertex-ai", name);
        let account = said("vertex_project_id") || said("vertex_service_account_json");
        if is_vertex && !(account && said("vertex_region")) {
            self.tell(VERTEX);
        }
    }

    fn value(&mut self, node: &Node, shape: &Shape) -> Checked {
        match (shape, node) {
            (Shape::Text, Node::Text(_))
            | (Shape::Number, Node::Number(_))
            | (Shape::Flag, Node::Flag(_))
            | (Shape::Object, Node::Map(_)) => Checked::Through,
            (Shape::Provider, Node::Text(name)) => {
                if !(self.known.providers)(name) {
                    let names = (self.known.provider_names)();
                    let message = format!("Invalid 'provider' value. Must be one of: {names}");
                    self.tell(message);
                }
                Checked::Through
            }
            (Shape::Word(words, name), Node::Text(text)) => {
                if !words.contains(&text.as_str()) {
                    let words = words.join(", ");
                    self.tell(format!("Invalid '{name}' value. Must be one of: {words}"));
                }
                Checked::Through
            }
            (Shape::Account, Node::Text(_))
                if matches!(self.known.author, Author::Operator { .. }) =>
            {
                Checked::Through
            }
            (Shape::Account, Node::Map(fields)) => fields
                .iter()
                .map(|(name, value)| self.at(Step::Field(name.clone()), value, &Shape::Text))
                .fold(Checked::Through, Checked::and),
            (Shape::List(of), Node::List(items)) => items
                .iter()
                .enumerate()
                .map(|(place, item)| self.at(Step::Item(place), item, of))
                .fold(Checked::Through, Checked::and),
            (Shape::Guardrails, Node::List(items)) if is_uniform(items) => Checked::Through,
            (Shape::Guardrails, _) => self.stop("Invalid input".to_owned()),
            (Shape::Fields(fields), node) => self.fields(node, fields),
            (Shape::Config, node) => self.config(node),
            (other, node) => {
                let message = format!("Expected {}, received {}", other.kind(), node.kind());
                self.stop(message)
            }
        }
    }

    fn fields(&mut self, node: &Node, fields: &[Field]) -> Checked {
        if !matches!(node, Node::Map(_)) {
            return self.stop(format!("Expected object, received {}", node.kind()));
        }
        let mut checked = Checked::Through;
        for Field(name, need, shape) in fields {
            let step = Step::Field((*name).to_owned());
            let one = match (node.get(name), need) {
                (Some(value), _) => self.at(step, value, shape),
                (None, Optional) => Checked::Through,
                (None, Needed) => {
                    self.path.push(step);
                    let stopped = self.stop("Required".to_owned());
                    self.path.pop();
                    stopped
                }
            };
            checked = checked.and(one);
        }
        checked
    }

    fn at(&mut self, step: Step, node: &Node, shape: &Shape) -> Checked {
        self.path.push(step);
        let checked = self.value(node, shape);
        self.path.pop();
        checked
    }

    fn stop(&mut self, message: String) -> Checked {
        self.tell(message);
        Checked::Stopped
    }

    fn tell(&mut self, message: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.clone(),
            message: message.into(),
        });
    }
}

impl Shape {
    /// The word for what is expected.
    fn kind(&self) -> &'static str {
        match self {
            Self::Text | Self::Provider | Self::Word(..) => "string",
            Self::Number => "number",
            Self::Flag => "boolean",
            Self::List(_) | Self::Guardrails => "array",
            Self::Object | Self::Account | Self::Fields(_) | Self::Config => "object",
        }
    }
}

fn is_uniform(items: &[Node]) -> bool {
    let texts = items.iter().all(|item| matches!(item, Node::Text(_)));
    texts || items.iter().all(|item| matches!(item, Node::Map(_)))
}

/// Fields of which one is enough for a config to say something. Portkey asks for a key beside a provider, and takes neither
/// overrides nor a host alone; here the key may be the conf's, or stand in the request's own header.
const SUFFICIENT: &[&str] = &[
    "provider",
    "virtual_key",
    "model",
    "cache",
    "retry",
    "request_timeout",
    "override_params",
    "custom_host",
    "forward_headers",
    "strict_open_ai_compliance",
    "before_request_hooks",
    "after_request_hooks",
    "input_guardrails",
    "output_guardrails",
];
const SAYS_NOTHING: &str = "Invalid configuration. It must have either 'provider' and 'api_key', or 'strategy' and 'targets', or 'cache', or 'retry', or 'request_timeout'";
const VERTEX: &str = "Invalid configuration. ('vertex_project_id' and 'vertex_region') or ('vertex_service_account_json' and 'vertex_region') are required for 'vertex-ai' provider. Example: { 'provider': 'vertex-ai', 'vertex_project_id': 'my-project-id', 'vertex_region': 'us-central1', api_key: 'ya29...' }";
