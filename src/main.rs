//! The binary: arguments, logger, conf file, server.
#![forbid(unsafe_code)]
// A panic ends a client's request, and an operator's process where it is the wrong thread: tests may, nothing else.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

use std::{io::Write, panic::PanicHookInfo, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use log::{Level, Log, Metadata, Record};
use nix::sys::resource::{Resource, setrlimit};
use pingora::prelude::Opt;
use pingora_completions::{
    ConfigError, Reader, Reread, Surroundings,
    provider::listing,
    server::{Conf, Ready},
};
use secrecy::zeroize::Zeroizing;

/// A proxy's life is short allocations: measured, this one takes a fifth of the CPU off a plain request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves OpenAI's POST /v1/completions for every LLM provider
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    server: Opt,

    /// Print the built-in providers and exit
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    providers: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One line each
    Table,
    /// For machines
    Json,
    /// Providers and parameters, as in the README
    Markdown,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pingora-completions: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    if let Some(format) = arguments.providers {
        return print(&match format {
            Format::Table => listing::lines(),
            Format::Json => listing::json(),
            Format::Markdown => listing::markdown(),
        });
    }
    init_logger()?;
    keep_memory_inside();
    std::panic::set_hook(Box::new(tell_panic));
    let process = Process::here();
    let file = arguments.server.conf.clone();
    let reread: Reread = Box::new(move || process.ready(file.as_deref()));
    let ready = reread().map_err(|error| error.to_string())?;
    if arguments.server.test {
        return print("The conf is valid.\n");
    }
    ready.run(arguments.server, reread)
}

/// No core dump holds the keys in this process, and no other process of its user looks into it.
fn keep_memory_inside() {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    #[cfg(target_os = "linux")]
    let limited = limited.and(nix::sys::prctl::set_dumpable(false));
    if let Err(error) = limited {
        log::warn!("a core dump of this process would hold its keys: {error}");
    }
}

/// A reader that has gone, such as `head`, is no failure.
fn print(text: &str) -> Result<(), String> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// This process, as a conf and its secrets see it.
struct Process {
    /// Where it was started. A daemon leaves that folder, and reads its conf again all the same.
    folder: PathBuf,
}

impl Process {
    fn here() -> Self {
        Self {
            folder: std::env::current_dir().unwrap_or_default(),
        }
    }

    fn ready(&self, file: Option<&str>) -> Result<Ready, ConfigError> {
        let Some(file) = file else {
            return Ready::read(None, self);
        };
        // It can hold keys, and is read anew for each reload.
        let text = self
            .file(file)
            .map(Zeroizing::new)
            .map_err(|message| ConfigError {
                file: file.to_owned(),
                line: 0,
                path: String::new(),
                message,
            })?;
        Ready::read(Some(Conf { file, text: &text }), self)
    }
}

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(self.folder.join(path)).map_err(|error| error.to_string())
    }

    fn reader(&self, path: &str) -> Option<Reader> {
        let path = self.folder.join(path);
        Some(Box::new(move || std::fs::read_to_string(&path).ok()))
    }
}

/// Says where a panic was, and not of what: its text can hold a piece of a request.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    match panic.location() {
        Some(place) => log::error!("panic at {}:{}", place.file(), place.line()),
        None => log::error!("panic"),
    }
}

/// Logs what `RUST_LOG` asks for, at `info` unless told otherwise.
fn init_logger() -> Result<(), String> {
    let asked = env_logger::Env::default().default_filter_or("info");
    // A record is one line: the access log escapes what it quotes.
    let logger = env_logger::Builder::from_env(asked)
        .format_indent(None)
        .build();
    let level = logger.filter();
    log::set_boxed_logger(Box::new(Discreet(logger))).map_err(|error| error.to_string())?;
    log::set_max_level(level);
    Ok(())
}

/// Keeps other crates at `info`, whatever `RUST_LOG` says: below it, the proxy framework prints request heads with their
/// keys, and its libraries print bodies.
struct Discreet(env_logger::Logger);

impl Log for Discreet {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("pingora_completions");
        (own || metadata.level() <= Level::Info) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn no_neighbour_looks_into_the_process() {
        assert!(nix::sys::prctl::get_dumpable().unwrap());
        keep_memory_inside();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }
}
