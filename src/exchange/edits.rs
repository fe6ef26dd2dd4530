//! What the gateway itself does to an answer's choices on their way to the client, where the provider does not: it ends a
//! text at a stop sequence, puts the echoed prompt before it, takes one off that nobody asked for, and gives each choice its
//! place in the client's answer.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use crate::{
    completion::{
        Choice, Finish, Finished,
        repeat::RepeatScan,
        stop::{Scanned, StopScan},
    },
    error::Error,
};

/// The edits of one upstream answer.
#[derive(Clone, Debug)]
pub struct Edits {
    plan: Plan,
    /// By the upstream's index; only those below `plan.choices` get in.
    states: BTreeMap<u32, State>,
    stopped: bool,
    /// The upstream's index of a sole choice.
    sole: Option<u32>,
}

/// Which edits one upstream call's answer needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The place of its first choice among the client's.
    pub shift: u32,
    /// How many choices it brings.
    pub choices: u32,
    /// The prompt, which each text begins with, to be taken off.
    pub repeated: Option<Arc<str>>,
    /// The prompt, to be put before each text.
    pub echo: Option<Arc<str>>,
    /// The sequences that end a text here.
    pub stops: Arc<[String]>,
    pub role: Role,
}

/// Whether an upstream's answer is the client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Whole,
    /// One of several calls whose choices become one answer: its id, its counts and its end are not its own.
    Part,
}

#[derive(Clone, Debug)]
struct State {
    repeat: Option<RepeatScan>,
    scan: StopScan,
    echo: Option<Arc<str>>,
    stopped: bool,
}

impl Plan {
    /// Whether the answer can pass as it came.
    pub fn is_empty(&self) -> bool {
        self.repeated.is_none()
            && self.echo.is_none()
            && self.stops.is_empty()
            && self.role == Role::Whole
    }
}

impl Edits {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            states: BTreeMap::new(),
            stopped: false,
            sole: None,
        }
    }

    /// Whether a text was ended here, so that its provider may still be writing on.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Edits the pieces of one event, or the choices of a whole reply. What is behind a stop sequence goes nowhere; a choice
    /// that ends at one has ended in `finished` too.
    pub fn apply<'a>(
        &mut self,
        choices: Vec<Choice<'a>>,
        finished: &mut Finished,
    ) -> Result<Vec<Choice<'a>>, Error> {
        let mut edited = Vec::with_capacity(choices.len());
        for choice in choices {
            let index = self.index(&choice)?;
            let Some(choice) = self.edit(index, choice) else {
                continue;
            };
            if choice.finish.is_some() {
                finished.end(index);
            }
            edited.push(choice);
        }
        Ok(edited)
    }

    /// The choice's place. A sole one may carry any index, but one; of several, each has its own.
    fn index(&mut self, choice: &Choice<'_>) -> Result<u32, Error> {
        match (self.plan.choices, choice.index) {
            (..=1, index) if *self.sole.get_or_insert(index) == index => Ok(0),
            (choices @ 2.., index) if index < choices => Ok(index),
            _ => Err(Error::broken(
                "The provider's answer has a choice that nobody asked for.",
            )),
        }
    }

    fn edit<'a>(&mut self, index: u32, mut choice: Choice<'a>) -> Option<Choice<'a>> {
        let plan = &self.plan;
        let state = self.states.entry(index).or_insert_with(|| State {
            repeat: plan.repeated.clone().map(RepeatScan::new),
            scan: StopScan::new(plan.stops.clone()),
            echo: plan.echo.clone(),
            stopped: false,
        });
        if state.stopped {
            return None;
        }
        choice.index = plan.shift.saturating_add(index);
        state.take_off(&mut choice);
        state.scan(&mut choice);
        self.stopped |= state.stopped;
        let brings =
            !choice.text.is_empty() || choice.logprobs.is_some() || choice.finish.is_some();
        if !brings {
            return None;
        }
        if let Some(echo) = state.echo.take() {
            choice.text = Cow::Owned([&*echo, &*choice.text].concat());
        }
        Some(choice)
    }
}

impl State {
    fn take_off(&mut self, choice: &mut Choice<'_>) {
        let Some(repeat) = &mut self.repeat else {
            return;
        };
        let text = repeat.push(std::mem::take(&mut choice.text));
        choice.text = match choice.finish {
            Some(_) => text + Cow::Owned(repeat.end()),
            None => text,
        };
    }

