//! A member behind a link that carries little.

use std::time::Duration;

use clawhub_consensus::Profile;
use clawhub_relay::Shape;

use crate::node::{Cluster, digest, put};

/// More than may be on its way to one follower: 75 manifests of the largest size that the log takes.
const MANIFESTS: u64 = 75;
const MANIFEST: usize = 64_000;

/// A member comes back and lacks more of the log than one window, behind a link over which a batch takes longer than the
/// profile gives an answer.
async fn catches_up(profile: Profile, link: &str, within: Duration) {
    let cluster = Cluster::relayed(profile);
    let mut members = cluster.form().await;
    members.remove(2).stop().await;
    let writes = (0..MANIFESTS).map(|version| members[0].propose(put("latest", version, MANIFEST)));
    futures::future::join_all(writes).await;
    cluster.put_far(3, link.parse::<Shape>().unwrap());
    let term = members[0].consensus.status().term;
    let back = cluster.start(3).await;
    let index = members[0].propose(put("latest", MANIFESTS, 100)).await;
    assert!(back.consensus.wait_applied(index, within).await, "{:?}", back.consensus.status());
    assert_eq!(back.look("latest"), Some(digest(MANIFESTS)));
    // Near by, a busy machine is reason enough.
    let term_now = members[0].consensus.status().term;
    assert!(profile == Profile::Lan || term_now == term, "an election without a fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_catches_up_over_a_slow_link_near_by() {
    catches_up(Profile::Lan, "50ms~10ms,4mbit", Duration::from_secs(25)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_catches_up_over_a_slow_link_far_away() {
    catches_up(Profile::Wan, "400ms~80ms,2mbit", Duration::from_secs(50)).await;
}
