//! Where a node stands and what it does: region, zone, roles, durability levels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A failure domain pair. Two zones are distinct if the pair (region, zone) differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// The region, for example a site or a data centre.
    pub region: String,
    /// The zone within the region, for example a rack or a power feed.
    pub zone: String,
}

/// Not a label: 1–63 of `[a-z0-9-]`, beginning and ending alphanumeric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a label is 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit")]
pub struct LabelError;

/// Checks a node, region or zone name.
///
/// # Errors
/// [`LabelError`] outside the grammar of a DNS label in lower case.
pub fn label(s: &str) -> Result<String, LabelError> {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = s.bytes().next().is_some_and(alnum) && s.bytes().last().is_some_and(alnum);
    if ends && s.len() <= 63 && s.bytes().all(|b| alnum(b) || b == b'-') {
        Ok(s.to_owned())
    } else {
        Err(LabelError)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.zone)
    }
}

/// What a node takes part in. A witness votes and stores no blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// May be made a voter.
    pub voter: bool,
    /// Stores blobs.
    pub storage: bool,
}

/// How many copies, and where, before a push is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// One copy. The only policy a layout of one zone accepts, and it must be named.
    Local,
    /// Two storage nodes in distinct (region, zone) pairs.
    Zone,
    /// Two storage nodes in distinct regions.
    Region,
}

impl Durability {
    /// The name in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Local => "local",
            Durability::Zone => "zone",
            Durability::Region => "region",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "local" => Ok(Durability::Local),
            "zone" => Ok(Durability::Zone),
            "region" => Ok(Durability::Region),
            _ => Err(format!("durability is local, zone or region, not {s:?}")),
        }
    }
}
