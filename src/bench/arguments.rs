//! The words of `pingora-completions bench`.

use std::time::Duration;

use clap::Args;
use http::{HeaderName, HeaderValue};

use super::drive::Load;
use crate::{
    config::Surroundings,
    measure::{
        endpoint::{self, Endpoint},
        schedule::{Rate, Schedule},
        template::{self, Question},
    },
};

/// Loads any OpenAI-compatible /v1/completions server and tells how it took it
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "What each figure means: docs/bench.md. Exit status: 0 if every request went well, 1 if one failed, 2 if the command was wrong."
)]
pub struct Arguments {
    /// The server: http://host:port, …/v1, or the whole path; `URL=name` names it in the report
    #[arg(value_name = "URL[=NAME]", value_parser = endpoint::named)]
    pub target: (Endpoint, String),

    /// Another server, asked the same in turn with the first; the report has its ratios to the first (repeatable)
    #[arg(long, value_name = "URL[=NAME]", value_parser = endpoint::named)]
    pub compare: Vec<(Endpoint, String)>,

    /// How often each server has its turn [default: 5 with --compare, else 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,

    /// Requests under way at the same time; with --rate: at most [default: 8, with --rate 256]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub concurrency: Option<u32>,

    /// Open loop: so many requests a second, whatever the server does; times count from when each was due
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<Rate>,

    /// Requests of each turn
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// After it a turn sends nothing new [default: 10, unless --requests is there]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub max_seconds: Option<Duration>,

    /// Requests before the first turn of each server that are not counted [default: one for each of --concurrency, 64 at most]
    #[arg(long, value_name = "REQUESTS")]
    pub warmup: Option<u64>,

    /// For one request
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,

    #[command(flatten)]
    pub question: Asking,

    /// Leave each stream after so many events with text; 0: once the request is sent
    #[arg(long, value_name = "EVENTS")]
    pub abort_after: Option<u32>,

    /// A header of each request (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = template::header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,

    /// The bearer key: `env:NAME`, a variable of the environment
    #[arg(long, value_name = "env:NAME")]
    pub key: Option<String>,

    /// Certificates (PEM) to trust in place of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<String>,

    /// A process on this machine: its CPU time per request and its peak memory are told (Linux, repeatable)
    #[arg(long, value_name = "NAME=PID", value_parser = process)]
    pub pid: Vec<(String, u32)>,

    /// Write the figures here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write a report with plots here, one HTML file
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Exit with 0 even if requests failed
    #[arg(long)]
    pub tolerate_errors: bool,

    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// What is asked.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    /// The field `model` [default: none, which the server has to take]
    #[arg(long)]
    pub model: Option<String>,

    /// The prompt
    #[arg(long, value_name = "TEXT", group = "text")]
    pub prompt: Option<String>,

    /// A prompt of so many bytes [default: 100]
    #[arg(long, value_name = "BYTES", group = "text", value_parser = clap::value_parser!(u64).range(..=MAX_PROMPT_BYTES))]
    pub prompt_bytes: Option<u64>,

    /// The prompt is this file's text
    #[arg(long, value_name = "FILE", group = "text")]
    pub prompt_file: Option<String>,

    /// A list of so many prompts in each request [default: one prompt, a string]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=2_048))]
    pub prompts: Option<u16>,

    /// Put a number before each prompt, so that no cache of the server's knows it
    #[arg(long)]
    pub unique: bool,

    /// The field `max_tokens`; 0 leaves it out
    #[arg(long, default_value_t = 16)]
    pub max_tokens: u32,

    /// The field `n`: choices for each prompt
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub n: Option<u32>,

    /// Ask for streams
    #[arg(long)]
    pub stream: bool,

    /// Do not ask streams for their count of tokens (`stream_options`), for servers that refuse it
    #[arg(long, requires = "stream")]
    pub no_usage: bool,

    /// More fields of the body: a JSON object, as `{"temperature":0,"ignore_eos":true}`
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub body: Option<Fields>,
}

/// A JSON object.
type Fields = serde_json::Map<String, serde_json::Value>;

impl Arguments {
    pub fn rounds(&self) -> u32 {
        let default = if self.compare.is_empty() {
            1
        } else {
            COMPARED_ROUNDS
        };
        self.rounds.unwrap_or(default)
    }

    pub fn targets(&self) -> impl Iterator<Item = &(Endpoint, String)> {
        std::iter::once(&self.target).chain(&self.compare)
    }

