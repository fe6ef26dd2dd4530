//! A config becomes a route: strategies, what their targets inherit, and what is wrong beyond Portkey's schema.
//!
//! Nothing of a config is dropped in silence: a field that has no effect here is refused, with its reason. Whoever adds one adds
//! a row to `docs/config.md`.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderName;

use super::{
    Config,
    host::custom_base,
    inherit::Inherited,
    node::Node,
    schema::{self, Author, Known, Problem, Step},
    source::{PLAIN_TEXT, Source},
};
use crate::route::{
    Balance, Balanced, Route, StickyBy, Weighed,
    plan::{Trigger, identity},
};

/// What Portkey's schema finds wrong.
pub fn check(root: &Node, conf: &Config, author: Author<'_>) -> Vec<Problem> {
    let known = Known {
        providers: &|name| {
            let later = matches!(author, Author::Client) && is_elsewhere(name);
            conf.providers.contains_key(name) || later
        },
        provider_names: &|| {
            let names: Vec<&str> = conf.providers.keys().map(String::as_str).collect();
            names.join(", ")
        },
        hosts: &|url| match author {
            Author::Client => custom_base(url, &conf.allowed_hosts).is_ok(),
            Author::Operator { .. } => true,
        },
        holds: &|provider, option| {
            let provider = conf.providers.get(provider);
            provider.is_some_and(|provider| {
                provider.options.contains_key(option) || provider.credential.is_some()
            })
        },
        author,
    };
    schema::check(root, &known)
}

/// Reads a config of Portkey's schema, whose targets inherit from `defaults` what they and it do not say. Err: what else is wrong.
pub fn read(
    root: &Node,
    defaults: Option<&Node>,
    conf: &Config,
    author: Author<'_>,
) -> Result<Route, Vec<Problem>> {
    let mut tree = Tree {
        conf,
        author,
        several: providers(root).len() > 1,
        path: Vec::new(),
        problems: Vec::new(),
        regexes: 0,
        leaves: 0,
    };
    let general = Inherited {
        breaker: conf.resilience.breaker.clone(),
        ..Inherited::default()
    };
    let above = match defaults {
        Some(defaults) => tree.inherit(defaults, &general),
        None => general,
    };
    let route = tree.node(root, &above);
    match (route, tree.problems) {
        (Some(route), problems) if problems.is_empty() => Ok(route),
        (_, problems) => Err(problems),
    }
}

/// A config on its way to a route.
pub(super) struct Tree<'a> {
    pub conf: &'a Config,
    pub author: Author<'a>,
    /// The targets are of more than one provider.
    pub several: bool,
    pub regexes: usize,
    path: Vec<Step>,
    problems: Vec<Problem>,
    leaves: usize,
}

