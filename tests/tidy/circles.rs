//! Files of a crate that need each other cannot be read one by one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::source::{complain, member, production, word};

/// Circles that stay, each with its reason: (crate, files).
const KNOWN: &[(&str, &[&str], &str)] = &[(
    "src/peer",
    &["endpoint.rs", "quic.rs", "tcp.rs", "tls.rs"],
    "the two listeners are the endpoint's halves",
)];

/// The modules of one crate: what a path that begins at the crate's root leads to.
struct Modules<'s> {
    /// The crate's folder.
    krate: String,
    sources: &'s BTreeMap<String, String>,
}

impl Modules<'_> {
    /// The file of a module, `["a", "b"]` for `crate::a::b`.
    fn file(&self, module: &[&str]) -> Option<String> {
        let path = [&[self.krate.as_str()], module].concat().join("/");
        let file = if module.is_empty() { format!("{path}/lib.rs") } else { format!("{path}.rs") };
        [file, format!("{path}/mod.rs")].into_iter().find(|file| self.sources.contains_key(file))
    }

    /// The module that a file is.
    fn module<'f>(&self, file: &'f str) -> Vec<&'f str> {
        let inner = file[self.krate.len() + 1..].trim_end_matches(".rs");
        let inner = inner.strip_suffix("/mod").unwrap_or(inner);
        if matches!(inner, "lib" | "mod" | "main") { Vec::new() } else { inner.split('/').collect() }
    }

    /// The file that defines what a path names. A module that only passes a name on is passed through.
    fn definition(&self, path: &[&str]) -> Option<String> {
        let mut module = Vec::new();
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            let deeper = [module.as_slice(), &[*first]].concat();
            if self.file(&deeper).is_none() {
                break;
            }
            module = deeper;
            rest = after;
        }
        let file = self.file(&module)?;
        let Some(name) = rest.first() else { return Some(file) };
        if defines(&self.sources[&file], name) {
            return Some(file);
        }
        let passed =
            uses(&self.sources[&file]).into_iter().find(|used| used.last().is_some_and(|last| last == name));
        match passed {
            Some(used) if used.len() > 1 => {
                let used: Vec<&str> = used.iter().map(String::as_str).collect();
                self.definition(&self.absolute(&module, &used)?)
            }
            _ => Some(file),
        }
    }

    /// A path as it is written in a module, from the crate's root on; none for another crate's.
    fn absolute<'p>(&self, module: &[&'p str], path: &[&'p str]) -> Option<Vec<&'p str>> {
        match *path.first()? {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => {
                let up = module.split_last().map_or(&[][..], |(_, up)| up);
                match path.get(1) {
                    Some(&"super") => self.absolute(up, &path[1..]),
                    _ => Some([up, &path[1..]].concat()),
                }
            }
            first => {
                let child = [module, &[first]].concat();
                self.file(&child).is_some().then(|| [module, path].concat())
            }
        }
    }
}

/// Whether an item of this name is defined at the top of a file.
fn defines(text: &str, name: &str) -> bool {
    let kinds = ["struct ", "enum ", "trait ", "fn ", "const ", "static ", "type ", "macro_rules! "];
    text.lines().filter(|line| !line.starts_with([' ', '}'])).any(|line| {
        kinds.iter().any(|kind| line.split_once(kind).is_some_and(|(_, after)| word(after) == name))
    })
}

/// Every path that the `use` lines of a file bring in.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let Some((_, tree)) = statement.rsplit_once("use ") else { continue };
        if tree.contains(['(', '=', '.']) {
            continue;
        }
        spread(&[], tree, &mut found);
    }
    found
}

/// Spreads `a::{b, c::{d, e}}` into its paths.
fn spread(before: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, group.strip_suffix('}')),
        None => (tree, None),
    };
    let head = head.split(" as ").next().unwrap_or_default();
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let path: Vec<String> = before.iter().cloned().chain(parts).collect();
    let Some(group) = group else {
        return found.push(path);
    };
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[start..at].trim().is_empty() {
                    spread(&path, &group[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths that a file names in full, `crate::a::b(…)`.
fn named(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let path: String =
            text[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        found.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
    }
    found
}

/// Which file of the crate needs which.
fn edges(modules: &Modules<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let own = modules.sources.keys().filter(|path| member(path) == modules.krate);
    let mut edges = BTreeMap::new();
    for file in own {
        let text = &modules.sources[file];
        let module = modules.module(file);
        let mut needed = BTreeSet::new();
        for path in uses(text).into_iter().chain(named(text)) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let Some(path) = modules.absolute(&module, &path) else { continue };
            needed.extend(modules.definition(&path).filter(|other| other != file));
        }
        // What a folder's face shows of its own files is no need of it.
        let face = file.ends_with("/mod.rs") || file.ends_with("/lib.rs");
        let inner = file.trim_end_matches("mod.rs").trim_end_matches("lib.rs");
        needed.retain(|other| !(face && other.starts_with(inner)));
        edges.insert(file.clone(), needed);
    }
    edges
}

/// Every file that can be reached from `start` by needing.
fn reached(edges: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![start.to_owned()];
    while let Some(file) = next.pop() {
        for other in edges.get(&file).into_iter().flatten() {
            if seen.insert(other.clone()) {
                next.push(other.clone());
            }
        }
    }
    seen
}

/// The groups of files of which each needs, in the end, each other one.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        edges.keys().map(|file| (file, reached(edges, file))).collect();
    let in_one = |file: &String| -> BTreeSet<String> {
        reach[file]
            .iter()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(file)))
            .cloned()
            .collect()
    };
    edges.keys().map(in_one).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn files_do_not_need_each_other_in_circles() -> Result<()> {
    let sources = production()?;
    let members: BTreeSet<String> =
        sources.keys().map(|path| member(path)).filter(|m| !m.ends_with(".rs")).collect();
    let mut wrong = Vec::new();
    for krate in members {
        let modules = Modules { krate: krate.clone(), sources: &sources };
        for circle in circles(&edges(&modules)) {
            let names: Vec<&str> = circle.iter().map(|file| &file[krate.len() + 1..]).collect();
            let known =
                KNOWN.iter().any(|(at, files, _)| *at == krate && names.iter().all(|n| files.contains(n)));
            if !known {
                wrong.push(format!("{krate}: {}", names.join(" ⇄ ")));
            }
        }
    }
    complain("circles", &wrong)
}

#[test]
fn trees_of_uses_are_spread() {
    let found = uses("use a::b;\npub(crate) use crate::{c::{d, e as f}, g};\nfn x() {}");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "crate::c::d", "crate::c::e", "crate::g"]);
}
