//! What consensus writes to disk: votes, positions, memberships, log entries, snapshot lists. Each is a
//! big-endian `u16` shape, then postcard. Shapes freeze at release; an unknown one is an error that
//! stops the node. Never a library's serde form.

use bytes::Bytes;
use clawhub_state::LogPos;
use openraft::{EmptyNode, EntryPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{self, Ballot, LogId, Membership, Payload, Proposal, RaftEntry, Vote};

const VOTE: u16 = 1;
const POSITION: u16 = 1;
const PAYLOAD: u16 = 1;
const ENTRY: u16 = 1;
const MANIFEST: u16 = 1;

/// Bytes of the check that a log entry's record begins with.
const CHECK: usize = 8;

/// A record that this version cannot read, or that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} record: {problem}")]
pub struct RecordError {
    kind: &'static str,
    problem: String,
    /// A later release may have written it.
    unknown: bool,
}

impl RecordError {
    fn new(kind: &'static str, problem: impl Into<String>) -> Self {
        RecordError { kind, problem: problem.into(), unknown: false }
    }
}

impl From<RecordError> for std::io::Error {
    /// `InvalidData` if it is damaged, `Unsupported` if it is only not known here.
    fn from(e: RecordError) -> Self {
        let kind = match e.unknown {
            true => std::io::ErrorKind::Unsupported,
            false => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, e)
    }
}

#[derive(Serialize, Deserialize)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct PositionV1 {
    term: u64,
    node: u64,
    index: u64,
}

/// `nodes` holds voters and learners, sorted; a node in no config is a learner.
#[derive(Serialize, Deserialize)]
struct MembershipV1 {
    configs: Vec<Vec<u64>>,
    nodes: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
enum PayloadV1 {
    Blank,
    Entry(Bytes),
    Membership(MembershipV1),
}

#[derive(Serialize, Deserialize)]
struct EntryV1 {
    position: PositionV1,
    payload: PayloadV1,
}

/// What a snapshot consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The last entry its state has applied.
    pub(crate) last: Option<LogPos>,
    /// The membership in force there and the entry that set it.
    pub(crate) membership: Option<(LogPos, Membership)>,
    /// Its files, sorted by name.
    pub(crate) files: Vec<FileEntry>,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// A plain file name without a separator.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub hash: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct ManifestV1 {
    last: Option<PositionV1>,
    membership: Option<(PositionV1, MembershipV1)>,
    files: Vec<FileEntry>,
}

impl From<LogPos> for PositionV1 {
    fn from(p: LogPos) -> Self {
        PositionV1 { term: p.term, node: p.node, index: p.index }
    }
}