impl Tree<'_> {
    pub(super) fn enter(&mut self, step: Step) {
        self.path.push(step);
    }

    pub(super) fn leave(&mut self) {
        self.path.pop();
    }

    /// Notes a problem of the present place.
    pub(super) fn tell(&mut self, message: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.clone(),
            message: message.into(),
        });
    }

    /// Notes a problem of a field here.
    pub(super) fn tell_of(&mut self, field: &str, message: impl Into<String>) {
        self.enter(Step::Field(field.to_owned()));
        self.tell(message);
        self.leave();
    }

    /// Warns of a secret that stands in a field here.
    pub(super) fn warn_of(&self, field: &str, source: &Source<'_>, at: &[Step]) {
        let steps = [at, &self.path, &[Step::Field(field.to_owned())]].concat();
        source.warn(&source.error_at(&steps, PLAIN_TEXT.to_owned()));
    }

    /// The present place, as `x-portkey-last-used-option-index` tells it.
    pub(super) fn place(&self) -> String {
        let mut place = "config".to_owned();
        for step in &self.path {
            match step {
                Step::Field(name) => place.extend([".", name]),
                Step::Item(item) => place.push_str(&format!("[{item}]")),
            }
        }
        place
    }

    fn node(&mut self, node: &Node, above: &Inherited) -> Option<Route> {
        self.refuse_unknown(node);
        let here = self.inherit(node, above);
        let Some(strategy) = node.get("strategy") else {
            if node.get("targets").is_some() {
                self.tell_of("strategy", "Required");
            }
            self.leaves += 1;
            if self.leaves == MAX_LEAVES {
                self.tell(format!("A config has fewer than {MAX_LEAVES} targets."));
            }
            return Some(Route::Leaf(Arc::new(self.leaf(node, here))));
        };
        let Some(targets) = node.get("targets").map(Node::items) else {
            self.tell_of("targets", "Required");
            return None;
        };
        if targets.is_empty() {
            self.tell_of("targets", "There must be at least one target.");
        }
        self.check_strategy(strategy);
        let routes: Vec<Option<Route>> =
            self.each(targets, |tree, target| tree.node(target, &here));
        let routes: Vec<Route> = routes.into_iter().collect::<Option<_>>()?;
        let mode = strategy.get("mode").and_then(Node::text)?;
        let hedge = self.hedge_among(node, mode, targets.len());
        match mode {
            "fallback" => Some(Route::Fallback {
                on: self.trigger(strategy),
                targets: routes,
                hedge,
            }),
            "loadbalance" => {
                let balanced = self.balance(strategy, targets, routes);
                Some(Route::Balance(Balanced { hedge, ..balanced }))
            }
            "conditional" => Some(self.conditional(strategy, targets, routes)),
            _ => routes.into_iter().next(),
        }
    }

    /// What `read` makes of each target, at its place.
    fn each<T>(&mut self, targets: &[Node], read: impl Fn(&mut Self, &Node) -> T) -> Vec<T> {
        self.enter(Step::Field("targets".to_owned()));
        let mut all = Vec::with_capacity(targets.len());
        for (place, target) in targets.iter().enumerate() {
            self.enter(Step::Item(place));
            all.push(read(self, target));
            self.leave();
        }
        self.leave();
        all
    }

    fn check_strategy(&mut self, strategy: &Node) {
        let mode = strategy.get("mode").and_then(Node::text);
        self.enter(Step::Field("strategy".to_owned()));
        for (name, _) in strategy.fields() {
            let own = match name.as_str() {
                "mode" | "cb_config" => mode,
                "on_status_codes" => Some("fallback"),
                "conditions" | "default" => Some("conditional"),
                "balance" | "sticky_by" => Some("loadbalance"),
                _ => None,
            };
            match own {
                Some(own) if Some(own) == mode => {}
                Some(own) => {
                    self.tell_of(name, format!("It has an effect in the mode {own} alone."))
                }
                None => self.tell_of(name, NO_FIELD),
            }
        }
        self.leave();
    }

    fn trigger(&mut self, strategy: &Node) -> Trigger {
        let on = strategy.get("on_status_codes").map(|codes| {
            self.enter(Step::Field("strategy".to_owned()));
            let statuses = self.statuses("on_status_codes", codes);
            self.leave();
            statuses
        });
        on.map_or(Trigger::Failure, Trigger::Statuses)
    }

    fn balance(&mut self, strategy: &Node, targets: &[Node], routes: Vec<Route>) -> Balanced {
        let weights = self.each(targets, |tree, target| {
            let weight = target.get("weight").and_then(Node::number).unwrap_or(1.0);
            if weight < 0.0 {
                tree.tell_of("weight", "It must not be negative.");
            }
            weight
        });
        // Adding one finite figure to another may still not give one.
        let sum: f64 = weights.iter().sum();
        let weighs = sum > 0.0 && sum.is_finite();
        if !routes.is_empty() && !weighs {
            self.tell_of(
                "targets",
                "The weights of the targets must add up to more than 0.",
            );
        }
        let weighed = |(weight, route): (f64, Route)| Weighed {
            weight,
            id: route.id(),
            route: Arc::new(route),
        };
        let targets: Vec<Weighed> = weights.into_iter().zip(routes).map(weighed).collect();
        let ids: Vec<u64> = targets.iter().map(|target| target.id).collect();
        Balanced {
            mode: self.mode(strategy),
            id: identity(&(self.place(), ids)),
            targets,
            hedge: None,
        }
    }

    fn mode(&mut self, strategy: &Node) -> Balance {
        let by = strategy.get("sticky_by");
        let Some(balance) = strategy.get("balance") else {
            return Balance::Weighted;
        };
        self.enter(Step::Field("strategy".to_owned()));
        let mode = match balance.text() {
            Some("weighted") => Balance::Weighted,
            Some("round_robin") => Balance::RoundRobin,
            Some("least_outstanding") => Balance::LeastOutstanding,
            Some("latency") => Balance::Latency,
            Some("prefix") => Balance::PrefixAffinity,
            Some("sticky") => match by.map(|by| by.text().and_then(sticky_by)) {
                None => Balance::Sticky { by: StickyBy::User },
                Some(Some(by)) => Balance::Sticky { by },
                Some(None) => {
                    self.tell_of("sticky_by", "It must be `user`, or the name of a header.");
                    Balance::Weighted
                }
            },
            _ => {
                self.tell_of("balance", "Invalid 'balance' value. Must be one of: weighted, round_robin, least_outstanding, latency, sticky, prefix");
                Balance::Weighted
            }
        };
        self.leave();
        mode
    }

    fn conditional(&mut self, strategy: &Node, targets: &[Node], routes: Vec<Route>) -> Route {
        let find = |name: &Node| {
            let mut names = targets
                .iter()
                .map(|target| target.get("name").and_then(Node::text));
            names.position(|own| own.is_some() && own == name.text())
        };
        self.enter(Step::Field("strategy".to_owned()));
        let Some(conditions) = strategy.get("conditions") else {
            self.tell_of("conditions", "No conditions passed in the query router");
            self.leave();
            return Route::Conditional {
                conditions: Vec::new(),
                default: None,
                targets: routes,
            };
        };
        let mut read = Vec::new();
        self.enter(Step::Field("conditions".to_owned()));
        for (place, condition) in conditions.items().iter().enumerate() {
            self.enter(Step::Item(place));
            if let (Some(query), Some(then)) = (condition.get("query"), condition.get("then")) {
                self.enter(Step::Field("query".to_owned()));
                let query = self.query(query);
                self.leave();
                match find(then) {
                    Some(target) => read.push((query, target)),
                    None => self.tell_of("then", NO_TARGET),
                }
            }
            self.leave();
        }
        self.leave();
        let default = strategy.get("default").map(find);
        if default == Some(None) {
            self.tell_of("default", NO_TARGET);
        }
        self.leave();
        Route::Conditional {
            conditions: read,
            default: default.flatten(),
            targets: routes,
        }
    }
}

