//! Holds the house to its plan: imports point down, IO stays at the top, files and functions stay small.
//!
//! ```text
//! L9  main                                          binary
//! L8  proxy passing relaying reception context conductor gather tunnel client leg pulse pursuit opening lanes places call ticket tokens issuer downstream arrival upstream idle guard resolver door edition drain server reload admin emulator log_queue intake h2_intake refusal mishap race regard bench quoted slack      the only IO
//!     fuzzing counting: in no release
//! L7  gateway
//! L6  exchange passage
//! L5  config health
//! L4  route front tls metrics keys
//! L3  provider
//! L2  dialect measure
//! L1  head wire scan completion
//! L0  error depth pattern surrogates
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

const LAYERS: &[(&str, u8)] = &[
    ("error", 0),
    ("depth", 0),
    ("surrogates", 0),
    ("pattern", 0),
    ("scan", 1),
    ("head", 1),
    ("wire", 1),
    ("completion", 1),
    ("dialect", 2),
    ("measure", 2),
    ("provider", 3),
    ("route", 4),
    ("front", 4),
    ("tls", 4),
    ("metrics", 4),
    ("keys", 4),
    ("config", 5),
    ("health", 5),
    ("exchange", 6),
    ("passage", 6),
    ("gateway", 7),
    ("proxy", 8),
    ("passing", 8),
    ("relaying", 8),
    ("reception", 8),
    ("context", 8),
    ("quoted", 8),
    ("client", 8),
    ("conductor", 8),
    ("leg", 8),
    ("pulse", 8),
    ("pursuit", 8),
    ("race", 8),
    ("regard", 8),
    ("opening", 8),
    ("gather", 8),
    ("lanes", 8),
    ("places", 8),
    ("call", 8),
    ("ticket", 8),
    ("tokens", 8),
    ("tunnel", 8),
    ("issuer", 8),
    ("downstream", 8),
    ("arrival", 8),
    ("upstream", 8),
    ("idle", 8),
    ("guard", 8),
    ("resolver", 8),
    ("door", 8),
    ("intake", 8),
    ("h2_intake", 8),
    ("refusal", 8),
    ("edition", 8),
    ("drain", 8),
    ("mishap", 8),
    ("server", 8),
    ("reload", 8),
    ("admin", 8),
    ("emulator", 8),
    ("log_queue", 8),
    ("slack", 8),
    ("bench", 8),
    ("fuzzing", 8),
    ("counting", 8),
    ("main", 9),
    ("lib", 9),
];

/// One file of the crate, its tests left out.
struct Source {
    name: String,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let sources: Vec<Source> = files.iter().filter_map(|file| read(&root, file)).collect();
    assert!(sources.len() > 30, "the source files were not found");
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Option<Source> {
    let name = file.strip_prefix(root).unwrap();
    let module = name
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    let text = fs::read_to_string(file).unwrap();
    // A file of tests alone is declared under #[cfg(test)] by its parent.
    let tests_alone = [
        "fixtures.rs",
        "vendor_errors.rs",
        "reasons.rs",
        "replay.rs",
        "faulty.rs",
    ];
    if tests_alone.iter().any(|file| name.ends_with(file)) {
        return None;
    }
    let text = text
        .split("\n#[cfg(test)]\nmod tests")
        .next()
        .unwrap()
        .to_owned();
    Some(Source {
        name: name.to_str().unwrap().to_owned(),
        module: module.trim_end_matches(".rs").to_owned(),
        text,
    })
}

fn layer(module: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.map(|(_, layer)| *layer)
}

/// The code of a text: comments are no imports.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// The modules that a file names behind `crate::`, in paths and in grouped imports.
fn imports(text: &str) -> Vec<String> {
    let code: String = code(text).collect::<Vec<_>>().join(" ");
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            modules.extend(group_heads(group));
        } else {
            modules.push(word(rest));
        }
    }
    modules
}

