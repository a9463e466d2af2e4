//! Repository names, tags and references (distribution-spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// Longest repository name in bytes. Clients bound host plus name by 255.
const MAX_NAME: usize = 255;
/// Longest tag in bytes (distribution-spec).
const MAX_TAG: usize = 128;

/// Why a name, tag or reference was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than 255 bytes.
    #[error("repository name is longer than 255 bytes")]
    TooLong,
    /// Outside the grammar `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`.
    #[error("invalid repository name")]
    Repository,
    /// Outside the grammar `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    #[error("invalid tag")]
    Tag,
    /// A reference with a colon that is no supported digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A repository name: path components joined by `/`. The first component of a name of several is its
/// project; a name of one component lives in project `library`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RepoName(String);

/// The project that holds repositories of one component.
const DEFAULT_PROJECT: &str = "library";

impl RepoName {
    /// The whole name, as in URLs.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The project this repository belongs to.
    pub fn project(&self) -> ProjectName {
        let project = self.0.split_once('/').map_or(DEFAULT_PROJECT, |(first, _)| first);
        ProjectName(project.to_owned())
    }
}

impl FromStr for RepoName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if s.split('/').all(is_component) { Ok(RepoName(s.to_owned())) } else { Err(NameError::Repository) }
    }
}

/// The first component of a repository name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectName(String);

impl ProjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if is_component(s) { Ok(ProjectName(s.to_owned())) } else { Err(NameError::Repository) }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(s: &str) -> bool {
    let bytes = s.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    bytes
        .split(alnum)
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// A tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = s.bytes();
        let valid = s.len() <= MAX_TAG
            && bytes.next().is_some_and(word)
            && bytes.all(|b| word(b) || b == b'.' || b == b'-');
        if valid { Ok(Tag(s.to_owned())) } else { Err(NameError::Tag) }
    }
}

/// What a manifest URL ends in. A tag never contains a colon and a digest always does, so
/// `sha256-<hex>` is a tag and never an alias of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.contains(':') { Ok(Reference::Digest(s.parse()?)) } else { Ok(Reference::Tag(s.parse()?)) }
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text!(RepoName);
text!(ProjectName);
text!(Tag);

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in
            ["a", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1/2", "blobs/uploads", "v2/manifests"]
        {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", ".a", "a/../b", "a%2fb",
            "ä",
        ] {
            assert_eq!(bad.parse::<RepoName>(), Err(NameError::Repository), "{bad}");
        }
        assert!("a".repeat(255).parse::<RepoName>().is_ok());
        assert_eq!("a".repeat(256).parse::<RepoName>(), Err(NameError::TooLong));
    }

    #[test]
    fn the_first_component_is_the_project() {
        let project = |s: &str| s.parse::<RepoName>().unwrap().project().to_string();
        assert_eq!(project("team/app/web"), "team");
        assert_eq!(project("busybox"), "library");
        assert_eq!(project("library/busybox"), "library");
    }

    #[test]
    fn references_tell_tags_from_digests() {
        let tag = format!("sha256-{}", "a".repeat(64));
        assert!(matches!(tag.parse(), Ok(Reference::Tag(_))));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
        assert!("a:b".parse::<Reference>().is_err());
        assert!(".latest".parse::<Reference>().is_err());
        assert!("t".repeat(129).parse::<Reference>().is_err());
    }
}
