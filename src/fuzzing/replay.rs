//! A target on test cases that are the same in every run: its corpus, its seeds, and mutations of both.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use super::{Chance, Target, corpus};

/// Runs all of them, and says which one does not hold.
pub fn target(target: Target) {
    let cases = cases(target);
    for case in &cases {
        run(target, case);
    }
    let mut chance = Chance::new(0);
    for _ in 0..MUTATIONS {
        run(target, &chance.mutation(&cases));
    }
}

fn run(target: Target, case: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(case)));
    if let Err(panic) = outcome {
        eprintln!(
            "{} does not hold for b\"{}\"",
            target.name,
            case.escape_ascii()
        );
        resume_unwind(panic);
    }
}

fn cases(target: Target) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["tests/fixtures", "conf"] {
        collect(&root.join(folder), &mut files);
    }
    let mut cases = vec![Vec::new()];
    for file in &files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap();
        cases.extend((target.seeds)(name, &fs::read(file).unwrap()));
    }
    assert!(cases.len() > 1, "{} has no seeds", target.name);
    let corpus = root.join("fuzz/corpus").join(target.name);
    cases.extend(corpus::read(&fs::read_to_string(corpus).unwrap()));
    cases
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    for path in found {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Of each target, in a debug build: a second or two.
const MUTATIONS: usize = 4_000;
