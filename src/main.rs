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

use std::{
    cell::Cell,
    convert::Infallible,
    ffi::{CString, OsString},
    fs::File,
    io::{IsTerminal, Read, Write},
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    panic::PanicHookInfo,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::{Parser, Subcommand, ValueEnum};
use env_filter::Filter;
use log::{Level, Log, Metadata, Record};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::execve,
};
use pingora::prelude::Opt;
use pingora_completions::{
    ConfigError, KeyHash, LogQueue, Reader, Reread, Surroundings, bench,
    provider::listing,
    server::{Conf, Ready},
};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::zeroize::Zeroizing;

/// A proxy's life is short allocations: measured, this one takes a fifth of the CPU off a plain request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves OpenAI's POST /v1/completions for every LLM provider
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    server: Opt,

    /// Print the built-in providers and exit
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    providers: Option<Format>,

    /// Print a new key for a client, and its line of gateway.virtual_keys, and exit
    #[arg(long)]
    new_key: bool,

    /// Print the hash of the key that stands on standard input, for gateway.virtual_keys, and exit
    #[arg(long)]
    hash_key: bool,
}

#[derive(Subcommand)]
enum Command {
    Bench(Box<bench::Arguments>),
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
    let mut arguments = Arguments::parse();
    if let Some(Command::Bench(load)) = arguments.command.take() {
        return measure(&load);
    }
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
    if arguments.new_key {
        return print(&new_key()?);
    }
    if arguments.hash_key {
        return print(&hash_key()?);
    }
    if !arguments.server.test {
        restart_with_allocator_settings();
    }
    let log = init_logger()?;
    keep_memory_inside();
    std::panic::set_hook(Box::new(tell_panic));
    let process = Process::here();
    let file = arguments.server.conf.clone();
    let reread: Reread = Box::new(move || process.ready(file.as_deref()));
    let ready = reread().map_err(|error| error.to_string())?;
    if arguments.server.test {
        return print("The conf is valid.\n");
    }
    ready.run(arguments.server, reread, log)
}

/// Exits with 2 if the command was wrong, with 1 if a request failed or a report could not be written.
fn measure(load: &bench::Arguments) -> ExitCode {
    keep_memory_inside();
    let mut stderr = std::io::stderr();
    // On a terminal each line takes the last one's place.
    let (start, end) = match stderr.is_terminal() {
        true => ("\r\x1b[K", ""),
        false => ("", "\n"),
    };
    let outcome = bench::run(load, &Process::here(), &mut |line| {
        if !load.quiet {
            let _ = write!(stderr, "{start}{line}{end}");
        }
    });
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(message) => {
            eprintln!("pingora-completions bench: {message}");
            return ExitCode::from(2);
        }
    };
    if end.is_empty() && !load.quiet {
        eprint!("{start}");
    }
    let _ = print(&outcome.table);
    let mut failed = outcome.failed;
    for (path, text) in &outcome.files {
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("pingora-completions bench: {path}: {error}");
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}

fn new_key() -> Result<String, String> {
    let mut entropy = [0; 32];
    let filled = SystemRandom::new().fill(&mut entropy);
    filled.map_err(|_| "the system gives no random numbers")?;
    let key = pingora_completions::new_key(entropy);
    let hash = KeyHash::of(&key);
    Ok(format!("{key}\nmy-client: {{ key_hash: \"{hash}\" }}\n"))
}

/// Of a key that was made elsewhere. One that could be guessed is refused: its hash would tell it to whoever reads the conf.
fn hash_key() -> Result<String, String> {
    let mut key = String::new();
    let read = std::io::stdin()
        .take(MAX_KEY_BYTES)
        .read_to_string(&mut key);
    read.map_err(|error| format!("the key cannot be read: {error}"))?;
    let key = key.trim();
    if key.len() < MIN_KEY_BYTES {
        return Err(format!(
            "a key needs at least {MIN_KEY_BYTES} random characters; --new-key makes one"
        ));
    }
    Ok(format!("{}\n", KeyHash::of(key)))
}

/// Puts this process in its own place under settings that the allocator reads only before `main`, unless it has any of them.
///
/// As it comes, a page of blocks that some other thread has freed goes back into the stock of the thread that it was allocated
/// in, and stays there until that thread asks for more: after a wave of streams that was most of the wave's memory. With the
/// settings it is free for all, and the system's again after a second (see `slack`). Where a process may not do this, it has
/// the larger stock.
fn restart_with_allocator_settings() {
    let is_set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    if cfg!(target_os = "linux") && !ALLOCATOR_SETTINGS.iter().any(is_set) {
        let _ = restart();
    }
}

