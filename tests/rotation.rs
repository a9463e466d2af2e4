//! The keys of a cluster are replaced while it serves: no request fails, no crash stops it, and who was away for too
//! long comes back by the documented step.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::admin;
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::history::check::violations;
use clawhub_testkit::history::client::Client;
use clawhub_testkit::history::workload::Target;
use clawhub_testkit::history::{History, Outcome};
use clawhub_testkit::until;
use futures::{StreamExt as _, stream};
use reqwest::{Body, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

/// How long a rotation may take where nobody is away.
const SOON: Duration = Duration::from_secs(60);
/// How long the slow upload takes: longer than a rotation.
const PIECES: usize = 150;

/// `rotate-keys`, which returns when it is done.
fn rotate(member: &Member, wait: u64) -> JoinHandle<Result<Value>> {
    let data = member.data();
    std::thread::spawn(move || admin(&data, &["rotate-keys", "--wait", &wait.to_string()]))
}

async fn done(rotation: JoinHandle<Result<Value>>) -> Result<u64> {
    until("the rotation to end", SOON, || async { Ok(rotation.is_finished().then_some(())) }).await?;
    let reply = rotation.join().map_err(|_| anyhow!("it panicked"))??;
    reply["generation"].as_u64().context("a generation")
}

fn generation(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["keys_generation"].as_u64().context("a generation")
}

/// Waits until all of these have keys of this generation, in their files too.
async fn settled(members: &[&Member], wanted: u64) -> Result<()> {
    for member in members {
        until("keys to be in force", SOON, || async {
            let left = |name: &str| member.data().join(name).exists();
            let here = generation(member)? == wanted && !left("keys.next") && !left("keys.now");
            Ok(here.then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// The files of a node's keys.
fn keys(member: &Member) -> Result<Vec<Vec<u8>>> {
    let files = ["node.key", "cluster.key", "node.crt", "ca.crt"];
    files.iter().map(|name| Ok(fs::read(member.data().join(name))?)).collect()
}

async fn push(member: &Member, name: &str) -> Result<()> {
    let layer = Rng::new(7).bytes(64 << 10);
    member.registry().repo(name).push_image("latest", &[layer.into()]).await.map(drop)
}

/// An upload that one node has and another one is sent, in one request that outlasts the rotation.
async fn slow_upload(owner: &Member, through: &Member) -> Result<()> {
    let content = Rng::new(9).bytes(PIECES * 1000);
    let upload = owner.registry().repo("slow/upload").open().await?;
    let pieces: Vec<Bytes> = content.chunks(1000).map(Bytes::copy_from_slice).collect();
    let body = stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, std::io::Error>(piece)
    });
    let digest = sha256(&content);
    let path = upload.closing(&digest);
    let request = through.registry().request(reqwest::Method::PUT, &path);
    let answer = request.timeout(SOON).body(Body::wrap_stream(body)).send().await?;
    ensure!(answer.status() == StatusCode::CREATED, "the slow upload: {}", answer.text().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_keys_are_replaced() -> Result<()> {
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..4).map(Spec::zone).collect()).await?;
    let before = members.iter().map(keys).collect::<Result<Vec<_>>>()?;
    let history = Arc::new(History::default());
    let nodes = members.iter().map(Member::registry).collect();
    let repos = ["rotated".to_owned(), "rotated-too".to_owned()];
    let target = Target { nodes, repos, history: history.clone() };
    let told = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for id in 0..6 {
        clients.spawn(Client::new(target.clone(), id).run(told.clone()));
    }
    let pushes = async |more: usize| {
        let goal = history.pushes() + more;
        until("pushes", SOON, || async { Ok((history.pushes() >= goal).then_some(())) }).await
    };
    pushes(20).await?;
    let upload = slow_upload(&members[0], &members[3]);
    let rotation = async {
        let reached = done(rotate(&members[1], 600)).await?;
        ensure!(reached == 2, "generation {reached}");
        settled(&members.iter().collect::<Vec<_>>(), 2).await
    };
    futures::try_join!(upload, rotation)?;
    pushes(20).await?;
    told.store(true, Ordering::Relaxed);
    clients.join_all().await;

    let events = history.events();
    let failed = events.records.iter().filter(|record| match &record.outcome {
        Outcome::Answer { status, .. } => status.is_server_error(),
        Outcome::TimedOut | Outcome::Broken => true,
    });
    let failed: Vec<String> = failed.map(ToString::to_string).collect();
    println!("{} pushes, answers: {:?}", events.pushes(), events.classes());
    ensure!(failed.is_empty(), "{} requests failed: {failed:#?}", failed.len());
    ensure!(violations(&events).is_empty(), "{:#?}", violations(&events));
    for (member, before) in members.iter().zip(before) {
        ensure!(keys(member)?.iter().zip(&before).all(|(now, then)| now != then), "{}", member.spec.name);
    }
    Ok(())
}

/// What a node does next, as it says.
fn stage(member: &Member) -> Result<Option<bool>> {
    let status = member.admin(&["status"])?;
    Ok(status["keys_next"].as_u64().map(|_| status["keys_switched"].as_bool().unwrap_or(false)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_at_any_step_costs_time_only() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    for victim in 0..3 {
        let asked = (victim + 1) % 3;
        let wanted = 2 + victim as u64;
        let rotation = rotate(&members[asked], 600);
        // Once as it begins, once when new keys are shown.
        for switched in [false, true] {
            until("the step", SOON, || async {
                let now = stage(&members[asked])?;
                Ok((now.is_some_and(|now| now >= switched) || generation(&members[asked])? == wanted)
                    .then_some(()))
            })
            .await?;
            members[victim].kill()?;
            members[victim].start().await?;
        }
        ensure!(done(rotation).await? == wanted);
        settled(&members.iter().collect::<Vec<_>>(), wanted).await?;
        for member in &members {
            member.ready().await?;
            push(member, &format!("killed/{victim}")).await?;
        }
    }
    // All at once, in the middle.
    let rotation = rotate(&members[0], 600);
    until("the switch", SOON, || async { Ok((stage(&members[1])? == Some(true)).then_some(())) }).await?;
    for member in &mut members {
        member.kill()?;
    }
    // Nobody is there to ask any more.
    drop(rotation.join());
    for member in &mut members {
        member.start().await?;
    }
    settled(&members.iter().collect::<Vec<_>>(), 5).await?;
    push(&members[2], "killed/all").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_away_is_waited_for_and_who_stays_away_comes_back_by_the_documented_step() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..4).map(Spec::zone).collect()).await?;
    members[3].stop();
    let rotation = rotate(&members[0], 600);
    until("it to wait", SOON, || async {
        let waits = members[1].admin(&["status"])?["keys_wait_for"].clone();
        Ok((waits == serde_json::json!([4])).then_some(()))
    })
    .await?;
    ensure!(generation(&members[0])? == 1);
    members[3].start().await?;
    ensure!(done(rotation).await? == 2);
    settled(&members.iter().collect::<Vec<_>>(), 2).await?;
    members[3].ready().await?;

    members[3].stop();
    ensure!(done(rotate(&members[0], 2)).await? == 3);
    let status = members[1].admin(&["status"])?;
    ensure!(status["keys_left_behind"] == serde_json::json!([4]), "{status}");
    push(&members[0], "left/behind").await?;
    // Nobody talks to it, and it says why.
    members[3].start().await?;
    until("it to say so", SOON, || async {
        let log = fs::read_to_string(members[3].log())?;
        Ok(log.contains("was left behind").then_some(()))
    })
    .await?;
    ensure!(!members[3].registry().ready().await);

    // `docs/operations/nodes.md`: as a new node, with an empty folder.
    members[3].stop();
    members[3].wipe()?;
    members[0].admin(&["drain", "4"])?;
    members[3].start().await?;
    ensure!(members[3].join(&members[0]).await? == 5);
    members[0].admin(&["drain", "4", "--wait"])?;
    members[0].admin(&["remove", "4"])?;
    // That replaces the keys once more, by itself.
    settled(&members.iter().collect::<Vec<_>>(), 4).await?;
    ensure!(members[0].admin(&["status"])?["keys_left_behind"] == serde_json::json!([]));
    push(&members[3], "back/again").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_before_lets_nobody_in_and_one_from_after_does() -> Result<()> {
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let token = |member: &Member| clawhub_testkit::cluster::token(&member.data());
    let old = token(&members[0])?;
    ensure!(done(rotate(&members[2], 600)).await? == 2);
    let mut new = Member::new(home.path(), Spec::zone(3))?;
    new.start().await?;
    let join = |data: PathBuf, token: &str| clawhub_testkit::cluster::join(&data, token, members[1].peer());
    ensure!(join(new.data(), &old).is_err());
    ensure!(join(new.data(), &token(&members[0])?)? == 4);
    new.ready().await?;
    // It has what it takes to let others in, and to take part in the next one.
    ensure!(done(rotate(&new, 600)).await? == 3);
    settled(&members.iter().chain([&new]).collect::<Vec<_>>(), 3).await
}
