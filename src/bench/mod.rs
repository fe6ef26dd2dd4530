//! The load generator: `pingora-completions bench`, for any server of `/v1/completions`.
//!
//! `measure` knows what to send, when, and what came of it; here it is sent. Each server has its turn in each round, so that
//! a noisy neighbour meets all of them.

mod arguments;
mod connection;
mod drive;

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use self::{
    arguments::Arguments,
    connection::Server,
    drive::{Load, Target, drive},
};
pub use crate::measure::{
    answer::{Asked, Failure},
    endpoint::Endpoint,
    html,
    process::Reading,
    schedule::{Rate, Schedule},
    summary,
    tally::{Tally, Times},
    template::{self, Question, Template},
};
use crate::{
    config::Surroundings,
    measure::{
        summary::{Report, Round, Settings, Subject},
        table,
    },
};

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// For stdout.
    pub table: String,
    /// Paths and what to write there.
    pub files: Vec<(String, String)>,
    /// A request failed and that is not tolerated, a server was sent none, or the run was interrupted.
    pub failed: bool,
}

impl Target {
    /// Looks the server up. `authorities` are PEM certificates to trust in place of the system's.
    pub async fn find(
        endpoint: &Endpoint,
        template: Template,
        authorities: Option<&str>,
    ) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            server: Server::find(endpoint, authorities).await?,
            template,
            idle: Mutex::new(Vec::new()),
        }))
    }
}

/// Runs a load to its end. `say` gets a line of progress each second. An error is one of the command, before any request.
pub fn run(
    arguments: &Arguments,
    surroundings: &dyn Surroundings,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut bench = runtime.block_on(Bench::prepare(arguments, surroundings))?;
    runtime.block_on(bench.measure(say));
    Ok(bench.outcome())
}

/// A load under way.
struct Bench<'a> {
    arguments: &'a Arguments,
    surroundings: &'a dyn Surroundings,
    settings: Settings,
    load: Load,
    targets: Vec<Arc<Target>>,
    subjects: Vec<Subject>,
    started: SystemTime,
    /// By Ctrl-C: what was measured by then is told.
    interrupted: Arc<AtomicBool>,
}

impl<'a> Bench<'a> {
    async fn prepare(
        arguments: &'a Arguments,
        surroundings: &'a dyn Surroundings,
    ) -> Result<Self, String> {
        let load = arguments.load()?;
        let question = arguments.question(surroundings)?;
        let headers = arguments.headers(surroundings)?;
        let authorities = match &arguments.ca {
            Some(path) => {
                let text = surroundings.file(path);
                Some(text.map_err(|error| format!("--ca {path}: {error}"))?)
            }
            None => None,
        };
        for (name, id) in &arguments.pid {
            if reading(surroundings, &id.to_string()).is_none() {
                return Err(format!("--pid {name}={id}: no such process, or no Linux"));
            }
        }
        let (mut targets, mut subjects) = (Vec::new(), Vec::new());
        for (endpoint, name) in arguments.targets() {
            if subjects.iter().any(|known: &Subject| known.name == *name) {
                return Err(format!("two servers are named {name}: URL=name names one"));
            }
            let template = Template::new(endpoint, &question, &headers);
            targets.push(Target::find(endpoint, template, authorities.as_deref()).await?);
            subjects.push(Subject {
                name: name.clone(),
                url: endpoint.shown.clone(),
                rounds: Vec::new(),
            });
        }
        Ok(Self {
            settings: settings(arguments, &load, &question),
            arguments,
            surroundings,
            load,
            targets,
            subjects,
            started: SystemTime::now(),
            interrupted: Arc::default(),
        })
    }

