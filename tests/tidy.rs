//! Rules that a reader would otherwise have to check: who imports whom, how long things are, what must
//! not stand in the repository. More of them: [`types`], [`circles`], [`words`].

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/types.rs"]
mod types;
#[path = "tidy/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};

use crate::source::{complain, files, root, shown, sources};

/// The layers of `docs/architecture.md`: a member may import members of smaller layers only.
const LAYERS: &[(&str, u32)] = &[
    ("clawhub-types", 0),
    ("clawhub-wire", 0),
    ("clawhub-mutant", 0),
    ("clawhub-durable", 0),
    ("clawhub-log-queue", 0),
    ("clawhub-relay", 0),
    ("clawhub-reconcile", 1),
    ("clawhub-config", 1),
    ("clawhub-devices", 1),
    ("clawhub-policy", 1),
    ("clawhub-kv", 1),
    ("clawhub-state", 2),
    ("clawhub-blobs", 2),
    ("clawhub-peer", 2),
    ("clawhub-liveness", 3),
    ("clawhub-consensus", 3),
    ("clawhub-replicate", 3),
    ("clawhub-auth", 3),
    ("clawhub-registry", 4),
    ("clawhub-cluster", 4),
    ("clawhub-jobs", 5),
    ("clawhub-api-http", 5),
    ("clawhub-api-oci", 6),
    ("clawhub-api-peer", 6),
    ("clawhub-api-operator", 6),
    ("clawhub-node", 8),
    ("clawhub-cli", 8),
    ("clawhub", 9),
    ("clawhub-testkit", 9),
];

/// Neighbours that may import each other, one way: (who, whom).
const SIDEWAYS: &[(&str, &str)] = &[
    ("clawhub-wire", "clawhub-types"),
    ("clawhub-durable", "clawhub-mutant"),
    ("clawhub-replicate", "clawhub-liveness"),
];

/// The command line speaks to nodes over a socket and may know nothing of how they work. It reads the file that
/// a node is started with, as the node does.
const CLI_IMPORTS: &[&str] =
    &["clawhub-types", "clawhub-wire", "clawhub-durable", "clawhub-config", "clawhub-relay"];

/// Everything that may lie at the top.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".git",
    ".gitignore",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "chaos",
    "clippy.toml",
    "cluster-configs",
    "deny.toml",
    "docs",
    "proto",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

/// A good size to read. Longer files stand here with the reason.
const MAX_LINES: usize = 500;
const LONG_FILES: &[(&str, &str)] = &[];

/// A function that fits on a screen. Longer ones stand here with the reason.
const MAX_FUNCTION: usize = 70;
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// What must not stand in any file, in two halves so that this file holds none of it, and why.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("to", "do!(", "nothing unfinished lands"),
    ("unimpl", "emented!(", "nothing unfinished lands"),
    ("FIX", "ME", "an issue is the place"),
    ("XX", "X:", "an issue is the place"),
    ("/ro", "ot/", "a path of one machine"),
    ("/wo", "rk/main", "a path of one machine"),
    ("deb.deb", "ian.org", "which mirror is the machine's business"),
    ("pypi.", "org", "which index is the machine's business"),
    ("proxy.go", "lang.org", "which proxy is the machine's business"),
    ("static.cra", "tes.io", "which registry is the machine's business"),
];

/// The members that each member imports, dev-dependencies left out: tests may use anything.
fn imports() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    let workspace: toml::Table = fs::read_to_string(root().join("Cargo.toml"))?.parse()?;
    let members = workspace["workspace"]["members"].as_array().context("members")?;
    let folders = members.iter().filter_map(|member| member.as_str()).chain(["."]);
    for folder in folders {
        let path = root().join(folder).join("Cargo.toml");
        let manifest: toml::Table =
            fs::read_to_string(&path).with_context(|| path.display().to_string())?.parse()?;
        let name = manifest["package"]["name"].as_str().context("a name")?.to_owned();
        let mut imported = BTreeSet::new();
        for table in ["dependencies", "build-dependencies"] {
            let dependencies = manifest.get(table).and_then(toml::Value::as_table);
            let names = dependencies.into_iter().flat_map(toml::Table::keys);
            imported.extend(names.filter(|name| name.starts_with("clawhub")).cloned());
        }
        found.insert(name, imported);
    }
    Ok(found)
}

