//! Media types (RFC 6838) as they stand in manifests and Content-Type headers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A media type without parameters, `type/subtype`, at most 255 bytes of visible ASCII, so that it can
/// be sent back as a header unchanged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MediaType(String);

/// Not a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid media type")]
pub struct MediaTypeError;

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// Docker image manifest, version 2, schema 2.
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";

    /// The text, as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Parameters after `;` are dropped.
    fn from_str(s: &str) -> Result<Self, MediaTypeError> {
        let essence = s.split(';').next().unwrap_or_default().trim();
        let (kind, subtype) = essence.split_once('/').ok_or(MediaTypeError)?;
        let token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+%'*`|~".contains(&b))
        };
        if essence.len() <= 255 && token(kind) && token(subtype) {
            Ok(MediaType(essence.to_owned()))
        } else {
            Err(MediaTypeError)
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
