//! Nodes on three continents under pushes and pulls, and nothing else done to them: nobody is elected, and every
//! request is answered.
//!
//! `CLAWHUB_EARTH_SECONDS=1800` is the full measure. `CLAWHUB_WAN` sets another distance.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::wan::{self, Shape};
use clawhub_testkit::{scale, until};
use serde_json::Value;

use crate::clients::{self, Clients};
use crate::lead::leader;

/// What profile `wan` holds: round trip, jitter, loss.
const FAR: &str = "400ms~80ms,1gbit,1%";
/// From so many seconds on it is by itself.
const FULL: u64 = 60;
/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_secs(2);

fn term(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["term"].as_u64().context("no term")
}

/// The slowest link that a node has measured, and whether one is too long for its profile.
fn measured(member: &Member) -> Result<(Duration, bool)> {
    let status = member.admin(&["status"])?;
    let links = status["links"].as_array().context("no links")?;
    let slowest =
        links.iter().filter_map(|link| link["round_trip_us"].as_u64()).max().context("no round trip")?;
    Ok((Duration::from_micros(slowest), links.iter().any(|link| link["too_long"] == Value::Bool(true))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_elected_and_every_request_is_answered() -> Result<()> {
    let seconds = scale("CLAWHUB_EARTH_SECONDS", 20);
    let (_beside, _alone);
    if seconds < FULL {
        // Nodes so far apart are patient with a busy machine.
        _beside = crate::beside().await;
    } else {
        _alone = crate::alone().await;
    }
    let shape: Shape = scale(wan::ASKED, FAR.parse()?);
    let home = tempfile::tempdir()?;
    let members = fleet::form_far(home.path(), (0..3).map(Spec::zone).collect(), shape).await?;
    let before = (leader(&members).await?, term(&members[0])?);

    let mut clients = Clients::start(&members, "earth/images");
    let start = Instant::now();
    let (mut looks, mut unready) = (0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(LOOK).await;
        for member in &members {
            looks += 1;
            unready += usize::from(!member.registry().ready().await);
        }
    }
    clients.stop().await;

    let after = (leader(&members).await?, term(&members[0])?);
    let (slowest, too_long) = measured(&members[0])?;
    let events = clients.history().events();
    let answers = clients::figures(&events);
    let figures = format!(
        "{seconds} s at {} ms there and back: term {} to {}; {answers}; {unready} of {looks} times not ready; measured {slowest:.0?}",
        2 * shape.delay.as_millis(),
        before.1,
        after.1
    );
    crate::seen("earth", &figures);
    ensure!(after == before, "leadership moved: {figures}");
    let unanswered = |class: &str| class.starts_with('5') || ["time-out", "no connection"].contains(&class);
    ensure!(!events.classes().keys().any(|class| unanswered(class)), "{figures}");
    ensure!(unready == 0, "{figures}");
    let way = 2 * shape.delay;
    ensure!(slowest >= way / 2 && slowest <= 3 * way, "{figures}");
    ensure!(!too_long, "a warning of what the profile holds; {figures}");
    // Nothing was done that could lose anything, and reading it all back over this way takes as long again.
    clients.truthful()
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