#[test]
fn imports_go_only_downwards() -> Result<()> {
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, imported) in imports()? {
        let Some(layer) = layers.get(name.as_str()) else {
            wrong.push(format!(
                "{name} has no layer: docs/architecture.md and this table say where it belongs"
            ));
            continue;
        };
        for other in imported {
            let below = layers.get(other.as_str()).is_some_and(|other| other < layer);
            let sideways = SIDEWAYS.contains(&(name.as_str(), other.as_str()));
            let cli = name != "clawhub-cli" || CLI_IMPORTS.contains(&other.as_str());
            if !(below || sideways) || !cli || other == "clawhub-testkit" {
                wrong.push(format!("{name} (layer {layer}) imports {other}"));
            }
        }
    }
    complain("imports against the layers", &wrong)
}

#[test]
fn no_new_folder_at_the_top() -> Result<()> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !TOP.contains(&name.as_str()) {
            wrong.push(name);
        }
    }
    complain("new at the top of the repository", &wrong)
}

#[test]
fn files_can_be_read_in_one_go() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, text) in sources()? {
        let lines = text.lines().count();
        let known = LONG_FILES.iter().any(|(long, _)| *long == path);
        match lines > MAX_LINES {
            true if !known => wrong.push(format!("{path}: {lines} lines")),
            false if known => wrong.push(format!("{path} is short now: take it off the list")),
            _ => {}
        }
    }
    complain(&format!("files over {MAX_LINES} lines"), &wrong)
}

/// The functions of a formatted source with their lengths: from the line with `fn` to the brace that
/// closes at the same depth.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some((before, after)) = line.trim_start().split_once("fn ") else { continue };
        let declares = before
            .split_whitespace()
            .all(|word| matches!(word, "pub" | "async" | "const" | "unsafe") || word.starts_with("pub("));
        if !declares {
            continue;
        }
        let name = after.split(['(', '<']).next().unwrap_or_default();
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[at..].iter().position(|line| *line == close).map_or(1, |end| end + 1);
        found.push((name.to_owned(), length));
    }
    found
}

#[test]
fn functions_fit_on_a_screen() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, text) in sources()? {
        for (name, length) in functions(&text) {
            let known = LONG_FUNCTIONS.iter().any(|(file, long, _)| *file == path && *long == name);
            if length > MAX_FUNCTION && !known {
                wrong.push(format!("{path}: {name}: {length} lines"));
            }
        }
    }
    complain(&format!("functions over {MAX_FUNCTION} lines"), &wrong)
}

#[test]
fn nothing_forbidden_stands_in_a_file() -> Result<()> {
    let mut wrong = Vec::new();
    for path in files(root())? {
        // Binary files and lock files are nobody's prose.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (front, back, why) in FORBIDDEN {
                if line.contains(&format!("{front}{back}")) {
                    wrong.push(format!("{}:{}: {front}{back}: {why}", shown(&path), number + 1));
                }
            }
        }
    }
    complain("forbidden", &wrong)
}

#[test]
fn modules_say_what_they_are() -> Result<()> {
    let silent = |text: &str| !text.starts_with("//!") && !text.starts_with("// @generated");
    let wrong: Vec<String> =
        sources()?.into_iter().filter(|(_, text)| silent(text)).map(|(path, _)| path).collect();
    complain("sources without a header", &wrong)
}

#[test]
fn the_deterministic_crates_ban_what_is_not() -> Result<()> {
    let mut wrong = Vec::new();
    for (member, banned) in [
        ("state", &["std::time::SystemTime", "std::time::Instant", "HashMap"][..]),
        ("policy", &["std::time::SystemTime", "std::time::Instant", "HashMap"][..]),
        ("consensus", &["tokio::"][..]),
    ] {
        let text = fs::read_to_string(root().join("src").join(member).join("clippy.toml"))?;
        let missing = banned.iter().filter(|banned| !text.contains(**banned));
        wrong.extend(missing.map(|banned| format!("src/{member}/clippy.toml does not ban {banned}")));
    }
    complain("bans that are gone", &wrong)
}
