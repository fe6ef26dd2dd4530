//! The attempts of one completion: a target is called; when it fails, the same one again or the next, until an answer has begun.
//!
//! ```text
//!             ┌── wait ◀── again ◀──┐
//!             ▼                     │
//!  plan ──▶ call ──▶ answered     failed, and nothing of an answer is written
//!             ▲                     │
//!             └─ next target ◀──────┼──▶ refused: the last failure is the client's
//! ```
//!
//! What follows a failure is decided here, without IO; [`crate::reception`] makes the calls.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    config::headers::Directives,
    error::{Deadline, Error, Kind},
    exchange::Replay,
    leg::Failed,
    route::{
        plan::{Attempt, Plan, Spare},
        retry::{Backoff, Outcome, Tries, retry_after},
    },
};

/// A request on its way from target to target.
pub struct Pursuit {
    pub directives: Box<Directives>,
    pub body: Bytes,
    pub replay: Replay,
    plan: Plan,
    at: usize,
    tries: Tries,
}

/// What a retry has to make do with.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Of [0, 1).
    pub draw: f64,
    /// Of the request's time; `None`: nothing limits it.
    pub left: Option<Duration>,
    /// Takes one retry of a target from the budget, if there is one. Asked only for one that is made then.
    pub budget: &'a dyn Fn(&Attempt) -> bool,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The same target, after this time.
    Again(Duration),
    /// Another target, at once.
    Turn,
    /// Nothing: the failure is the request's.
    End,
}

impl Pursuit {
    pub fn new(
        directives: Box<Directives>,
        plan: Plan,
        (body, replay): (Bytes, Replay),
        backoff: Backoff,
    ) -> Self {
        Self {
            directives,
            body,
            replay,
            plan,
            at: 0,
            tries: Tries::new(backoff),
        }
    }

    /// What is tried now; `None`: a plan without a target, which is none.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.plan.get(self.at)
    }

    /// The call that may be made beside the present one.
    pub fn spare(&self) -> Option<&Spare> {
        self.attempt()?.spare.as_deref()
    }

    /// Leaves out the targets of which `is_open` says that they are left alone, unless nothing else is left: then the present
    /// one is called as if none were.
    pub fn pass_over(&mut self, is_open: impl Fn(&Attempt) -> bool) {
        let mut at = self.at;
        while let Some(attempt) = self.plan.get(at) {
            if !is_open(attempt) {
                if self.at != at {
                    self.at = at;
                    self.tries.turn();
                }
                return;
            }
            match attempt.jumps.first() {
                Some(jump) => at = jump.to,
                None => return,
            }
        }
    }

    /// Whether the present target was called before.
    pub fn is_again(&self) -> bool {
        self.tries.told() != 0
    }

    /// Whether the present attempt may be followed, or joined, by another.
    pub fn may_go_on(&self) -> bool {
        let more = |attempt: &Attempt| {
            attempt.retry.attempts > 0 || !attempt.jumps.is_empty() || attempt.spare.is_some()
        };
        self.attempt().is_some_and(more)
    }

    /// Takes note of a failure.
    pub fn after(&mut self, error: &Error, outcome: &Outcome, means: Means<'_>) -> Step {
        if is_final(error) {
            return Step::End;
        }
        let Some(attempt) = self.plan.get(self.at) else {
            return Step::End;
        };
        if let Some(wait) = self.tries.after(&attempt.retry, outcome, means.draw) {
            // What comes after the deadline would hide what came before it.
            let in_time = means.left.is_none_or(|left| wait < left);
            if in_time && (means.budget)(attempt) {
                return Step::Again(wait);
            }
            self.tries.forgo();
        }
        match self.plan.next(self.at, outcome) {
            Some(next) => {
                self.at = next;
                self.tries.turn();
                Step::Turn
            }
            None => Step::End,
        }
    }

    /// What `x-portkey-retry-attempt-count` says.
    pub fn retries(&self) -> i32 {
        self.tries.told()
    }
}

/// Whether no other call could help: the client has left, its time is over, or the process's, or there is no socket for one.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::ClientGone | Kind::Stopping | Kind::Exhausted | Kind::Timeout(Deadline::Total)
    )
}

