//! The direct dependencies are those of `docs/deps.md`, as it says they are; and nothing is built but what `Cargo.lock` holds.
//!
//! Licences, sources and bans of the whole tree are `deny.toml`'s.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// The packages by name. One that is there twice in the tree is in none of the direct dependencies twice.
fn packages(metadata: &Value) -> BTreeMap<&str, &Value> {
    let direct = list(&metadata["resolve"], "nodes")
        .iter()
        .find(|node| text(node, "id") == own(metadata)["id"].as_str().unwrap())
        .map(|node| list(node, "deps"))
        .unwrap();
    let is_direct = |package: &&Value| direct.iter().any(|dep| dep["pkg"] == package["id"]);
    list(metadata, "packages")
        .iter()
        .filter(is_direct)
        .map(|package| (text(package, "name"), package))
        .collect()
}

fn own(metadata: &Value) -> &Value {
    list(metadata, "packages")
        .iter()
        .find(|package| text(package, "name") == env!("CARGO_PKG_NAME"))
        .unwrap()
}

/// The rows of the tables of `docs/deps.md`: crate, and its other cells.
fn rows() -> BTreeMap<String, Vec<String>> {
    let page = fs::read_to_string(root().join("docs/deps.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.filter(|line| line.matches(" | ").count() == 4);
    rows.map(|line| {
        let cells: Vec<String> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect();
        (cells[0].trim_matches('`').to_owned(), cells[1..].to_vec())
    })
    .collect()
}

#[test]
fn every_direct_dependency_is_described_as_it_is() {
    let metadata = metadata();
    let packages = packages(&metadata);
    let rows = rows();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let facts = [
            keeper(package),
            text(package, "license").to_owned(),
            dangers(package),
        ];
        let told = rows.get(*name).cloned().unwrap_or_default();
        let why = told.first().map_or("", String::as_str);
        if why.len() < 10 || told.get(1..) != Some(&facts) {
            let why = if why.is_empty() { "WHY" } else { why };
            wrong.push(format!("| `{name}` | {why} | {} |", facts.join(" | ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/deps.md should have these rows:\n{}",
        wrong.join("\n")
    );
    for name in rows.keys() {
        assert!(packages.contains_key(&**name), "{name} is no dependency");
    }
}

/// Who keeps it: the owner and the name of its repository.
fn keeper(package: &Value) -> String {
    let url = text(package, "repository")
        .trim_end_matches('/')
        .trim_end_matches(".git");
    let path = url.split('/').skip(3).take(2).collect::<Vec<_>>().join("/");
    assert!(!path.is_empty(), "{url}");
    format!("[{path}]({url})")
}

/// What of it runs when it is built, and how much of it the compiler does not check.
fn dangers(package: &Value) -> String {
    let manifest = PathBuf::from(text(package, "manifest_path"));
    let is_script = |target: &Value| list(target, "kind").contains(&"custom-build".into());
    let script = list(package, "targets").iter().any(is_script);
    let mut unsafes = 0;
    count(&manifest.parent().unwrap().join("src"), &mut unsafes);
    let unsafes = match unsafes {
        0 => "no `unsafe`",
        1..20 => "some `unsafe`",
        _ => "`unsafe` at its core",
    };
    match script {
        true => format!("{unsafes}, build script"),
        false => unsafes.to_owned(),
    }
}

/// Counts the uses of the word in code: not in comments, not as a lint's name.
fn count(folder: &Path, unsafes: &mut usize) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count(&path, unsafes);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default());
            *unsafes += code
                .map(|line| line.matches("unsafe ").count())
                .sum::<usize>();
        }
    }
}

#[test]
fn no_dependency_brings_features_unasked() {
    let metadata = metadata();
    for dependency in list(own(&metadata), "dependencies") {
        let name = text(dependency, "name");
        assert_eq!(dependency["uses_default_features"], false, "{name}");
        assert_ne!(text(dependency, "req"), "*", "{name}");
    }
}

/// A command without `--locked` may build what nobody has looked at.
#[test]
fn every_documented_build_is_locked() {
    let mut files = vec![root().join("README.md"), root().join("tests/run")];
    for folder in [".ci", "docs", "fuzz", "tests/clients"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file()),
        );
    }
    let mut seen = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for (at, _) in text.match_indices("cargo ") {
            let command = text[at..].lines().next().unwrap_or_default();
            let command = command.split(['`', '&', '#']).next().unwrap_or_default();
            let builds = ["bench", "build", "clippy", "doc", "install", "run", "test"];
            let verb = command.split_whitespace().nth(1).unwrap_or_default();
            if builds.contains(&verb) {
                seen += 1;
                assert!(
                    command.contains("--locked"),
                    "{}: {command}",
                    file.display()
                );
            }
        }
    }
    assert!(seen > 5, "no command was found");
}