impl From<PositionV1> for LogPos {
    fn from(p: PositionV1) -> Self {
        LogPos { term: p.term, node: p.node, index: p.index }
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(m: &Membership) -> Self {
        let configs = m.get_joint_config().iter().map(|c| c.iter().copied().collect()).collect();
        MembershipV1 { configs, nodes: m.nodes().map(|(id, _)| *id).collect() }
    }
}

impl MembershipV1 {
    fn restore(self) -> Membership {
        // Through the constructor that checks nothing: what was written is what was agreed upon.
        let configs = self.configs.into_iter().map(|c| c.into_iter().collect()).collect();
        Membership::new_with_defaults(configs, self.nodes)
    }
}

fn encode<T: Serialize>(shape: u16, value: &T) -> Vec<u8> {
    let bytes = shape.to_be_bytes().to_vec();
    postcard::to_extend(value, bytes).expect("records hold only types that postcard can write")
}

fn decode<T: DeserializeOwned>(kind: &'static str, shape: u16, bytes: &[u8]) -> Result<T, RecordError> {
    let body = strip(kind, shape, bytes)?;
    parse(kind, body)
}

fn strip<'a>(kind: &'static str, shape: u16, bytes: &'a [u8]) -> Result<&'a [u8], RecordError> {
    let (found, body) = bytes.split_first_chunk().ok_or_else(|| RecordError::new(kind, "is cut short"))?;
    let found = u16::from_be_bytes(*found);
    match found == shape {
        true => Ok(body),
        false => Err(RecordError { kind, problem: format!("unknown shape {found}"), unknown: true }),
    }
}

fn parse<T: DeserializeOwned>(kind: &'static str, body: &[u8]) -> Result<T, RecordError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(RecordError::new(kind, "has bytes after its end")),
        Err(e) => Err(RecordError::new(kind, e.to_string())),
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let Ballot { term, node, committed } = types::ballot(vote);
    encode(VOTE, &VoteV1 { term, node, committed })
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, RecordError> {
    let VoteV1 { term, node, committed } = decode("vote", VOTE, bytes)?;
    Ok(types::vote(Ballot { term, node, committed }))
}

pub(crate) fn encode_position(id: &LogId) -> Vec<u8> {
    encode(POSITION, &PositionV1::from(types::log_pos(id)))
}

pub(crate) fn decode_position(bytes: &[u8]) -> Result<LogId, RecordError> {
    let position: PositionV1 = decode("position", POSITION, bytes)?;
    Ok(types::log_id(position.into()))
}

fn payload(payload: &Payload) -> PayloadV1 {
    match payload {
        EntryPayload::Blank => PayloadV1::Blank,
        EntryPayload::Normal(Proposal(entry)) => PayloadV1::Entry(entry.clone()),
        EntryPayload::Membership(m) => PayloadV1::Membership(m.into()),
    }
}

impl PayloadV1 {
    fn restore(self) -> Payload {
        match self {
            PayloadV1::Blank => EntryPayload::Blank,
            PayloadV1::Entry(entry) => EntryPayload::Normal(Proposal(entry)),
            PayloadV1::Membership(m) => EntryPayload::Membership(m.restore()),
        }
    }
}

/// The payload of an entry as it travels between nodes.
pub(crate) fn encode_payload(of: &Payload) -> Vec<u8> {
    encode(PAYLOAD, &payload(of))
}

pub(crate) fn decode_payload(bytes: &[u8]) -> Result<Payload, RecordError> {
    decode::<PayloadV1>("payload", PAYLOAD, bytes).map(PayloadV1::restore)
}

/// An entry as it lies in the log. The record carries its position and a check over everything, because
/// the store below cannot tell a torn write from rot in its last record.
pub(crate) fn encode_entry(entry: &RaftEntry) -> Vec<u8> {
    let value = EntryV1 { position: types::log_pos(&entry.log_id).into(), payload: payload(&entry.payload) };
    let mut bytes = encode(ENTRY, &([0u8; CHECK], value));
    let (head, body) = bytes.split_at_mut(size_of::<u16>() + CHECK);
    head[size_of::<u16>()..].copy_from_slice(&check(body));
    bytes
}

/// The entry that lies at `index`; anything else found there is an error.
pub(crate) fn decode_entry(index: u64, bytes: &[u8]) -> Result<RaftEntry, RecordError> {
    const KIND: &str = "log entry";
    let rest = strip(KIND, ENTRY, bytes)?;
    let (sum, body) =
        rest.split_first_chunk::<CHECK>().ok_or_else(|| RecordError::new(KIND, "is cut short"))?;
    if *sum != check(body) {
        return Err(RecordError::new(KIND, format!("{index} is damaged")));
    }
    let EntryV1 { position, payload } = parse(KIND, body)?;
    if position.index != index {
        return Err(RecordError::new(KIND, format!("{} lies at {index}", position.index)));
    }
    Ok(RaftEntry { log_id: types::log_id(position.into()), payload: payload.restore() })
}

fn check(body: &[u8]) -> [u8; CHECK] {
    let hash = blake3::hash(body);
    *hash.as_bytes().first_chunk().expect("a hash is longer than the check")
}

pub(crate) fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let membership = manifest.membership.as_ref().map(|(pos, m)| ((*pos).into(), m.into()));
    let last = manifest.last.map(Into::into);
    let value = ManifestV1 { last, membership, files: manifest.files.clone() };
    encode(MANIFEST, &value)
}

pub(crate) fn decode_manifest(bytes: &[u8]) -> Result<Manifest, RecordError> {
    let ManifestV1 { last, membership, files } = decode("snapshot", MANIFEST, bytes)?;
    let membership = membership.map(|(pos, m)| (pos.into(), m.restore()));
    Ok(Manifest { last: last.map(Into::into), membership, files })
}

/// Membership nodes carry nothing; kept here so that the type is named once.
pub(crate) fn node() -> EmptyNode {
    EmptyNode::new()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn joint() -> Membership {
        Membership::new_with_defaults(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 300])], [1, 2, 7, 300])
    }

    fn position() -> LogPos {
        LogPos { term: 3, node: 300, index: 70_000 }
    }

    fn normal() -> Payload {
        EntryPayload::Normal(Proposal(Bytes::from_static(b"abc")))
    }

    /// Decodes released bytes, compares, and encodes them again to the same.
    fn golden<T: PartialEq + std::fmt::Debug>(
        bytes: &str,
        value: &T,
        encode: impl Fn(&T) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<T, RecordError>,
    ) {
        assert_eq!(hex::encode(encode(value)), bytes, "{value:?}");
        assert_eq!(&decode(&hex::decode(bytes).unwrap()).unwrap(), value);
    }

    /// Written by the first release. If one of these fails, a released shape was changed.
    #[test]
    fn golden_bytes_of_every_shape() {
        let vote = types::vote(Ballot { term: 3, node: 300, committed: true });
        golden("000103ac0201", &vote, encode_vote, decode_vote);
        let id = types::log_id(position());
        golden("000103ac02f0a204", &id, encode_position, decode_position);
        golden("000100", &EntryPayload::Blank, encode_payload, decode_payload);
        golden("00010103616263", &normal(), encode_payload, decode_payload);
        let membership = EntryPayload::Membership(joint());
        golden("000102020201020202ac0204010207ac02", &membership, encode_payload, decode_payload);
        let entry = RaftEntry { log_id: id, payload: normal() };
        golden("0001029d6d31db5abeff03ac02f0a2040103616263", &entry, encode_entry, |b| {
            decode_entry(70_000, b)
        });
        let file = FileEntry { name: "1.sst".into(), size: 300, hash: [9; 32] };
        let manifest = Manifest { last: Some(position()), membership: None, files: vec![file] };
        let bytes = "00010103ac02f0a2040001".to_owned() + "05312e737374ac02" + &"09".repeat(32);
        golden(&bytes, &manifest, encode_manifest, decode_manifest);
    }

    #[test]
    fn a_manifest_round_trips() {
        let file = FileEntry { name: "000012.sst".into(), size: 1 << 40, hash: [9; 32] };
        for membership in [None, Some((position(), joint()))] {
            let manifest = Manifest { last: Some(position()), membership, files: vec![file.clone()] };
            assert_eq!(decode_manifest(&encode_manifest(&manifest)).unwrap(), manifest);
        }
    }

    #[test]
    fn damage_anywhere_in_an_entry_is_found() {
        let payload = EntryPayload::Normal(Proposal(Bytes::from_static(b"payload")));
        let entry = RaftEntry { log_id: types::log_id(position()), payload };
        let good = encode_entry(&entry);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode_entry(70_000, &bad).is_err(), "byte {at} changed");
            assert!(decode_entry(70_000, &good[..at]).is_err(), "cut at {at}");
        }
        assert!(decode_entry(70_001, &good).is_err(), "an entry in another's place");
    }

    #[test]
    fn unknown_shapes_and_trailing_bytes_are_refused() {
        let good = encode_vote(&types::vote(Ballot { term: 1, node: 1, committed: false }));
        let mut newer = good.clone();
        newer[1] = 2;
        assert_eq!(decode_vote(&newer).unwrap_err().to_string(), "vote record: unknown shape 2");
        let mut longer = good;
        longer.push(0);
        assert!(decode_vote(&longer).is_err());
    }
}
