//! A type can be known: it has few methods, and they stand beside it.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::source::{braced, complain, member, production, word};

/// Methods that others see. A type with more is several types.
const MAX_PUBLIC: usize = 25;

/// Handles at their crate's face whose verbs stand where they are carried out, each with its reason.
const SPREAD: &[(&str, &str, &str)] = &[("src/replicate", "Replicate", "one file a way of moving bytes")];

/// A type of one crate.
#[derive(Default)]
struct Methods {
    public: usize,
    /// The files that hold an `impl` of its own.
    files: Vec<String>,
}

/// What an `impl` block at the beginning of `text` is of, if it is of no trait.
fn inherent(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.char_indices().find(|(at, c)| {
            match c {
                '<' => depth += 1,
                // The arrow of a closure's bound is no bracket.
                '>' if !rest[..*at].ends_with('-') => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        rest = &rest[end.0 + 1..];
    }
    let head = rest.split('{').next()?.split(" where").next()?.trim();
    let of_trait = head.contains(" for ");
    (!of_trait).then(|| word(head.rsplit("::").next().unwrap_or(head)))
}

/// By crate and name.
fn methods(sources: &BTreeMap<String, String>) -> BTreeMap<(String, String), Methods> {
    let mut found: BTreeMap<(String, String), Methods> = BTreeMap::new();
    for (path, text) in sources {
        for (at, _) in text.match_indices("\nimpl") {
            let block = &text[at + 1..];
            let Some(name) = inherent(block) else { continue };
            let body = braced(block);
            let declares = |line: &&str| {
                let line = line.strip_prefix("    pub").unwrap_or_default();
                let before = line.split("fn ").next().filter(|before| before.len() < line.len());
                before.is_some_and(|before| {
                    before.split_whitespace().all(|word| {
                        matches!(word, "async" | "const" | "unsafe")
                            || word.starts_with('(')
                            || word.ends_with(')')
                    })
                })
            };
            let entry = found.entry((member(path), name.to_owned())).or_default();
            entry.public += body.lines().filter(declares).count();
            if !entry.files.contains(path) {
                entry.files.push(path.clone());
            }
        }
    }
    found
}

/// The files of a crate that define a type of this name.
fn homes(sources: &BTreeMap<String, String>, krate: &str, name: &str) -> Vec<String> {
    let defines = |text: &str| {
        ["struct ", "enum ", "union ", "trait "]
            .iter()
            .any(|kind| text.match_indices(kind).any(|(at, _)| word(&text[at + kind.len()..]) == name))
    };
    let own = sources.iter().filter(|(path, text)| member(path) == krate && defines(text));
    own.map(|(path, _)| path.clone()).collect()
}

/// Where a type's methods may stand: in its file's folder and below, in its file alone if that is the crate's face,
/// below which everything lies.
fn beside(home: &str, file: &str) -> bool {
    let folder = home.rsplit_once('/').map_or("", |(folder, _)| folder);
    let face = home.ends_with("/lib.rs");
    home == file || !face && file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn no_type_does_everything() -> Result<()> {
    let sources = production()?;
    let mut wrong = Vec::new();
    for ((krate, name), methods) in methods(&sources) {
        if methods.public > MAX_PUBLIC {
            wrong.push(format!("{krate}: {name}: {} public methods", methods.public));
        }
    }
    complain(&format!("types with more than {MAX_PUBLIC} public methods"), &wrong)
}

#[test]
fn a_type_and_its_methods_stand_together() -> Result<()> {
    let sources = production()?;
    let mut wrong = Vec::new();
    for ((krate, name), methods) in methods(&sources) {
        let homes = homes(&sources, &krate, &name);
        let spread = SPREAD.iter().any(|(at, of, _)| *at == krate && *of == name);
        for file in methods.files {
            if !spread && !homes.is_empty() && !homes.iter().any(|home| beside(home, &file)) {
                wrong.push(format!("{file}: impl {name}, which is defined in {}", homes.join(", ")));
            }
        }
    }
    complain("methods far from their type", &wrong)
}

#[test]
fn blocks_are_told_apart() {
    assert_eq!(inherent("impl Registry {"), Some("Registry"));
    assert_eq!(inherent("impl<R: AsyncRuntime> Consensus<R> {"), Some("Consensus"));
    assert_eq!(inherent("impl<F: Fn() -> u8> Of<F> where F: Send {"), Some("Of"));
    assert_eq!(inherent("impl View<'_> {"), Some("View"));
    assert_eq!(inherent("impl Drop for Step<'_> {"), None);
}
