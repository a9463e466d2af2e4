//! Who may become a member: strangers with invented, used or old tokens are refused before the log hears of them, and
//! keep nobody else out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_peer::{Applicant, CallCode, JoinToken, NodeKey, PeerError};
use clawhub_testkit::fleet::{Member, Spec};
use clawhub_testkit::{cluster, until};
use clawhub_types::{Location, Roles};

/// So many attempts does a stranger make.
const ATTEMPTS: usize = 300;
const SOON: Duration = Duration::from_secs(20);

fn applicant(name: &str) -> Applicant {
    Applicant {
        name: name.into(),
        location: Location { region: "home".into(), zone: "z".into() },
        roles: Roles { voter: false, storage: false },
        peer_addr: "127.0.0.1:1".into(),
        http_addr: "127.0.0.1:2".into(),
    }
}

async fn ask(member: &Member, token: &JoinToken, key: &NodeKey, name: &str) -> Result<u64, CallCode> {
    let joined = clawhub_peer::join(member.peer(), token, key, applicant(name)).await;
    joined
        .map(|joined| joined.node.0)
        .map_err(|error: PeerError| error.answer().map_or(CallCode::Internal, |(code, _)| code))
}

fn last_log(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["last_log"].as_u64().context("an index")
}

/// Waits until the node has nothing to log by itself.
async fn quiet(member: &Member) -> Result<u64> {
    let mut last = (0, Instant::now());
    until("the log to rest", SOON, || {
        let now = last_log(member);
        let seen = now.map(|index| {
            if index != last.0 {
                last = (index, Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(2)).then_some(index)
        });
        async { seen }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_with_bad_tokens_write_nothing_to_the_log() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut member = Member::new(home.path(), Spec::alone("only"))?;
    member.start().await?;
    member.init().await?;
    let good: JoinToken = cluster::token(&member.data())?.parse()?;
    let used: JoinToken = cluster::token(&member.data())?.parse()?;
    let (first, second) = (NodeKey::generate()?, NodeKey::generate()?);
    ensure!(ask(&member, &used, &first, "first").await == Ok(2));

    let before = quiet(&member).await?;
    let key = NodeKey::generate()?;
    let (mut denied, mut late) = (0, 0);
    for _ in 0..ATTEMPTS {
        match ask(&member, &JoinToken::generate(*good.ca()), &key, "stranger").await {
            Err(CallCode::Denied) => denied += 1,
            Err(CallCode::Unavailable) => late += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(ask(&member, &used, &second, "second").await == Err(CallCode::Denied), "a used token");
    ensure!(ask(&member, &used, &first, "first").await == Ok(2), "its answer was lost");
    let after = last_log(&member)?;
    ensure!(after == before, "the log grew from {before} to {after}");
    ensure!(denied >= 8 && late > ATTEMPTS / 2, "{denied} looked up, {late} too many");

    // Nobody else is kept out, wherever they come from.
    ensure!(ask(&member, &good, &second, "second").await == Ok(3));
    Ok(())
}
