//! Between protobuf and this crate's messages. What is missing or malformed is refused, never guessed.

use std::time::Duration;

use clawhub_state::{LogPos, decode_outcome, encode_outcome};
use clawhub_types::NodeId;
use clawhub_wire::{Invalid, array, peer, required};

use crate::transport::{
    AppendAnswer, AppendReply, AppendRequest, Ballot, Change, ChangeReply, FileEntry, ForwardReply,
    ForwardRequest, ReadIndexReply, ReadIndexRequest, SnapshotHeader, SnapshotPart, SnapshotRefusal,
    SnapshotReply, TransferRequest, VoteReply, VoteRequest, WireEntry,
};

/// No caller waits longer than this for an answer; a longer wish is cut to it.
const MAX_TTL: Duration = Duration::from_secs(600);

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn duration(ms: u64) -> Duration {
    Duration::from_millis(ms).min(MAX_TTL)
}

fn out(pos: LogPos) -> peer::LogId {
    peer::LogId { term: pos.term, node: pos.node, index: pos.index }
}

fn pos(id: peer::LogId) -> LogPos {
    LogPos { term: id.term, node: id.node, index: id.index }
}

fn out_vote(b: Ballot) -> peer::Vote {
    peer::Vote { term: b.term, node: b.node, committed: b.committed }
}

/// A vote is kept for good, and from the last term there is no next one. This is above what a hundred elections a second
/// reach in 80,000 years.
const LAST_TERM: u64 = 1 << 48;

fn ballot(field: &'static str, vote: Option<peer::Vote>) -> Result<Ballot, Invalid> {
    let vote = required(field, vote)?;
    if vote.term > LAST_TERM {
        return Err(Invalid::new(field, "is of a term that no cluster reaches"));
    }
    Ok(from_vote(vote))
}

fn from_vote(vote: peer::Vote) -> Ballot {
    Ballot { term: vote.term, node: vote.node, committed: vote.committed }
}

impl From<AppendRequest> for peer::AppendRequest {
    fn from(r: AppendRequest) -> Self {
        let entries = r.entries.into_iter();
        peer::AppendRequest {
            vote: Some(out_vote(r.vote)),
            prev: r.prev.map(out),
            entries: entries.map(|e| peer::LogEntry { id: Some(out(e.pos)), payload: e.payload }).collect(),
            committed: r.committed.map(out),
            tick: r.tick,
        }
    }
}

impl TryFrom<peer::AppendRequest> for AppendRequest {
    type Error = Invalid;
    fn try_from(r: peer::AppendRequest) -> Result<Self, Invalid> {
        let entry = |e: peer::LogEntry| -> Result<WireEntry, Invalid> {
            Ok(WireEntry { pos: pos(required("entries.id", e.id)?), payload: e.payload })
        };
        let vote = ballot("vote", r.vote)?;
        let prev = r.prev.map(pos);
        let committed = r.committed.map(pos);
        let entries: Vec<WireEntry> = r.entries.into_iter().map(entry).collect::<Result<_, _>>()?;
        let first = prev.map_or(0, |p| p.index.saturating_add(1));
        if entries.iter().zip(first..).any(|(e, index)| e.pos.index != index) {
            return Err(Invalid::new("entries", "do not follow each other"));
        }
        Ok(AppendRequest { vote, prev, entries, committed, tick: r.tick })
    }
}

impl From<AppendAnswer> for peer::AppendResponse {
    fn from(r: AppendAnswer) -> Self {
        use peer::append_response::Result as Out;
        let result = match r.reply {
            AppendReply::Matched(last) => Out::Matched(peer::Matched { last: last.map(out) }),
            AppendReply::Conflict(at) => Out::Conflict(out(at)),
            AppendReply::HigherVote(vote) => Out::HigherVote(out_vote(vote)),
        };
        peer::AppendResponse { result: Some(result), boot: r.boot }
    }
}

