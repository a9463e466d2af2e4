//! Turns what the use cases answer into the replies of `admin.proto`.

use std::time::Duration;

use clawhub_cluster::{Agreement, ClusterError, Overview, RemovalImpact};
use clawhub_types::NodeId;
use clawhub_wire::admin::{Link, LostBlob, Member, RemoveReply, StatusReply};
use tonic::Status;

use crate::NodeHandle;

/// What an operator is told of a use case that was not carried out.
pub(crate) fn failed(error: ClusterError) -> Status {
    error.code().status(error.to_string())
}

pub(crate) fn invalid(reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(reason.to_string())
}

/// This node's view of the cluster.
pub(crate) async fn status(node: &NodeHandle) -> Result<StatusReply, Status> {
    let health = (node.health)().await;
    let mut reply = StatusReply {
        name: node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        not_ready: health.not_ready.join("; "),
        warnings: health.warnings,
        storage: health.storage,
        ..StatusReply::default()
    };
    if let Some(owner) = node.bootstrap.owner() {
        reply.cluster = owner.cluster.to_string();
        reply.node = owner.node.0;
    }
    let Some(member) = node.member.get() else { return Ok(reply) };
    let Overview { consensus, applied, state_hash, epoch, durability, tick, keys } =
        member.cluster.overview().map_err(failed)?;
    let (links, limit) = member.cluster.links();
    let cut_off = consensus.cut_off;
    reply.epoch = epoch;
    reply.durability = durability.map(|durability| durability.to_string()).unwrap_or_default();
    reply.leader = consensus.leader.map(|id| id.0);
    reply.term = consensus.term;
    reply.last_log = consensus.last_log.unwrap_or(0);
    reply.committed = consensus.committed.unwrap_or(0);
    reply.applied = applied;
    reply.voters = consensus.voters.iter().map(|id| id.0).collect();
    reply.learners = consensus.learners.iter().map(|id| id.0).collect();
    reply.quorum_age_ms = cut_off.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    reply.state_hash = hex::encode(state_hash);
    reply.tick = tick;
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    reply.keys_generation = keys.generation;
    reply.keys_next = keys.next;
    reply.keys_wait_for = ids(keys.waits_for);
    reply.keys_switched = keys.switched;
    reply.keys_left_behind = ids(keys.left_behind);
    reply.links = links.into_iter().map(link).collect();
    reply.round_trip_limit_ms = u64::try_from(limit.length().as_millis()).unwrap_or(u64::MAX);
    add_blobs(&mut reply, member);
    reply.agreement = agreement(&member.findings.agreement());
    Ok(reply)
}

/// What the node knows of blobs, its own and all.
fn add_blobs(reply: &mut StatusReply, member: &crate::Member) {
    let cache = member.blobs.cache().usage();
    reply.cache_bytes = cache.bytes;
    reply.cache_limit_bytes = cache.limit;
    reply.cache_evicted_bytes = cache.evicted_bytes;
    if let Some(census) = member.findings.census() {
        reply.under_target = Some(census.under_replicated);
        reply.counted_at = census.index;
    }
}

/// Whether the members' states are the same, for people.
fn agreement(found: &Agreement) -> String {
    let names = |others: &[NodeId]| others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match found {
        Agreement::Same => String::new(),
        Agreement::Stray { index } => format!("differs from most voters' at index {index}"),
        Agreement::Divided { index, others, right: true } => {
            format!("node {} differs from most voters at index {index}: replace it", names(others))
        }
        Agreement::Divided { index, others, right: false } => {
            format!(
                "differs from that of node {} at index {index}, and no majority tells who is right",
                names(others)
            )
        }
    }
}

fn link(link: clawhub_cluster::Link) -> Link {
    let clawhub_cluster::Link { node, round_trip, too_long } = link;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Link { node: node.0, round_trip_us: round_trip.map(micros), too_long }
}

pub(crate) fn removed(impact: RemovalImpact) -> RemoveReply {
    let lost = impact.lost.into_iter();
    RemoveReply {
        lost: lost.map(|blob| LostBlob { digest: blob.digest.to_string(), size: blob.size }).collect(),
        lost_count: impact.lost_count,
        under_target: impact.under_replicated,
    }
}

pub(crate) fn member(member: clawhub_cluster::Member) -> Member {
    let clawhub_cluster::Member { record, standing, reachable } = member;
    Member {
        id: record.id.0,
        standing: standing.to_owned(),
        failing: record.is_failing(),
        acknowledged: record.acknowledged.index,
        reachable,
        name: record.spec.name,
        region: record.spec.location.region,
        zone: record.spec.location.zone,
        voter: record.spec.roles.voter,
        storage: record.spec.roles.storage,
        peer_addr: record.spec.peer_addr,
        http_addr: record.spec.http_addr,
        boot: record.boot,
        draining: record.draining,
    }
}
