//! The key layout, whole. Numbers are big endian, so that byte order is numeric order; a digest is one
//! byte for its algorithm and then its hash, so that it needs no terminator.
//!
//! ```text
//! m a                       log position applied last        m g   last membership
//! m h                       state hash (not part of itself)  m t   tick (`meta.rs`)
//! c c                       the cluster                      c i   next ids
//! c n <node>                a node, member or removed        c j <token hash>   a join token
//! c s <session>             a proposer session               c a <session> <seq>   an answer
//! p i <project>             a project with its counters      p n <project name>   its id
//! p r <project> <name>      a repository of the project, by its full name
//! n <repository name>       project and repository id; catalog order
//! r <root>                  a root: size, digests, holders   g <digest>   its root
//! k <root> <project>        links of the project to the root
//! h <node> <root>           the node is a holder
//! w <copies> <tick> <root>  the root is linked and lacks copies since the tick; so many are left (one byte)
//! x <tick> <root>           nobody links the root since the tick
//! e <tick> <project> <repo> <digest>   parts of the manifest are staged since the tick
//! o <log index> <n>         an outbox row                    q <reader>   its cursor
//! d <project> <repo> r      the repository
//! d <project> <repo> l <root>               a link to a blob
//! d <project> <repo> u <root> <manifest>    the manifest holds the link
//! d <project> <repo> m <digest>             a manifest's facts
//! d <project> <repo> p <digest> <n>         the n-th part of its references, beyond those of its facts
//! d <project> <repo> e <digest>             since when parts of it are staged
//! d <project> <repo> i <digest>             a manifest's bytes, raw
//! d <project> <repo> t <tag>                a tag
//! d <project> <repo> v <digest> <tag>       the tag names the manifest
//! d <project> <repo> s <subject> <digest>   the manifest refers to the subject
//! d <project> <repo> y <tag> 0 <n>          the n-th change of the tag; the last 100 are kept
//! ```
//!
//! Values are [records](crate::record), but for raw manifest bytes and for rows that say all in their
//! key, whose value is empty.

use clawhub_types::{Algorithm, Digest, Root};

use crate::fault::Fault;

/// A key, built part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// Begins with the bytes that name a table.
    pub(crate) fn new(table: &[u8]) -> Key {
        Key(table.to_vec())
    }

    pub(crate) fn number(mut self, number: u64) -> Key {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(crate) fn small(mut self, number: u16) -> Key {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(crate) fn byte(mut self, byte: u8) -> Key {
        self.0.push(byte);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn root(self, root: &Root) -> Key {
        self.bytes(&root.0)
    }

    pub(crate) fn digest(self, digest: &Digest) -> Key {
        self.byte(algorithm_byte(digest.algorithm())).bytes(digest.as_bytes())
    }

    /// The first key that does not begin with this one: the end of its range.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut end = self.0.clone();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                break;
            }
        }
        end
    }

    /// The first key after this one.
    pub(crate) fn after(&self) -> Key {
        self.clone().byte(0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn algorithm_byte(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

/// The parts of a key read back.
pub(crate) struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// What follows the first `prefix` bytes of `key`.
    pub(crate) fn after(key: &'a [u8], prefix: usize) -> Result<Parts<'a>, Fault> {
        key.get(prefix..).map(Parts).ok_or_else(|| corrupt(key))
    }

    pub(crate) fn number(&mut self) -> Result<u64, Fault> {
        self.take().map(u64::from_be_bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn root(&mut self) -> Result<Root, Fault> {
        self.take().map(Root)
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, Fault> {
        match self.take()? {
            [1] => self.take().map(Digest::Sha256),
            [2] => self.take().map(Digest::Sha512),
            _ => Err(corrupt(self.0)),
        }
    }

    /// All that is left, as text.
    pub(crate) fn text(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.0).map_err(|_| corrupt(self.0))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (part, rest) = self.0.split_first_chunk().ok_or_else(|| corrupt(self.0))?;
        self.0 = rest;
        Ok(*part)
    }
}

fn corrupt(key: &[u8]) -> Fault {
    Fault::Corrupt { what: "key", why: format!("{key:02x?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_just_past_the_prefix() {
        assert_eq!(Key::new(b"ab").end(), b"ac");
        assert_eq!(Key::new(&[b'a', 0xff, 0xff]).end(), b"b");
        assert_eq!(Key::new(b"m").number(u64::MAX).end(), b"n");
    }

    #[test]
    fn parts_come_back() {
        let (short, long) = (Digest::Sha256([1; 32]), Digest::Sha512([2; 64]));
        let key = Key::new(b"xy").number(7).digest(&long).digest(&short).root(&Root([9; 32]));
        let key = key.bytes(b"tag");
        let mut parts = Parts::after(key.as_bytes(), 2).unwrap();
        assert_eq!(parts.number().unwrap(), 7);
        assert_eq!((parts.digest().unwrap(), parts.digest().unwrap()), (long, short));
        assert_eq!(parts.root().unwrap(), Root([9; 32]));
        assert_eq!(parts.text().unwrap(), "tag");
        assert!(Parts::after(b"x", 2).is_err());
        assert!(Parts::after(b"x\x03", 1).unwrap().digest().is_err());
        assert!(Parts::after(b"x\x01short", 1).unwrap().digest().is_err());
    }
}