    fn scan(&mut self, choice: &mut Choice<'_>) {
        let text = match self.scan.push(std::mem::take(&mut choice.text)) {
            Scanned::Open(text) if choice.finish.is_some() => match self.scan.end() {
                Scanned::Open(rest) => text + rest,
                Scanned::Stopped(rest) => self.stop(text + rest, choice),
            },
            Scanned::Open(text) => text,
            Scanned::Stopped(text) => self.stop(text, choice),
        };
        choice.text = text;
    }

    fn stop<'a>(&mut self, text: Cow<'a, str>, choice: &mut Choice<'_>) -> Cow<'a, str> {
        self.stopped = true;
        choice.finish = Some(Finish::UNTOLD);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: u32, text: &str, finish: Option<&'static str>) -> Choice<'static> {
        Choice {
            index,
            text: Cow::Owned(text.to_owned()),
            finish: finish.map(Finish::from_native),
            ..Choice::default()
        }
    }

    fn plan(stops: &[&str], choices: u32) -> Plan {
        Plan {
            choices,
            stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            ..Plan::default()
        }
    }

    fn said(choices: &[Choice<'_>]) -> Vec<(u32, String, Option<crate::completion::FinishReason>)> {
        let told = |choice: &Choice<'_>| {
            let reason = choice.finish.as_ref().map(|finish| finish.reason);
            (choice.index, choice.text.to_string(), reason)
        };
        choices.iter().map(told).collect()
    }

    use crate::completion::FinishReason::{Length, Stop};

    #[test]
    fn each_choice_ends_at_its_own_stop_and_says_no_more() {
        let mut edits = Edits::new(Plan {
            shift: 4,
            ..plan(&["END"], 2)
        });
        let mut finished = Finished::default();
        for (pieces, wanted) in [
            (
                vec![piece(0, "a E", None), piece(1, "b", None)],
                vec![(4, "a ", None), (5, "b", None)],
            ),
            (vec![piece(0, "ND more", None)], vec![(4, "", Some(Stop))]),
            (vec![piece(0, "and more", Some("length"))], vec![]),
            (vec![piece(1, "E", None)], vec![]),
            (
                vec![piece(1, "", Some("length"))],
                vec![(5, "E", Some(Length))],
            ),
        ] {
            let edited = edits.apply(pieces, &mut finished).unwrap();
            let wanted: Vec<_> = wanted
                .into_iter()
                .map(|(index, text, reason)| (index, text.to_owned(), reason))
                .collect();
            assert_eq!(said(&edited), wanted);
        }
        assert!(edits.has_stopped() && finished.covers(2));
    }

    #[test]
    fn the_prompt_stands_once_before_each_text_and_stops_nothing() {
        let mut edits = Edits::new(Plan {
            echo: Some("the END ".into()),
            ..plan(&["END"], 2)
        });
        let mut finished = Finished::default();
        let mut told = Vec::new();
        for pieces in [
            vec![piece(1, "x", None)],
            vec![piece(0, "", Some("stop"))],
            vec![piece(1, " yEND", None)],
        ] {
            told.extend(said(&edits.apply(pieces, &mut finished).unwrap()));
        }
        let wanted = [
            (1, "the END x", None),
            (0, "the END ", Some(Stop)),
            (1, " y", Some(Stop)),
        ];
        assert_eq!(
            told,
            wanted.map(|(index, text, reason)| (index, text.to_owned(), reason))
        );
    }

    #[test]
    fn a_sole_choice_may_carry_any_index_and_one_of_several_may_not() {
        let mut finished = Finished::default();
        let mut sole = Edits::new(Plan {
            shift: 3,
            ..plan(&[], 1)
        });
        let edited = sole
            .apply(vec![piece(9, "a", None)], &mut finished)
            .unwrap();
        assert_eq!(said(&edited), [(3, "a".to_owned(), None)]);
        let second = sole.apply(vec![piece(0, "b", None)], &mut finished);
        assert_eq!(second.unwrap_err().status(), 502);
        let mut both = Edits::new(plan(&[], 2));
        let wrong = both.apply(vec![piece(2, "a", None)], &mut finished);
        assert_eq!(wrong.unwrap_err().status(), 502);
    }
}