impl TryFrom<peer::AppendResponse> for AppendAnswer {
    type Error = Invalid;
    fn try_from(r: peer::AppendResponse) -> Result<Self, Invalid> {
        use peer::append_response::Result as In;
        let reply = match required("result", r.result)? {
            In::Matched(m) => AppendReply::Matched(m.last.map(pos)),
            In::Conflict(at) => AppendReply::Conflict(pos(at)),
            In::HigherVote(vote) => AppendReply::HigherVote(ballot("higher_vote", Some(vote))?),
        };
        Ok(AppendAnswer { boot: r.boot, reply })
    }
}

impl From<VoteRequest> for peer::VoteRequest {
    fn from(r: VoteRequest) -> Self {
        let last_log = r.last_log.map(out);
        peer::VoteRequest { vote: Some(out_vote(r.vote)), last_log, leadership_transfer: r.transfer }
    }
}

impl TryFrom<peer::VoteRequest> for VoteRequest {
    type Error = Invalid;
    fn try_from(r: peer::VoteRequest) -> Result<Self, Invalid> {
        let vote = ballot("vote", r.vote)?;
        Ok(VoteRequest { vote, last_log: r.last_log.map(pos), transfer: r.leadership_transfer })
    }
}

impl From<VoteReply> for peer::VoteResponse {
    fn from(r: VoteReply) -> Self {
        peer::VoteResponse { vote: Some(out_vote(r.vote)), granted: r.granted, last_log: r.last_log.map(out) }
    }
}

impl TryFrom<peer::VoteResponse> for VoteReply {
    type Error = Invalid;
    fn try_from(r: peer::VoteResponse) -> Result<Self, Invalid> {
        let vote = ballot("vote", r.vote)?;
        Ok(VoteReply { vote, granted: r.granted, last_log: r.last_log.map(pos) })
    }
}

impl From<TransferRequest> for peer::TransferLeaderRequest {
    fn from(r: TransferRequest) -> Self {
        let from = Some(out_vote(r.from));
        peer::TransferLeaderRequest { from, to: r.to.0, last_log: r.last_log.map(out) }
    }
}

impl TryFrom<peer::TransferLeaderRequest> for TransferRequest {
    type Error = Invalid;
    fn try_from(r: peer::TransferLeaderRequest) -> Result<Self, Invalid> {
        let from = ballot("from", r.from)?;
        Ok(TransferRequest { from, to: NodeId(r.to), last_log: r.last_log.map(pos) })
    }
}

impl From<SnapshotPart> for peer::SnapshotChunk {
    fn from(part: SnapshotPart) -> Self {
        use peer::snapshot_chunk::Part;
        let part = match part {
            SnapshotPart::Header(h) => Part::Header(peer::SnapshotHeader {
                vote: Some(out_vote(h.vote)),
                meta: h.meta,
                files: h.files.into_iter().map(out_file).collect(),
                transfer: h.transfer,
            }),
            SnapshotPart::Data { file, offset, bytes } => {
                Part::Data(peer::SnapshotData { file, offset, bytes })
            }
        };
        peer::SnapshotChunk { part: Some(part) }
    }
}

fn out_file(file: FileEntry) -> peer::SnapshotFile {
    peer::SnapshotFile { name: file.name, size: file.size, blake3: file.hash.to_vec().into() }
}

fn file(f: peer::SnapshotFile) -> Result<FileEntry, Invalid> {
    Ok(FileEntry { name: f.name, size: f.size, hash: array("files.blake3", &f.blake3)? })
}

impl TryFrom<peer::SnapshotChunk> for SnapshotPart {
    type Error = Invalid;
    fn try_from(chunk: peer::SnapshotChunk) -> Result<Self, Invalid> {
        use peer::snapshot_chunk::Part;
        Ok(match required("part", chunk.part)? {
            Part::Header(h) => SnapshotPart::Header(SnapshotHeader {
                vote: ballot("vote", h.vote)?,
                meta: h.meta,
                files: h.files.into_iter().map(file).collect::<Result<_, _>>()?,
                transfer: h.transfer,
            }),
            Part::Data(d) => SnapshotPart::Data { file: d.file, offset: d.offset, bytes: d.bytes },
        })
    }
}

