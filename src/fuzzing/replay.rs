//! A target on test cases that are the same in every run: its corpus, its seeds, and mutations of both.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use super::Target;

/// Runs all of them, and says which one does not hold.
pub fn target(target: Target) {
    let cases = cases(target);
    for case in &cases {
        run(target, case);
    }
    let mut chance = Chance(0x2545_f491);
    for _ in 0..MUTATIONS {
        let mut case = chance.pick(&cases).clone();
        for _ in 0..=chance.below(4) {
            chance.mutate(&mut case, &cases);
        }
        run(target, &case);
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
    let mut corpus = Vec::new();
    collect(&root.join("fuzz/corpus").join(target.name), &mut corpus);
    cases.extend(corpus.iter().map(|file| fs::read(file).unwrap()));
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

/// Numbers that are the same in every run.
struct Chance(u32);

impl Chance {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Below `end`, which is no more than a case is long; 0 where that is 0.
    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }

    fn pick<'t, T>(&mut self, list: &'t [T]) -> &'t T {
        &list[self.below(list.len())]
    }

    fn mutate(&mut self, case: &mut Vec<u8>, cases: &[Vec<u8>]) {
        let at = self.below(case.len() + 1);
        let end = (at + 1 + self.below(16)).min(case.len());
        match self.below(7) {
            0 => case.truncate(at),
            1 if at < end => case[at] = self.next() as u8,
            2 if at < end => case[at] ^= 1 << self.below(8),
            3 if at < end => drop(case.drain(at..end)),
            4 if at < end => {
                let again = case[at..end].to_vec();
                case.splice(at..at, again);
            }
            5 => {
                let other = self.pick(cases);
                let from = self.below(other.len() + 1);
                case.truncate(at);
                case.extend(&other[from..]);
            }
            _ => {
                let token = self.pick(TOKENS);
                case.splice(at..at, token.iter().copied());
            }
        }
        case.truncate(MAX_CASE_BYTES);
    }
}

/// What a random byte does not find.
const TOKENS: &[&[u8]] = &[
    b"\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\x1e",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"{}",
    b"[[]]",
    b"\"\"",
    b"data: ",
    b"event: error\n",
    b"data: [DONE]\n\n",
    b"\"finish_reason\":\"stop\"",
    b"\"error\":{\"message\":\"sk-client-0123456789\"}",
    b"..",
    b"/",
    b"@",
    b"#",
    b"%2e",
    b"\\",
];
/// Of each target, in a debug build: a second or two.
const MUTATIONS: usize = 1_500;
const MAX_CASE_BYTES: usize = 16 << 10;
