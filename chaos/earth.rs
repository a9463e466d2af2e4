//! What nodes measure of the ways between them, and say of it. `timed/earth.rs` has what they do over such ways.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::until;
use clawhub_testkit::wan::Shape;
use serde_json::Value;

/// The slowest link that a node has measured, and whether one is too long for its profile.
pub(crate) fn measured(member: &Member) -> Result<(Duration, bool)> {
    let status = member.admin(&["status"])?;
    let links = status["links"].as_array().context("no links")?;
    let slowest =
        links.iter().filter_map(|link| link["round_trip_us"].as_u64()).max().context("no round trip")?;
    Ok((Duration::from_micros(slowest), links.iter().any(|link| link["too_long"] == Value::Bool(true))))
}

/// A way that is longer than the profile holds is shown by `status` before it does harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_measures_the_ways_and_warns() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let shape: Shape = "600ms".parse()?;
    let members = fleet::form_far(home.path(), (0..3).map(Spec::zone).collect(), shape).await?;
    until("a link that is too long", Duration::from_secs(30), || async {
        let (slowest, too_long) = measured(&members[0])?;
        Ok((too_long && slowest >= Duration::from_millis(550)).then_some(()))
    })
    .await
}
