//! Nodes on three continents under pushes and pulls, and nothing else done to them: nobody is elected, and every
//! request is answered.
//!
//! `CLAWHUB_EARTH_SECONDS=1800` is the full measure. `CLAWHUB_WAN` sets another distance.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::scale;
use clawhub_testkit::wan::{self, Shape};

use crate::clients::{self, Clients};
use crate::earth::measured;
use crate::lead::leader;

/// What profile `wan` holds: round trip, jitter, loss.
const FAR: &str = "400ms~80ms,1gbit,1%";
/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_secs(2);

fn term(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["term"].as_u64().context("no term")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_elected_and_every_request_is_answered() -> Result<()> {
    let _alone = crate::alone().await;
    let seconds = scale("CLAWHUB_EARTH_SECONDS", 20);
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
