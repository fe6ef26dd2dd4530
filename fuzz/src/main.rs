//! Runs one target, named by `FUZZ_TARGET`: under libFuzzer as `run` builds it (see README.md), else once for each file given.
//!
//! Beforehand, under either:
//! * `FUZZ_SEEDS=FOLDER` writes the target's seeds and its committed corpus there, a file each;
//! * `FUZZ_BLIND=SECONDS` only mutates the files of the folders `FUZZ_CASES` (apart by `:`) by chance, for so long: it looks at no
//!   coverage, and is several times as fast;
//! * `FUZZ_LINES=FOLDER` only prints its files as lines of a corpus.
#![cfg_attr(feature = "libfuzzer", no_main)]

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pingora_completions::fuzzing::{Chance, TARGETS, Target, corpus};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let target = TARGETS.iter().find(|target| target.name == name);
    *target.unwrap_or_else(|| panic!("FUZZ_TARGET is none of {}", names.join(" ")))
});

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(init: start(), |bytes: &[u8]| (TARGET.run)(bytes));

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    start();
    for file in std::env::args().skip(1) {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        println!("{}", corpus::write(&bytes));
        (TARGET.run)(&bytes);
    }
}

fn start() {
    seed();
    if let Ok(seconds) = std::env::var("FUZZ_BLIND") {
        blind(Duration::from_secs(seconds.parse().unwrap_or_default()));
    }
    if let Ok(folder) = std::env::var("FUZZ_LINES") {
        let mut lines = Vec::new();
        walk(Path::new(&folder), &mut |file| {
            lines.extend(fs::read(file).map(|case| corpus::write(&case)));
        });
        lines.sort();
        println!("{}", lines.join("\n"));
        std::process::exit(0);
    }
}

fn blind(time: Duration) {
    let folders = std::env::var("FUZZ_CASES").unwrap_or_default();
    let mut cases = Vec::new();
    for folder in folders.split(':') {
        walk(Path::new(folder), &mut |file| cases.extend(fs::read(file)));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut chance = Chance::new(now.as_nanos() as u64);
    // libFuzzer's hook would end the process before the case is written.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let (start, mut count) = (Instant::now(), 0_u64);
    let last = std::env::temp_dir().join(format!("fuzz-last-{}", std::process::id()));
    while start.elapsed() < time {
        for _ in 0..256 {
            let case = chance.mutation(&cases);
            let held = std::panic::catch_unwind(|| (TARGET.run)(&case));
            if held.is_err() {
                fs::write(&last, &case).unwrap_or_default();
                eprintln!("does not hold for {}", last.display());
                std::process::exit(77);
            }
            count += 1;
        }
    }
    println!("stat::number_of_executed_units: {count}");
    std::process::exit(0);
}

fn seed() {
    let Ok(folder) = std::env::var("FUZZ_SEEDS") else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let lines = fs::read_to_string(root.join("fuzz/corpus").join(TARGET.name));
    let write = |kind: &str, cases: &[Vec<u8>]| {
        for (count, case) in cases.iter().enumerate() {
            let name = Path::new(&folder).join(format!("{kind}-{count:05}"));
            fs::write(&name, case).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        }
    };
    write("corpus", &corpus::read(&lines.unwrap_or_default()));
    let mut seeds = Vec::new();
    for fixtures in ["tests/fixtures", "conf"] {
        walk(&root.join(fixtures), &mut |file| {
            let bytes = fs::read(file).unwrap_or_default();
            seeds.extend((TARGET.seeds)(&file.to_string_lossy(), &bytes));
        });
    }
    write("seed", &seeds);
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}
