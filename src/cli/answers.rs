//! What `clawhub cluster` prints for people.

use clawhub_wire::admin::{Link, Member, RemoveReply, StatusReply};

use crate::table;

/// What a rotation that is done has led to.
pub(crate) fn rotation_done(generation: u64, left: &[u64]) -> String {
    let mut text = format!("keys of generation {generation} are in force\n");
    if !left.is_empty() {
        text += &format!("node {} was left behind, and comes back as a new node\n", ids(left));
    }
    text
}

/// Which keys are in force, and what becomes of them.
pub(crate) fn keys(s: &StatusReply) -> String {
    let now = format!("generation {}", s.keys_generation);
    let next = match s.keys_next {
        None => return now,
        Some(next) if s.keys_switched => {
            format!("generation {next} is shown, the old keys are refused in a moment")
        }
        Some(next) if !s.keys_wait_for.is_empty() => {
            format!("generation {next} waits for node {}", ids(&s.keys_wait_for))
        }
        Some(next) => format!("generation {next} is on its way"),
    };
    format!("{now}; {next}")
}

fn ids(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// What the removal of a member leaves behind.
pub(crate) fn removed(node: u64, reply: &RemoveReply) -> String {
    let mut text = format!("node {node} removed\n");
    if reply.under_target > 0 {
        text += &format!("{} blobs have too few copies now; more are being made\n", reply.under_target);
    }
    if reply.lost_count > 0 {
        text += &format!("{} blobs have no copy left:\n", reply.lost_count);
    }
    for blob in &reply.lost {
        text += &format!("{}  {} bytes\n", blob.digest, blob.size);
    }
    text
}

/// What a node says of itself and of its cluster, a line each.
pub(crate) fn status(s: &StatusReply) -> String {
    if s.cluster.is_empty() {
        return format!("node {} ({}) is not a member of a cluster yet: init or join\n", s.name, s.version);
    }
    let leader = match s.leader {
        Some(id) if id == s.node => "this node".to_owned(),
        Some(id) => format!("node {id}"),
        None => "none".to_owned(),
    };
    let ready = if s.not_ready.is_empty() { "yes".to_owned() } else { format!("no: {}", s.not_ready) };
    let mut rows = vec![
        ("cluster", format!("{} (epoch {})", s.cluster, s.epoch)),
        ("node", format!("{} ({}), clawhub {}", s.node, s.name, s.version)),
        ("ready", ready),
        ("storage", s.storage.clone()),
        ("durability", s.durability.clone()),
        ("leader", format!("{leader}, term {}", s.term)),
        ("log", format!("{} written, {} committed, {} applied", s.last_log, s.committed, s.applied)),
        ("voters", ids(&s.voters)),
        ("learners", ids(&s.learners)),
        ("keys", keys(s)),
        ("state", format!("{} at tick {}", s.state_hash, s.tick)),
    ];
    if !s.agreement.is_empty() {
        rows.push(("DIFFERS", s.agreement.clone()));
    }
    if !s.links.is_empty() {
        rows.push(("links", s.links.iter().map(link).collect::<Vec<_>>().join(", ")));
    }
    if !s.keys_left_behind.is_empty() {
        let text =
            format!("node {} was away when the keys were replaced: replace it", ids(&s.keys_left_behind));
        rows.push(("warning", text));
    }
    let far: Vec<u64> = s.links.iter().filter(|link| link.too_long).map(|link| link.node).collect();
    if !far.is_empty() {
        let limit = s.round_trip_limit_ms;
        let text =
            format!("node {} is farther away than the {limit} ms that [raft] profile holds here", ids(&far));
        rows.push(("warning", text));
    }
    rows.push(("cache", cache(s)));
    if let Some(short) = s.under_target {
        rows.push(("copies", format!("{short} blobs under target, counted at {}", s.counted_at)));
    }
    if let Some(age) = s.quorum_age_ms {
        rows.push(("quorum", format!("last confirmed {age} ms ago")));
    }
    rows.extend(s.warnings.iter().map(|warning| ("warning", warning.clone())));
    rows.iter().map(|(name, value)| format!("{name:<10} {value}").trim_end().to_owned() + "\n").collect()
}

fn cache(s: &StatusReply) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let StatusReply { cache_bytes: has, cache_limit_bytes: limit, cache_evicted_bytes: evicted, .. } = s;
    format!("{} of {} MiB, {} MiB made way", mib(*has), mib(*limit), mib(*evicted))
}

fn link(link: &Link) -> String {
    match link.round_trip_us {
        Some(us) => format!("node {} {}.{} ms", link.node, us / 1000, us % 1000 / 100),
        None => format!("node {} not connected", link.node),
    }
}

/// The members, a row each.
pub(crate) fn members(members: &[Member]) -> String {
    let rows: Vec<_> = members
        .iter()
        .map(|m| {
            let roles = match (m.voter, m.storage) {
                (true, true) => "voter storage",
                (true, false) => "voter",
                (false, true) => "storage",
                (false, false) => "-",
            };
            [
                m.id.to_string(),
                m.name.clone(),
                m.region.clone(),
                m.zone.clone(),
                standing(m),
                roles.to_owned(),
                m.peer_addr.clone(),
                m.http_addr.clone(),
                if m.reachable { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    table::render(["ID", "NAME", "REGION", "ZONE", "STANDING", "ROLES", "PEER", "HTTP", "REACHABLE"], &rows)
}

fn standing(m: &Member) -> String {
    let also = [(m.draining, ", draining"), (m.failing, ", failing")];
    also.iter().filter(|(is, _)| *is).fold(m.standing.clone(), |text, (_, word)| text + word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_is_too_long_is_warned_of() {
        let near = Link { node: 2, round_trip_us: Some(321), too_long: false };
        let far = Link { node: 3, round_trip_us: Some(81_940), too_long: true };
        let gone = Link { node: 4, round_trip_us: None, too_long: false };
        let mut reply = StatusReply {
            cluster: "c".into(),
            round_trip_limit_ms: 50,
            links: vec![near, far, gone],
            ..Default::default()
        };
        let text = status(&reply);
        assert!(text.contains("node 2 0.3 ms, node 3 81.9 ms, node 4 not connected"), "{text}");
        assert!(text.contains("node 3 is farther away than the 50 ms"), "{text}");
        reply.links[1].too_long = false;
        assert!(!status(&reply).contains("farther"));
    }

    #[test]
    fn a_node_outside_a_cluster_says_what_to_do() {
        let text = status(&StatusReply { name: "n1".into(), ..Default::default() });
        assert!(text.contains("init or join"), "{text}");
    }
}
