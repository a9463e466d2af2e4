//! Rust sources as the rules look at them: comments and literals blanked, tests left out, items found by their
//! braces. Sources are formatted, so that what stands at the beginning of a line can be relied on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` that somebody wrote.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            // `.git` is a file in a linked worktree.
            if matches!(name.to_str(), Some("target" | ".git" | "data" | "__pycache__")) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path as it is shown: from the repository on.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The Rust sources, each with its text.
pub(crate) fn sources() -> Result<Vec<(String, String)>> {
    let rust = files(root())?.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs"));
    rust.map(|path| Ok((shown(&path), fs::read_to_string(&path)?))).collect()
}

/// The sources of what ships: no tests, nothing of the test kit, comments and literals blanked.
pub(crate) fn production() -> Result<BTreeMap<String, String>> {
    let ships = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        path.starts_with("src/")
            && !path.starts_with("src/testkit/")
            && !path.contains("/tests/")
            && !name.ends_with("_test.rs")
            && !matches!(name, "testing.rs" | "suite.rs" | "build.rs")
    };
    let sources = sources()?.into_iter().filter(|(path, _)| ships(path));
    Ok(sources.map(|(path, text)| (path, without_tests(&blank(&text)))).collect())
}

pub(crate) fn complain(what: &str, wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
    Ok(())
}

/// The text with comments and the insides of literals replaced by spaces; every line stays where it is.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (taken, kept) = literal(rest).unwrap_or((next.len_utf8(), true));
        let (piece, after) = rest.split_at(taken);
        if kept {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// How long the comment or literal is that `text` begins with, and that it is not to be kept.
fn literal(text: &str) -> Option<(usize, bool)> {
    let to = |end: Option<usize>| Some((end.unwrap_or(text.len()), false));
    if text.starts_with("//") {
        return to(text.find('\n'));
    }
    if text.starts_with("/*") {
        return to(text.find("*/").map(|at| at + 2));
    }
    if let Some(raw) = text.strip_prefix('r')
        && raw.trim_start_matches('#').starts_with('"')
    {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let open = 1 + hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        return to(text[open..].find(&close).map(|at| open + at + close.len()));
    }
    if let Some(inside) = text.strip_prefix('"') {
        return to(unescaped(inside, '"').map(|at| at + 2));
    }
    // A character, not a lifetime.
    let mut chars = text.chars();
    if chars.next() == Some('\'') {
        let escaped = text[1..].starts_with('\\');
        let closes = chars.nth(1) == Some('\'');
        return (escaped || closes).then(|| to(unescaped(&text[1..], '\'').map(|at| at + 2))).flatten();
    }
    None
}

/// Where `end` stands first without a backslash before it.
fn unescaped(text: &str, end: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return Some(at),
            _ => {}
        }
    }
    None
}

/// A blanked text without what is compiled for tests only.
fn without_tests(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        // Every line that stays keeps its number.
        out.push('\n');
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        for line in lines.by_ref() {
            out.push('\n');
            let ends = line.ends_with(';') || line.ends_with(',') || line.starts_with(&close);
            if ends && (line.len() - line.trim_start().len()) <= indent {
                break;
            }
        }
    }
    out
}

/// What stands between the brace that `text` goes up to first and the one that closes it.
pub(crate) fn braced(text: &str) -> &str {
    let Some(open) = text.find('{') else { return "" };
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return &text[open + 1..open + at];
        }
    }
    &text[open + 1..]
}

/// The name at the beginning of `text`.
pub(crate) fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// The crate that a source belongs to: its folder.
pub(crate) fn member(path: &str) -> String {
    let folders: Vec<&str> = path.split('/').collect();
    let nested = matches!(folders.get(1), Some(&"api" | &"packages"));
    folders[..folders.len().min(if nested { 3 } else { 2 })].join("/")
}

#[test]
fn comments_and_literals_are_blanked() {
    let text = "let a = \"{ // \\\" }\"; // }\nlet b = r#\"}\"# + '}' + '\\'' ; fn f<'a>() {}\n/* { */ x";
    let blanked = blank(text);
    assert_eq!(blanked.len(), text.len());
    assert_eq!(blanked.matches('{').count(), 1);
    assert_eq!(blanked.matches('}').count(), 1);
    assert!(blanked.contains("fn f<'a>()") && blanked.ends_with(" x"));
    assert_eq!(braced("impl X { a { b } c } d").trim(), "a { b } c");
    let tests =
        "use a;\n#[cfg(test)]\nmod x;\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
    assert_eq!(without_tests(tests), "use a;\n\n\nfn a() {}\n\n\n\n\nfn c() {}\n");
}