/// Providers that Portkey knows, and that have no completions: a client's config may name one among others.
pub fn is_elsewhere(name: &str) -> bool {
    ELSEWHERE.contains(&name)
}

fn sticky_by(text: &str) -> Option<StickyBy> {
    match text {
        "user" => Some(StickyBy::User),
        name => name.parse::<HeaderName>().ok().map(StickyBy::Header),
    }
}

/// The providers of the targets below a node; `None`: whichever the request comes to.
fn providers(node: &Node) -> BTreeSet<Option<&str>> {
    if node.get("strategy").is_some() {
        let targets = node.get("targets").map_or(&[][..], Node::items);
        return targets.iter().flat_map(providers).collect();
    }
    let named = node.get("provider").or_else(|| node.get("virtual_key"));
    [named.and_then(Node::text)].into()
}

pub(super) const NO_FIELD: &str = "This is no field of a config, and no option of a provider.";
const NO_TARGET: &str = "Invalid target name found in the query router";
/// Each may be tried for one request.
const MAX_LEAVES: usize = 128;
const ELSEWHERE: &[&str] = &[
    "jina",
    "meshy",
    "milvus",
    "nomic",
    "portkey",
    "qdrant",
    "recraft-ai",
    "segmind",
    "stability-ai",
    "tripo3d",
    "voyage",
];