impl From<SnapshotReply> for peer::SnapshotReply {
    fn from(r: SnapshotReply) -> Self {
        use peer::snapshot_reply::Refused as Out;
        let refused = r.refused.map(|why| match why {
            SnapshotRefusal::NoRoom { needed, room } => Out::NoRoom(peer::NoRoom { needed, room }),
            SnapshotRefusal::Damaged => Out::Damaged(peer::Damaged {}),
            SnapshotRefusal::Busy => Out::Busy(peer::Busy {}),
        });
        peer::SnapshotReply { vote: Some(out_vote(r.vote)), installed: r.installed, held: r.held, refused }
    }
}

pub(super) fn snapshot_reply(r: peer::SnapshotReply) -> Result<SnapshotReply, Invalid> {
    use peer::snapshot_reply::Refused as In;
    let refused = r.refused.map(|why| match why {
        In::NoRoom(peer::NoRoom { needed, room }) => SnapshotRefusal::NoRoom { needed, room },
        In::Damaged(_) => SnapshotRefusal::Damaged,
        In::Busy(_) => SnapshotRefusal::Busy,
    });
    Ok(SnapshotReply { vote: ballot("vote", r.vote)?, installed: r.installed, held: r.held, refused })
}

impl From<ForwardRequest> for peer::ProposeRequest {
    fn from(r: ForwardRequest) -> Self {
        peer::ProposeRequest { entry: r.entry, ttl_ms: millis(r.ttl) }
    }
}

impl From<peer::ProposeRequest> for ForwardRequest {
    fn from(r: peer::ProposeRequest) -> Self {
        ForwardRequest { entry: r.entry, ttl: duration(r.ttl_ms) }
    }
}

fn not_leader(leader: Option<NodeId>) -> peer::NotLeader {
    peer::NotLeader { leader: leader.map(|l| l.0) }
}

fn unavailable(reason: String) -> peer::Unavailable {
    peer::Unavailable { reason, retry_after_ms: 0 }
}

impl From<ForwardReply> for peer::ProposeReply {
    fn from(r: ForwardReply) -> Self {
        use peer::propose_reply::Result as Out;
        let result = match r {
            ForwardReply::Applied(index, outcome) => {
                let outcome = encode_outcome(&outcome).into();
                Out::Committed(peer::Committed { index, outcome })
            }
            ForwardReply::NotLeader(leader) => Out::NotLeader(not_leader(leader)),
            ForwardReply::Unavailable(reason) => Out::Unavailable(unavailable(reason)),
            ForwardReply::Unknown(reason) => Out::Unknown(peer::OutcomeUnknown { reason }),
            ForwardReply::Refused(reason) => Out::Refused(peer::Refused { reason }),
        };
        peer::ProposeReply { result: Some(result) }
    }
}

pub(super) fn forward_reply(r: peer::ProposeReply) -> Result<ForwardReply, Invalid> {
    use peer::propose_reply::Result as In;
    Ok(match required("result", r.result)? {
        In::Committed(c) => {
            let outcome = decode_outcome(&c.outcome);
            let outcome = outcome.map_err(|_| Invalid::new("committed.outcome", "cannot be read"))?;
            ForwardReply::Applied(c.index, outcome)
        }
        In::NotLeader(n) => ForwardReply::NotLeader(n.leader.map(NodeId)),
        In::Unavailable(u) => ForwardReply::Unavailable(u.reason),
        In::Unknown(u) => ForwardReply::Unknown(u.reason),
        In::Refused(r) => ForwardReply::Refused(r.reason),
    })
}

impl From<ReadIndexRequest> for peer::ReadIndexRequest {
    fn from(r: ReadIndexRequest) -> Self {
        peer::ReadIndexRequest { ttl_ms: millis(r.ttl), vote: r.vote.map(out_vote) }
    }
}