    async fn measure(&mut self, say: &mut dyn FnMut(&str)) {
        let interrupted = self.interrupted.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
        });
        let rounds = self.arguments.rounds();
        for round in 1..=rounds {
            for at in 0..self.targets.len() {
                let (Some(target), Some(subject)) = (self.targets.get(at), self.subjects.get(at))
                else {
                    continue;
                };
                if round == 1 {
                    self.warm_up(target).await;
                }
                let head = match rounds {
                    1 => subject.name.clone(),
                    _ => format!("{} {round}/{rounds}", subject.name),
                };
                let measured = self.turn(target, &head, say).await;
                if let Some(subject) = self.subjects.get_mut(at) {
                    subject.rounds.push(measured);
                }
                if self.goes_on().is_break() {
                    return;
                }
            }
        }
    }

    /// The same load's first requests, as fast as they go, not counted.
    async fn warm_up(&self, target: &Arc<Target>) {
        let mut load = self.load;
        load.schedule = Schedule {
            rate: None,
            requests: Some(self.settings.warmup),
            time: None,
            ..load.schedule
        };
        drive(target, load, &mut |_| self.goes_on()).await;
    }

    async fn turn(&self, target: &Arc<Target>, head: &str, say: &mut dyn FnMut(&str)) -> Round {
        let before = self.readings();
        let (mut last, mut seconds) = (0, 0);
        let tally = drive(target, self.load, &mut |tally| {
            seconds += 1;
            say(&progress(head, seconds, tally, &mut last));
            self.goes_on()
        })
        .await;
        let mut cpu = before
            .into_iter()
            .zip(self.readings())
            .map(|(before, after)| Some(after?.cpu.saturating_sub(before?.cpu)));
        Round {
            tally,
            own_cpu: cpu.next().flatten(),
            cpu: cpu.collect(),
        }
    }

    fn goes_on(&self) -> ControlFlow<()> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Of this process, then of those that were named.
    fn readings(&self) -> Vec<Option<Reading>> {
        let named = self.arguments.pid.iter().map(|(_, id)| id.to_string());
        std::iter::once("self".to_owned())
            .chain(named)
            .map(|id| reading(self.surroundings, &id))
            .collect()
    }

    fn outcome(self) -> Outcome {
        let processes = self
            .arguments
            .pid
            .iter()
            .map(|(name, id)| (name.clone(), reading(self.surroundings, &id.to_string())));
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let processes: Vec<_> = processes.collect();
        let is_interrupted = self.goes_on().is_break();
        let mut report = Report::new(started.as_secs(), self.settings, self.subjects, &processes);
        report.interrupted = is_interrupted;
        let mut files = Vec::new();
        if let Some(path) = &self.arguments.json {
            // Of numbers and texts: it cannot fail.
            let json = serde_json::to_string_pretty(&report).unwrap_or_default();
            files.push((path.clone(), json + "\n"));
        }
        if let Some(path) = &self.arguments.html {
            files.push((path.clone(), html::page(&report)));
        }
        let is_empty = report.targets.iter().any(|target| target.requests == 0);
        Outcome {
            table: table::text(&report),
            files,
            failed: is_empty
                || report.interrupted
                || report.failed() > 0 && !self.arguments.tolerate_errors,
        }
    }
}

impl Load {
    /// A closed loop for `time`, with a minute for each request.
    pub fn closed(asked: Asked, concurrency: usize, time: Duration) -> Self {
        Self {
            schedule: Schedule {
                concurrency,
                rate: None,
                requests: None,
                time: Some(time),
            },
            asked,
            timeout: Duration::from_secs(60),
            abort_after: None,
        }
    }
}

/// `None`: no such process, or no Linux.
fn reading(surroundings: &dyn Surroundings, id: &str) -> Option<Reading> {
    let text = |file: &str| surroundings.file(&format!("/proc/{id}/{file}")).ok();
    Reading::of(&text("stat")?, &text("status")?)
}

fn settings(arguments: &Arguments, load: &Load, question: &Question) -> Settings {
    Settings {
        concurrency: load.schedule.concurrency,
        rate: load.schedule.rate.map(Rate::per_second),
        requests: load.schedule.requests,
        max_seconds: load.schedule.time.map(|time| time.as_secs_f64()),
        warmup: arguments.warmup(load),
        timeout_seconds: load.timeout.as_secs_f64(),
        rounds: arguments.rounds(),
        stream: question.stream,
        abort_after: load.abort_after,
        model: question.model.clone(),
        prompt_bytes: question.prompt.len(),
        prompts: question.prompts,
        unique: question.unique,
        max_tokens: question.max_tokens,
        n: question.n,
    }
}

/// A line of progress; `last` is what had been sent at the line before.
fn progress(head: &str, seconds: u32, tally: &Tally, last: &mut u64) -> String {
    let now = tally.sent - std::mem::replace(last, tally.sent);
    format!(
        "{seconds:>4} s  {head}  {} requests  {}/s  {} failed  p99 {} ms",
        table::number(tally.sent),
        table::number(now),
        table::number(tally.failed()),
        table::milliseconds(tally.total.percentile(0.99).as_secs_f64() * 1e3),
    )
}