    /// Of a turn.
    pub fn load(&self) -> Result<Load, String> {
        if self.abort_after.is_some() && !self.question.stream {
            return Err("--abort-after counts a stream's events: it needs --stream".to_owned());
        }
        let question = &self.question;
        if let Some(name) = OWN_FIELDS.iter().find(|name| {
            question
                .body
                .as_ref()
                .is_some_and(|body| body.contains_key(**name))
        }) {
            return Err(format!("--body: `{name}` has an option of its own"));
        }
        let concurrency = self.concurrency.unwrap_or(match self.rate {
            None => CLOSED_CONCURRENCY,
            Some(_) => OPEN_CONCURRENCY,
        });
        let time = self.max_seconds.or(match self.requests {
            None => Some(DEFAULT_TIME),
            Some(_) => None,
        });
        let schedule = Schedule {
            concurrency: concurrency as usize,
            rate: self.rate,
            requests: self.requests,
            time,
        };
        if schedule.total() == Some(0) {
            return Err("--rate and --max-seconds leave no request to send".to_owned());
        }
        Ok(Load {
            schedule,
            asked: self.question.asked().asked(),
            timeout: self.timeout,
            abort_after: self.abort_after,
        })
    }

    pub fn warmup(&self, load: &Load) -> u64 {
        let default = (load.schedule.concurrency as u64).min(MAX_DEFAULT_WARMUP);
        self.warmup.unwrap_or(default)
    }

    /// What each request asks, with the prompt's file read.
    pub fn question(&self, surroundings: &dyn Surroundings) -> Result<Question, String> {
        let mut question = self.question.asked();
        if let Some(path) = &self.question.prompt_file {
            let text = surroundings.file(path);
            question.prompt = text.map_err(|error| format!("--prompt-file {path}: {error}"))?;
        }
        Ok(question)
    }

    /// The extra headers, and the key's.
    pub fn headers(
        &self,
        surroundings: &dyn Surroundings,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = self.headers.clone();
        if let Some(key) = &self.key {
            let name = key.strip_prefix("env:").ok_or(
                "--key: expected is env:NAME; a key on the command line is seen by the whole machine",
            )?;
            let key = surroundings
                .variable(name)
                .ok_or_else(|| format!("--key: there is no variable {name}"))?;
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| format!("--key: what {name} holds is no key"))?;
            value.set_sensitive(true);
            headers.push((http::header::AUTHORIZATION, value));
        }
        Ok(headers)
    }
}

impl Asking {
    /// Without a prompt's file.
    fn asked(&self) -> Question {
        let bytes = self
            .prompt_bytes
            .and_then(|bytes| usize::try_from(bytes).ok());
        Question {
            model: self.model.clone(),
            prompt: match &self.prompt {
                Some(text) => text.clone(),
                None => template::prompt(bytes.unwrap_or(DEFAULT_PROMPT_BYTES)),
            },
            prompts: self.prompts.map_or(0, usize::from),
            max_tokens: (self.max_tokens > 0).then_some(self.max_tokens),
            n: self.n,
            stream: self.stream,
            usage: !self.no_usage,
            unique: self.unique,
            more: self.body.clone().unwrap_or_default(),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.001..=MAX_SECONDS).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("a number of seconds, 0.001 to {MAX_SECONDS}"))
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, id) = text.rsplit_once('=').unwrap_or_default();
    match id.parse() {
        Ok(id) if endpoint::is_name(name) => Ok((name.to_owned(), id)),
        _ => Err("expected is a name and a process id, as gateway=4711".to_owned()),
    }
}

fn object(text: &str) -> Result<Fields, String> {
    serde_json::from_str(text).map_err(|_| "expected is a JSON object".to_owned())
}

/// The fields of the body by which answers are judged, or that would be twice in it.
const OWN_FIELDS: &[&str] = &["prompt", "stream", "n", "model", "max_tokens"];
const COMPARED_ROUNDS: u32 = 5;
const CLOSED_CONCURRENCY: u32 = 8;
/// Connections at most: what a slow server makes wait beyond it is sent late, which its time has in it.
const OPEN_CONCURRENCY: u32 = 256;
const DEFAULT_TIME: Duration = Duration::from_secs(10);
const DEFAULT_PROMPT_BYTES: usize = 100;
const MAX_PROMPT_BYTES: u64 = 256 << 20;
const MAX_DEFAULT_WARMUP: u64 = 64;
/// Ten days.
const MAX_SECONDS: f64 = 864_000.0;
