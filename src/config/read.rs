//! Reads a TOML file section by section and collects every mistake in it instead of stopping at the
//! first: an operator fixes a file once, not once per mistake.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::value::Parsed;

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// The key with its section, such as `http.listen`; empty if the line is no TOML.
    pub key: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "line {}: {}", self.line, self.message)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.key, self.message)
        }
    }
}

/// A parsed file and the mistakes found in it so far.
pub(crate) struct Document<'s> {
    source: &'s str,
    table: DeTable<'s>,
    /// Lines that are no TOML. What is missing or odd because of them is not reported as well.
    broken: BTreeSet<usize>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'s> Document<'s> {
    /// Parses what can be parsed and notes what cannot.
    pub(crate) fn parse(source: &'s str) -> Document<'s> {
        let (table, errors) = DeTable::parse_recoverable(source);
        let mut document = Document {
            source,
            table: table.into_inner(),
            broken: BTreeSet::new(),
            mistakes: RefCell::default(),
        };
        for error in errors {
            let line = document.line(error.span().map_or(0, |span| span.start));
            // One broken line often upsets the parser more than once; the first complaint is the cause.
            if document.broken.insert(line) {
                document.note(line, String::new(), error.message().replace('\n', ", "));
            }
        }
        document
    }

    /// The section called `name`, empty if the file has none.
    pub(crate) fn section(&self, name: &'static str) -> Section<'_, 's> {
        let mut section = Section { document: self, name, line: 1, table: None, asked: BTreeSet::new() };
        if let Some((key, value)) = self.table.get_key_value(name) {
            section.line = self.line(key.span().start);
            match value.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                _ => self.note(section.line, name.into(), format!("is a section: write [{name}]")),
            }
        }
        section
    }

    /// Ends the reading: reports sections nobody knows, and hands over every mistake in file order.
    pub(crate) fn finish(self, known: &[&str]) -> Vec<Mistake> {
        for key in self.table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                self.note(self.line(key.span().start), key.get_ref().to_string(), unknown(known));
            }
        }
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes
    }

    fn note(&self, line: usize, key: String, message: String) {
        self.mistakes.borrow_mut().push(Mistake { line, key, message });
    }

    /// The line, from 1, that holds byte `offset`.
    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.source.len());
        1 + self.source.as_bytes()[..end].iter().filter(|b| **b == b'\n').count()
    }

    /// Whether a broken line seems to set `key`.
    fn broken_sets(&self, key: &str) -> bool {
        self.source
            .lines()
            .enumerate()
            .filter(|(at, _)| self.broken.contains(&(at + 1)))
            .any(|(_, line)| line.trim_start().starts_with(key))
    }
}

/// One section of a document, read key by key. A value that is absent or wrong reads as `None` and has
/// been noted; a section gives its settings only if none of its keys did.
pub(crate) struct Section<'d, 's> {
    document: &'d Document<'s>,
    name: &'static str,
    line: usize,
    table: Option<&'d DeTable<'s>>,
    asked: BTreeSet<&'static str>,
}

impl<'d, 's> Section<'d, 's> {
    /// The value of a key that must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'s>) -> Parsed<T>,
    ) -> Option<T> {
        match self.optional(key, parse)? {
            Some(value) => Some(value),
            None => {
                if !self.document.broken_sets(key) {
                    self.mistake(key, "is missing");
                }
                None
            }
        }
    }

    /// The value of a key, or `default` where the file says nothing.
    pub(crate) fn defaulted<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&DeValue<'s>) -> Parsed<T>,
    ) -> Option<T> {
        self.optional(key, parse).map(|value| value.unwrap_or(default))
    }

    /// The value of a key that may be absent: `Some(None)`.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'s>) -> Parsed<T>,
    ) -> Option<Option<T>> {
        self.asked.insert(key);
        let Some((at, value)) = self.find(key) else { return Some(None) };
        match parse(value.get_ref()) {
            Ok(value) => Some(Some(value)),
            Err(_) if self.document.broken.contains(&self.document.line(at.span().start)) => None,
            Err(message) => {
                self.mistake(key, message);
                None
            }
        }
    }

    /// Notes a mistake about `key`, on its line or, where it is absent, on the section's.
    pub(crate) fn mistake(&self, key: &str, message: impl Into<String>) {
        let line = self.find(key).map_or(self.line, |(at, _)| self.document.line(at.span().start));
        self.document.note(line, format!("{}.{key}", self.name), message.into());
    }

    /// Ends the section: every key that nobody asked for is a mistake.
    pub(crate) fn finish(self) {
        let known: Vec<_> = self.asked.iter().copied().collect();
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let line = self.document.line(key.span().start);
            let name = key.get_ref().as_ref();
            if !self.asked.contains(name) && !self.document.broken.contains(&line) {
                self.document.note(line, format!("{}.{name}", self.name), unknown(&known));
            }
        }
    }

    fn find(&self, key: &str) -> Option<(&'d Spanned<DeString<'s>>, &'d Spanned<DeValue<'s>>)> {
        self.table.and_then(|table| table.get_key_value(key))
    }
}

fn unknown(known: &[&str]) -> String {
    format!("is unknown; known here: {}", known.join(", "))
}