/// The first words of a group's entries.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (0, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if start && depth == 0 && !letter.is_whitespace() => {
                heads.push(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

#[test]
fn every_file_has_a_room() {
    for source in sources() {
        assert!(
            layer(&source.module).is_some(),
            "{} is in no layer",
            source.name
        );
    }
}

#[test]
fn imports_point_down() {
    let mut seen = 0;
    for source in sources() {
        let own = layer(&source.module).unwrap();
        for module in imports(&source.text) {
            // What starts with a capital is re-exported by the crate's root: `Error`, from the ground floor.
            let Some(other) = layer(&module) else {
                continue;
            };
            seen += 1;
            let down = other < own || module == source.module || (own == 8 && other == 8);
            assert!(
                down,
                "{} imports crate::{module} of layer {other}",
                source.name
            );
        }
    }
    assert!(seen > 100, "imports were not found");
}

#[test]
fn decisions_do_not_know_each_other() {
    for source in sources()
        .iter()
        .filter(|source| layer(&source.module) == Some(4))
    {
        for module in imports(&source.text) {
            assert!(
                module == source.module || layer(&module) != Some(4),
                "{} imports {module}",
                source.name
            );
        }
    }
}

#[test]
fn imports_are_found_in_paths_and_groups_but_not_in_comments() {
    assert_eq!(
        imports("use crate::{a, b::{c, d}, e::F};\nx(crate::g::h)"),
        ["a", "b", "e", "g"]
    );
    assert!(imports("// use crate::a;").is_empty());
}

#[test]
fn io_stays_at_the_top() {
    for source in sources()
        .iter()
        .filter(|source| layer(&source.module) < Some(8))
    {
        for line in code(&source.text) {
            for word in [
                "pingora::",
                "pingora_",
                "tokio",
                "async ",
                ".await",
                "Instant::now",
                "SystemTime",
                "fastrand",
                "std::net",
                "std::thread",
            ] {
                assert!(!line.contains(word), "{}: {line}", source.name);
            }
        }
    }
}

// G2 of docs/faults.md: what opens a connection is in one place, which asks the guard. The operator's port looks at the
// gateway's own listeners, and `bench` goes where its command says.
#[test]
fn connections_are_opened_in_one_place() {
    let openers = [
        "HttpPeer::new",
        "new_stream",
        "TcpStream::connect",
        "TcpSocket",
        "reused_stream",
        "get_http_session",
    ];
    let mut found = Vec::new();
    for source in sources() {
        for line in code(&source.text) {
            let opens = openers.iter().filter(|opener| line.contains(**opener));
            found.extend(opens.map(|opener| (source.name.clone(), *opener)));
        }
    }
    found.sort_unstable();
    found.dedup();
    let known = [
        ("admin.rs", "TcpStream::connect"),
        ("bench/connection.rs", "TcpStream::connect"),
        ("upstream.rs", "HttpPeer::new"),
        ("upstream.rs", "new_stream"),
    ];
    let known: Vec<_> = known.map(|(file, opener)| (file.to_owned(), opener)).into();
    assert_eq!(found, known);
}

#[test]
fn only_the_binary_touches_the_process_and_its_files() {
    for source in sources().iter().filter(|source| source.module != "main") {
        for line in code(&source.text) {
            for word in ["std::env", "std::fs", "env::var", "fs::read"] {
                assert!(!line.contains(word), "{}: {line}", source.name);
            }
        }
    }
}

// Row 28 of the fault catalogue: a clock that jumps moves no timer. Signatures and answers are dated by it, nothing waits for it.
#[test]
fn the_wall_clock_is_read_in_one_place() {
    let reads = |source: &&Source| code(&source.text).any(|line| line.contains("SystemTime::now"));
    let sources = sources();
    let mut readers: Vec<&str> = sources
        .iter()
        .filter(reads)
        .map(|read| &*read.name)
        .collect();
    readers.sort_unstable();
    // A benchmark's report and the lines of the log are dated too.
    let dated = ["bench/mod.rs", "emulator/mod.rs", "main.rs", "upstream.rs"];
    assert_eq!(readers, dated);
}

#[test]
fn outside_data_meets_no_panic() {
    for source in sources() {
        for line in code(&source.text) {
            for word in [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "unreachable!(",
                "todo!(",
                "unimplemented!(",
                "unsafe ",
            ] {
                assert!(!line.contains(word), "{}: {line}", source.name);
            }
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= 400, "{} has {lines} lines", source.name);
        for (name, length) in functions(&source.text) {
            assert!(length <= 60, "{}: {name} has {length} lines", source.name);
        }
    }
}

/// Functions and their lengths, as rustfmt lays them out: one ends at the brace that stands as deep as it began.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let depth = line.len() - line.trim_start().len();
        let Some(name) = line.split("fn ").nth(1).filter(|_| is_function(line)) else {
            continue;
        };
        let close = format!("{}}}", " ".repeat(depth));
        let length = lines[at..].iter().position(|line| **line == close);
        found.extend(length.map(|length| (word(name), length + 1)));
    }
    found
}

fn is_function(line: &str) -> bool {
    let start = line.trim_start();
    [
        "fn ",
        "pub fn ",
        "async fn ",
        "pub async fn ",
        "const fn ",
        "pub(crate) fn ",
        "pub(super) fn ",
        "pub(crate) async fn ",
    ]
    .iter()
    .any(|prefix| start.starts_with(prefix))
        && !line.ends_with(';')
        && !line.ends_with("}")
}
