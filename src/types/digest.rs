//! Content digests as clients name them (OCI image-spec, "Digests") and the BLAKE3 root that names
//! the same bytes inside the cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A digest algorithm that clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// SHA-256, the default of every OCI client.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name used before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        match s {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(DigestError::Unsupported),
        }
    }
}

/// Why a digest was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex` with exactly the algorithm's number of lowercase hex digits.
    #[error("malformed digest")]
    Malformed,
    /// Well formed, but of an algorithm other than sha256 and sha512.
    #[error("unsupported digest algorithm")]
    Unsupported,
}

/// The digest of some bytes, as a client names them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Digest {
    /// `sha256:` and 64 lowercase hex digits.
    Sha256([u8; 32]),
    /// `sha512:` and 128 lowercase hex digits.
    Sha512(#[serde(with = "bytes64")] [u8; 64]),
}

impl Digest {
    /// The algorithm of this digest.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw hash, 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(b) => b,
            Digest::Sha512(b) => b,
        }
    }

    /// The lowercase hex after the colon.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Exactly lowercase hex of the algorithm's length; anything else is [`DigestError`].
    fn from_str(s: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = s.split_once(':').ok_or(DigestError::Malformed)?;
        if algorithm.is_empty() || encoded.is_empty() {
            return Err(DigestError::Malformed);
        }
        let algorithm: Algorithm = algorithm.parse()?;
        match algorithm {
            Algorithm::Sha256 => decode(encoded).map(Digest::Sha256),
            Algorithm::Sha512 => decode(encoded).map(Digest::Sha512),
        }
    }
}

fn decode<const N: usize>(encoded: &str) -> Result<[u8; N], DigestError> {
    if encoded.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(DigestError::Malformed);
    }
    let mut out = [0; N];
    hex::decode_to_slice(encoded, &mut out).map_err(|_| DigestError::Malformed)?;
    Ok(out)
}

/// The BLAKE3 hash of a blob's bytes: the unit of holders, links, leases and collection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Root(pub [u8; 32]);

impl Root {
    /// 64 lowercase hex digits; the stem of the blob's file names.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", &self.hex()[..12])
    }
}

impl FromStr for Root {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        decode(s).map(Root)
    }
}

/// Every client digest known for one root. SHA-256 is always computed, SHA-512 only where a client
/// named the bytes by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// SHA-512 of the bytes, if it was asked for.
    #[serde(with = "opt_bytes64")]
    pub sha512: Option<[u8; 64]>,
}

impl Digests {
    /// The digest of the given algorithm, if it was computed.
    pub fn get(&self, algorithm: Algorithm) -> Option<Digest> {
        match algorithm {
            Algorithm::Sha256 => Some(Digest::Sha256(self.sha256)),
            Algorithm::Sha512 => self.sha512.map(Digest::Sha512),
        }
    }

    /// Whether `digest` is one of these.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.get(digest.algorithm()).as_ref() == Some(digest)
    }

    /// All known digests, SHA-256 first.
    pub fn iter(&self) -> impl Iterator<Item = Digest> {
        [self.get(Algorithm::Sha256), self.get(Algorithm::Sha512)].into_iter().flatten()
    }
}

/// serde has no array impl beyond 32 elements: two halves, the same bytes in postcard.
mod bytes64 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], s: S) -> Result<S::Ok, S::Error> {
        split(bytes).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 64], D::Error> {
        <([u8; 32], [u8; 32])>::deserialize(d).map(join)
    }

    pub(super) fn split(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
        let mut a = [0; 32];
        let mut b = [0; 32];
        a.copy_from_slice(&bytes[..32]);
        b.copy_from_slice(&bytes[32..]);
        (a, b)
    }

    pub(super) fn join((a, b): ([u8; 32], [u8; 32])) -> [u8; 64] {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&a);
        out[32..].copy_from_slice(&b);
        out
    }
}

mod opt_bytes64 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(b: &Option<[u8; 64]>, s: S) -> Result<S::Ok, S::Error> {
        b.as_ref().map(super::bytes64::split).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[u8; 64]>, D::Error> {
        Ok(Option::deserialize(d)?.map(super::bytes64::join))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_parse_exactly() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        let long = format!("sha512:{}", "0".repeat(128));
        assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
        for bad in [
            "".into(),
            "sha256".into(),
            ":".into(),
            "sha256:".into(),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha256:{}", "a".repeat(65)),
            format!("sha512:{}", "a".repeat(64)),
            format!("sha256:{}", "g".repeat(64)),
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError::Malformed), "{bad}");
        }
        assert_eq!(format!("md5:{}", "a".repeat(32)).parse::<Digest>(), Err(DigestError::Unsupported));
    }
}
