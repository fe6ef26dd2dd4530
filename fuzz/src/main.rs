//! Runs one target, named by `FUZZ_TARGET`: under libFuzzer as `run` builds it (see README.md), else once for each file given.
//!
//! `FUZZ_SEEDS`: a folder to write the target's seeds to first.
#![cfg_attr(feature = "libfuzzer", no_main)]

use std::{fs, path::Path, sync::LazyLock};

use pingora_completions::fuzzing::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let target = TARGETS.iter().find(|target| target.name == name);
    *target.unwrap_or_else(|| panic!("FUZZ_TARGET is none of {}", names.join(" ")))
});

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(init: seed(), |bytes: &[u8]| (TARGET.run)(bytes));

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    seed();
    for file in std::env::args().skip(1) {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        (TARGET.run)(&bytes);
        println!("{file} holds");
    }
}

fn seed() {
    let Ok(folder) = std::env::var("FUZZ_SEEDS") else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for fixtures in ["tests/fixtures", "conf"] {
        walk(&root.join(fixtures), &mut |file| {
            let path = file.to_string_lossy();
            let bytes = fs::read(file).unwrap_or_default();
            for case in (TARGET.seeds)(&path, &bytes) {
                count += 1;
                let name = Path::new(&folder).join(format!("seed-{count:05}"));
                fs::write(&name, case).unwrap_or_else(|error| panic!("{name:?}: {error}"));
            }
        });
    }
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