/// Returns if that cannot be. By the system call itself: the standard library's would reset signals first, and leave them reset.
fn restart() -> Option<Infallible> {
    let arguments: Vec<_> = std::env::args_os().collect();
    // By its own name, which is the process's to all who look for it.
    let program = std::env::current_exe().ok()?;
    let name = Path::new(arguments.first()?);
    // A loader that was told to run this file is not it.
    let is_itself = program.file_name() == name.file_name()
        || name.canonicalize().is_ok_and(|path| path == program);
    let text = |text: OsString| CString::new(text.into_vec()).ok();
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variable
    });
    let settings = ALLOCATOR_SETTINGS.map(|(name, value)| format!("{name}={value}").into());
    let variables: Option<Vec<_>> = variables.chain(settings).map(text).collect();
    let arguments: Option<Vec<_>> = arguments.into_iter().map(text).collect();
    let program = text(program.into())?;
    if is_itself {
        return execve(&program, &arguments?, &variables?).ok();
    }
    None
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

    fn secret_file(&self, path: &str) -> Result<(String, u32), String> {
        let told = |error: std::io::Error| error.to_string();
        let mut file = File::open(self.folder.join(path)).map_err(told)?;
        // Of what is open: whatever the name stands for by then.
        let mode = file.metadata().map_err(told)?.permissions().mode() & 0o777;
        let mut text = String::new();
        // More than any secret is; what is longer is refused for that.
        let read = (&mut file).take(MAX_SECRET_BYTES).read_to_string(&mut text);
        read.map_err(told)?;
        Ok((text, mode))
    }

    fn warn(&self, warning: &str) {
        log::warn!("{warning}");
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
fn init_logger() -> Result<LogQueue, String> {
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = env_filter::Builder::new().parse(&asked).build();
    let lines = LogQueue::new(std::io::stderr());
    log::set_max_level(filter.filter());
    let logger = Discreet {
        filter,
        lines: lines.clone(),
    };
    log::set_boxed_logger(Box::new(logger)).map_err(|error| error.to_string())?;
    Ok(lines)
}

/// Keeps other crates at `info`, whatever `RUST_LOG` says: below it, the proxy framework prints request heads with their
/// keys, and its libraries print bodies.
struct Discreet {
    filter: Filter,
    lines: LogQueue,
}

impl Log for Discreet {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("pingora_completions");
        (own || metadata.level() <= Level::Info) && self.filter.enabled(metadata)
    }

    /// A record is one line: the access log escapes what it quotes.
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = Vec::with_capacity(LINE_BYTES);
        line.push(b'[');
        line.extend(now());
        let (level, target) = (record.level(), record.target());
        // Into memory: it cannot fail.
        let _ = writeln!(line, " {level:<5} {target}] {}", record.args());
        self.lines.push(&line);
    }

    fn flush(&self) {
        self.lines.flush();
    }
}

/// The time of a line, to the second, as RFC 3339 has it. It is written once a second: that takes longer than all that stands
/// before a line's text.
fn now() -> [u8; 20] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00Z")) };
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let second = since.map_or(0, |since| since.as_secs());
    let (last, text) = LAST.get();
    if last == second {
        return text;
    }
    let time = i64::try_from(second).map(jiff::Timestamp::from_second);
    let time = time.ok().and_then(Result::ok).unwrap_or_default();
    let text = time.to_string().as_bytes().try_into().unwrap_or(text);
    LAST.set((second, text));
    text
}

/// Of most lines.
const LINE_BYTES: usize = 512;
/// Of mimalloc: nobody takes a page over only because one of its blocks was freed, and full pages are let go of at once.
const ALLOCATOR_SETTINGS: [(&str, &str); 2] = [
    ("MIMALLOC_PAGE_RECLAIM_ON_FREE", "-1"),
    ("MIMALLOC_PAGE_FULL_RETAIN", "0"),
];
/// What 128 random bits take in hexadecimal.
const MIN_KEY_BYTES: usize = 32;
const MAX_KEY_BYTES: u64 = 4 << 10;
const MAX_SECRET_BYTES: u64 = 1 << 20;

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