impl From<peer::ReadIndexRequest> for ReadIndexRequest {
    fn from(r: peer::ReadIndexRequest) -> Self {
        ReadIndexRequest { vote: r.vote.map(from_vote), ttl: duration(r.ttl_ms) }
    }
}

impl From<ReadIndexReply> for peer::ReadIndexReply {
    fn from(r: ReadIndexReply) -> Self {
        use peer::read_index_reply::Result as Out;
        let result = match r {
            ReadIndexReply::Ready { pos, tick } => Out::Ready(peer::ReadIndex { log: Some(out(pos)), tick }),
            ReadIndexReply::NotLeader(leader) => Out::NotLeader(not_leader(leader)),
            ReadIndexReply::Unavailable(reason) => Out::Unavailable(unavailable(reason)),
        };
        peer::ReadIndexReply { result: Some(result) }
    }
}

pub(super) fn read_index_reply(r: peer::ReadIndexReply) -> Result<ReadIndexReply, Invalid> {
    use peer::read_index_reply::Result as In;
    Ok(match required("result", r.result)? {
        In::Ready(ready) => {
            ReadIndexReply::Ready { pos: pos(required("ready.log", ready.log)?), tick: ready.tick }
        }
        In::NotLeader(n) => ReadIndexReply::NotLeader(n.leader.map(NodeId)),
        In::Unavailable(u) => ReadIndexReply::Unavailable(u.reason),
    })
}

pub(super) fn change_request(change: Change, ttl: Duration) -> peer::ChangeMembershipRequest {
    use peer::change_membership_request::Change as Out;
    let change = match change {
        Change::AddLearner(node) => Out::AddLearner(node.0),
        Change::Promote(node) => Out::Promote(node.0),
        Change::Remove(node) => Out::Remove(node.0),
        Change::Transfer(to) => Out::Transfer(peer::Handover { to: to.map(|n| n.0) }),
    };
    peer::ChangeMembershipRequest { change: Some(change), ttl_ms: millis(ttl) }
}

pub(super) fn change(r: peer::ChangeMembershipRequest) -> Result<(Change, Duration), Invalid> {
    use peer::change_membership_request::Change as In;
    let change = match required("change", r.change)? {
        In::AddLearner(node) => Change::AddLearner(NodeId(node)),
        In::Promote(node) => Change::Promote(NodeId(node)),
        In::Remove(node) => Change::Remove(NodeId(node)),
        In::Transfer(handover) => Change::Transfer(handover.to.map(NodeId)),
    };
    Ok((change, duration(r.ttl_ms)))
}

impl From<ChangeReply> for peer::ChangeMembershipReply {
    fn from(r: ChangeReply) -> Self {
        use peer::change_membership_reply::Result as Out;
        let result = match r {
            ChangeReply::Done => Out::Changed(peer::Changed {}),
            ChangeReply::NotLeader(leader) => Out::NotLeader(not_leader(leader)),
            ChangeReply::Refused(reason) => Out::Refused(peer::Refused { reason }),
            ChangeReply::Busy(reason) => Out::Busy(unavailable(reason)),
            ChangeReply::Unknown(reason) => Out::Unknown(peer::OutcomeUnknown { reason }),
        };
        peer::ChangeMembershipReply { result: Some(result) }
    }
}

pub(super) fn change_reply(r: peer::ChangeMembershipReply) -> Result<ChangeReply, Invalid> {
    use peer::change_membership_reply::Result as In;
    Ok(match required("result", r.result)? {
        In::Changed(_) => ChangeReply::Done,
        In::NotLeader(n) => ChangeReply::NotLeader(n.leader.map(NodeId)),
        In::Refused(r) => ChangeReply::Refused(r.reason),
        In::Busy(u) => ChangeReply::Busy(u.reason),
        In::Unknown(u) => ChangeReply::Unknown(u.reason),
    })
}