/// A failure as retries and strategies see it. Lists of statuses are written for Portkey's gateway, which tells failures of
/// connections as 500 and 503, and those of time as 408: lists that name those mean ours.
pub fn outcome(failed: &Failed, now: u64) -> Outcome {
    let error = &failed.error;
    let head = failed.head.as_deref();
    let (status, alias, transport) = match error.kind() {
        // A status that is no answer and no error either, a 204 say, is told as one.
        Kind::Upstream(status) if status.as_u16() < 400 => (error.status().as_u16(), None, false),
        Kind::Upstream(status) => (status.as_u16(), None, false),
        Kind::Dns | Kind::Connect | Kind::Tls | Kind::Broken => (502, Some(500), true),
        Kind::Timeout(Deadline::Connect) => (504, Some(503), true),
        // A limit that the client set for the call is Portkey's 408, which is not tried again unless it is listed.
        Kind::Timeout(Deadline::Attempt) => (408, Some(504), false),
        Kind::Timeout(_) => (504, Some(408), true),
        // Lists are written for providers, which say it with 429.
        Kind::Full => (503, Some(429), false),
        _ => (error.status().as_u16(), None, false),
    };
    Outcome {
        status,
        alias,
        transport,
        retry_after: head.and_then(|head| retry_after(&head.headers, now)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{HeaderMap, StatusCode};
    use pingora::http::ResponseHeader;

    use super::*;
    use crate::{
        config::Config,
        route::plan::{Facts, Traits, plan},
    };

    /// What comes of a call.
    #[derive(Clone, Copy)]
    enum Said {
        Ok,
        Status(u16),
        /// A 429 that asks to be called again after so many seconds.
        Later(u16),
        Fails(Kind),
    }
    use Said::{Fails, Later, Ok, Status};

    const DEAD: Said = Fails(Kind::Connect);

    impl Said {
        fn failed(self) -> Option<Failed> {
            let upstream = |status: u16| Kind::Upstream(StatusCode::from_u16(status).unwrap());
            let (kind, head) = match self {
                Ok => return None,
                Status(status) => (upstream(status), None),
                Later(seconds) => {
                    let mut head = ResponseHeader::build(429, None).unwrap();
                    head.insert_header("retry-after", seconds.to_string())
                        .unwrap();
                    (upstream(429), Some(Box::new(head)))
                }
                Fails(kind) => (kind, None),
            };
            Some(Failed {
                head,
                ..Failed::from(Error::new(kind, "no"))
            })
        }
    }

    /// A request that was sent to a config's targets.
    struct Case {
        pursuit: Pursuit,
        left: Option<Duration>,
        /// Retries that the budget has.
        budget: usize,
        /// Targets that are left alone.
        open: Vec<&'static str>,
    }

    impl Case {
        /// Of a balance the first target is chosen.
        fn of(config: &str) -> Self {
            let mut headers = HeaderMap::new();
            // Written in several lines, which a header is not.
            let config = config.replace('\n', "").parse().unwrap();
            headers.insert("x-portkey-config", config);
            let directives = Directives::read(&headers, &Config::default()).unwrap();
            let facts = Facts {
                metadata: &BTreeMap::new(),
                params: &[],
                path: "/v1/completions",
                headers: &headers,
                traits: Traits::default(),
            };
            let route = directives.route.clone().unwrap();
            let plan = plan(&route, &facts, &mut |_, _| 0).unwrap();
            let request = (Bytes::new(), Replay::Held);
            let backoff = Backoff::default();
            Self {
                pursuit: Pursuit::new(Box::new(directives), plan, request, backoff),
                left: None,
                budget: 99,
                open: Vec::new(),
            }
        }

        fn within(self, left: Duration) -> Self {
            Self {
                left: Some(left),
                ..self
            }
        }

        fn paid_by(self, budget: usize) -> Self {
            Self { budget, ..self }
        }

        fn open(self, open: &[&'static str]) -> Self {
            Self {
                open: open.into(),
                ..self
            }
        }

        /// The targets that are called, the milliseconds that are waited, how it ends and what is told of retries, where
        /// each call comes to the next of `all`.
        fn run(mut self, all: &[Said]) -> String {
            let mut trace = Vec::new();
            let budget = std::cell::Cell::new(self.budget);
            for said in all {
                self.pursuit
                    .pass_over(|attempt| self.open.contains(&short(attempt)));
                let attempt = self.pursuit.attempt().unwrap();
                trace.push(short(attempt).to_owned());
                let Some(failed) = said.failed() else {
                    trace.push(format!("ok {}", self.pursuit.retries()));
                    break;
                };
                let means = Means {
                    draw: 0.5,
                    left: self.left,
                    budget: &|_| {
                        let left = budget.get();
                        budget.set(left.saturating_sub(1));
                        left > 0
                    },
                };
                let outcome = outcome(&failed, 0);
                match self.pursuit.after(&failed.error, &outcome, means) {
                    Step::Again(wait) => trace.push(format!("+{}", wait.as_millis())),
                    Step::Turn => {}
                    Step::End => {
                        trace.push(format!("end {}", self.pursuit.retries()));
                        break;
                    }
                }
            }
            trace.join(" ")
        }
    }

    /// `config.targets[1].targets[0]` as `1.0`.
    fn short(attempt: &Attempt) -> &'static str {
        let names = ["0", "1", "2", "1.0", "1.1", "0.0", "0.1"];
        let place = attempt.place.replace("config", "").replace("targets", "");
        let place = place.replace("].[", ".");
        let place = place.trim_matches(['.', '[', ']']);
        names
            .into_iter()
            .find(|name| *name == place)
            .unwrap_or("root")
    }

    const LEAF: &str = r#"{"provider":"openai","retry":{"attempts":2}}"#;
    const HEEDING: &str =
        r#"{"provider":"openai","retry":{"attempts":2,"use_retry_after_header":true}}"#;
    const THREE: &str = r#"{"strategy":{"mode":"fallback"},"targets":[
        {"provider":"openai"},{"provider":"groq"},{"provider":"openai"}]}"#;
    const NESTED: &str = r#"{"strategy":{"mode":"fallback"},"targets":[
        {"provider":"openai"},
        {"strategy":{"mode":"fallback","on_status_codes":[429]},"targets":[{"provider":"groq"},{"provider":"openai"}]},
        {"provider":"groq"}]}"#;

    /// A fallback of two, with more words in its strategy and its first target.
    fn two(strategy: &str, first: &str) -> String {
        format!(
            r#"{{"strategy":{{"mode":"fallback"{strategy}}},"targets":[{{"provider":"openai"{first}}},{{"provider":"groq"}}]}}"#
        )
    }

    fn holds(cases: &[(&str, &[Said], &str)]) {
        for (config, said, trace) in cases {
            assert_eq!(Case::of(config).run(said), *trace, "{config}");
        }
    }

    #[test]
    fn one_target_is_tried_again() {
        holds(&[
            (r#"{"provider":"openai"}"#, &[Status(500)], "root end 0"),
            (LEAF, &[Ok], "root ok 0"),
            (LEAF, &[Status(500), Ok], "root +250 root ok 1"),
            (
                LEAF,
                &[DEAD, Status(429), Ok],
                "root +250 root +500 root ok 2",
            ),
            (LEAF, &[Status(503); 3], "root +250 root +500 root end -1"),
            (LEAF, &[Status(503), Status(400)], "root +250 root end 1"),
            (LEAF, &[Status(400)], "root end 0"),
            (LEAF, &[Later(9), Ok], "root +250 root ok 1"),
            (HEEDING, &[Later(9), Ok], "root +9000 root ok 1"),
            (HEEDING, &[Later(40), Later(40)], "root +40000 root end -1"),
        ]);
    }

    #[test]
    fn one_target_after_the_other() {
        let on = |statuses| two(&format!(r#","on_status_codes":[{statuses}]"#), "");
        let retried = two("", r#","retry":{"attempts":1}"#);
        holds(&[
            (THREE, &[Status(500), Status(400), Ok], "0 1 2 ok 0"),
            (THREE, &[DEAD, DEAD, DEAD], "0 1 2 end 0"),
            (&on("429"), &[Status(500)], "0 end 0"),
            (&on("429"), &[Status(429), Ok], "0 1 ok 0"),
            (&on("200"), &[Ok], "0 ok 0"),
            (&retried, &[Status(500), Ok], "0 +250 0 ok 1"),
            (&retried, &[Status(500), Status(500), Ok], "0 +250 0 1 ok 0"),
            (
                &retried,
                &[Status(500), Status(400), Status(500)],
                "0 +250 0 1 end 0",
            ),
            // Portkey's words for what has no status.
            (&on("500"), &[DEAD, Ok], "0 1 ok 0"),
            (
                &on("503"),
                &[Fails(Kind::Timeout(Deadline::Connect)), Ok],
                "0 1 ok 0",
            ),
            (
                &on("408"),
                &[Fails(Kind::Timeout(Deadline::FirstToken)), Ok],
                "0 1 ok 0",
            ),
            (
                &on("408"),
                &[Fails(Kind::Timeout(Deadline::Attempt)), Ok],
                "0 1 ok 0",
            ),
            (&on("429"), &[Fails(Kind::Full), Ok], "0 1 ok 0"),
            (&on("429"), &[DEAD], "0 end 0"),
        ]);
    }

    #[test]
    fn strategies_inside_strategies() {
        let first = r#"{"strategy":{"mode":"loadbalance"},"targets":[
            {"strategy":{"mode":"fallback"},"targets":[{"provider":"openai"},{"provider":"groq"}]},
            {"provider":"groq"}]}"#;
        let conditional = r#"{"strategy":{"mode":"conditional","conditions":[{"query":{"url.pathname":"/v1/completions"},"then":"b"}],"default":"a"},
            "targets":[{"name":"a","provider":"openai"},{"name":"b",
            "strategy":{"mode":"fallback"},"targets":[{"provider":"openai"},{"provider":"groq"}]}]}"#;
        let inherited = NESTED.replacen('{', r#"{"retry":{"attempts":1},"#, 1);
        holds(&[
            (
                NESTED,
                &[Status(500), Status(429), Status(429), Ok],
                "0 1.0 1.1 2 ok 0",
            ),
            (NESTED, &[Status(500), Status(500), Ok], "0 1.0 2 ok 0"),
            (
                NESTED,
                &[Status(500), Status(429), Status(500), Status(500)],
                "0 1.0 1.1 2 end 0",
            ),
            (
                &inherited,
                &[DEAD, DEAD, Status(429), Status(429), Ok],
                "0 +250 0 1.0 +250 1.0 1.1 ok 0",
            ),
            // One of a balance is chosen, and what is below it.
            (first, &[Status(500), Status(500)], "0.0 0.1 end 0"),
            (conditional, &[Status(500), Ok], "1.0 1.1 ok 0"),
        ]);
    }

    #[test]
    fn nobody_waits_beyond_the_deadline() {
        let second = Duration::from_secs(1);
        let run = |config: &str, said: &[Said]| Case::of(config).within(second).run(said);
        assert_eq!(run(HEEDING, &[Later(2)]), "root end -1");
        assert_eq!(run(HEEDING, &[Later(1)]), "root end -1");
        assert_eq!(run(HEEDING, &[Later(0), Ok]), "root +0 root ok 1");
        let retried = two(
            "",
            r#","retry":{"attempts":3,"use_retry_after_header":true}"#,
        );
        assert_eq!(run(&retried, &[Later(2), Ok]), "0 1 ok 0");
        assert_eq!(
            run(&retried, &[Status(500), Status(500), Later(0), Ok]),
            "0 +250 0 +500 0 +0 0 ok 3"
        );
    }

    #[test]
    fn what_the_budget_does_not_pay_goes_to_the_next_target() {
        let run = |budget, config: &str, said: &[Said]| Case::of(config).paid_by(budget).run(said);
        assert_eq!(run(0, LEAF, &[Status(500)]), "root end -1");
        assert_eq!(run(1, LEAF, &[Status(500); 2]), "root +250 root end -1");
        let retried = two("", r#","retry":{"attempts":2}"#);
        assert_eq!(run(0, &retried, &[Status(500), Ok]), "0 1 ok 0");
        assert_eq!(run(1, &retried, &[Status(500); 3]), "0 +250 0 1 end 0");
        // A fallback costs nothing of it.
        assert_eq!(run(0, THREE, &[DEAD, DEAD, Ok]), "0 1 2 ok 0");
    }

    #[test]
    fn open_targets_are_passed_over_unless_all_are() {
        let run = |config: &str, open: &[&'static str], said: &[Said]| {
            Case::of(config).open(open).run(said)
        };
        assert_eq!(run(THREE, &["0"], &[Ok]), "1 ok 0");
        assert_eq!(run(THREE, &["0", "1"], &[Ok]), "2 ok 0");
        assert_eq!(run(THREE, &["1"], &[DEAD, Ok]), "0 2 ok 0");
        assert_eq!(run(THREE, &["1", "2"], &[DEAD, Ok]), "0 1 ok 0");
        assert_eq!(
            run(THREE, &["0", "1", "2"], &[DEAD, DEAD, DEAD]),
            "0 1 2 end 0"
        );
        assert_eq!(run(NESTED, &["0", "1.0"], &[Status(500), Ok]), "1.1 2 ok 0");
        assert_eq!(run(NESTED, &["0", "1.0", "1.1"], &[Ok]), "2 ok 0");
        assert_eq!(
            run(LEAF, &["root"], &[Status(500), Ok]),
            "root +250 root ok 1"
        );
        // Who is open needs no failure of its own to be left: not even one that the list does not name.
        let on = two(r#","on_status_codes":[429]"#, "");
        assert_eq!(run(&on, &["0"], &[Ok]), "1 ok 0");
    }

    /// Whom a second call goes to, of each target.
    fn spares(config: &str) -> String {
        let attempts = Case::of(config).pursuit.plan.clone();
        let spare = |attempt: &Attempt| {
            let spare = attempt.spare.as_ref();
            spare.map_or("-", |spare| short(&spare.attempt))
        };
        let each = attempts.iter();
        let each = each.map(|attempt| format!("{}>{}", short(attempt), spare(attempt)));
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn where_a_hedge_stands_says_whom_the_second_call_goes_to() {
        let hedged = |config: &str, before: &str| {
            let hedge = format!(r#"{before}"hedge":{{"after":9}},"#);
            config.replacen(before, &hedge, 1)
        };
        let balance = THREE.replace("fallback", "loadbalance");
        let weighed = balance.replace(r#""provider":"groq""#, r#""provider":"groq","weight":0"#);
        // The target's own word, and that of the strategy which stands nearest, come first.
        let leaf = hedged(
            &hedged(
                THREE,
                r#"[
        {"#,
            ),
            "{",
        );
        let inner = hedged(
            &hedged(
                NESTED,
                r#",
        {"#,
            ),
            "{",
        );
        for (config, expected) in [
            (THREE.to_owned(), "0>- 1>- 2>-"),
            (hedged(r#"{"provider":"openai"}"#, "{"), "root>root"),
            (hedged(THREE, "{"), "0>1 1>2 2>-"),
            (leaf, "0>0 1>2 2>-"),
            (hedged(NESTED, "{"), "0>1.0 1.0>2 1.1>2 2>-"),
            (inner, "0>1.0 1.0>1.1 1.1>2 2>-"),
            (hedged(&balance, "{"), "0>1"),
            (hedged(&weighed, "{"), "0>2"),
        ] {
            assert_eq!(spares(&config), expected, "{config}");
        }
    }

    #[test]
    fn no_other_call_helps_who_has_left_or_is_out_of_time() {
        let over = Fails(Kind::Timeout(Deadline::Total));
        for said in [Fails(Kind::ClientGone), Fails(Kind::Stopping), over] {
            assert_eq!(Case::of(LEAF).run(&[said]), "root end 0");
            let config = two("", r#","retry":{"attempts":2}"#);
            assert_eq!(Case::of(&config).run(&[said]), "0 end 0");
        }
    }
}
