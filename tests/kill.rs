//! `kill -9` of any one node: what was acknowledged stays, pushes go on, the node catches up.
#![expect(clippy::print_stdout, reason = "what a test measured belongs in its output")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::{Node, Options, admin};
use clawhub_testkit::content::Rng;
use clawhub_testkit::{Cluster, Repo, process, until};
use clawhub_types::Digest;

/// How soon after the death of a node the others take pushes again.
const PUSHES_GO_ON: Duration = Duration::from_secs(3);

/// Every image whose manifest was answered with 201.
type Acknowledged = Arc<Mutex<Vec<(String, Digest)>>>;

fn count(acknowledged: &Acknowledged) -> usize {
    acknowledged.lock().expect("no holder panics").len()
}

fn layer(seed: u64) -> Bytes {
    Bytes::from(Rng::new(seed).bytes(200_000))
}

async fn push(repo: &Repo, tag: &str, seed: u64, acknowledged: &Acknowledged) -> Result<()> {
    let pushed = repo.push_image(tag, &[layer(seed)]).await?;
    acknowledged.lock().expect("no holder panics").push((tag.to_owned(), pushed.digest));
    Ok(())
}

/// Pushes through one node after another until told to stop; what fails was not acknowledged.
async fn keep_pushing(repos: Vec<Repo>, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let repo = &repos[usize::try_from(n).unwrap_or(0) % repos.len()];
        if push(repo, &format!("background-{n}"), 1_000_000 + n, &acknowledged).await.is_err() {
            // A dead node refuses at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        n += 1;
    }
}

/// Everything acknowledged so far pulls whole from these nodes.
async fn check_all(repos: &[Repo], acknowledged: &Acknowledged) -> Result<()> {
    let all = acknowledged.lock().expect("no holder panics").clone();
    for repo in repos {
        for (tag, digest) in &all {
            let address = repo.registry.address();
            let got = repo.pull_image(tag).await.with_context(|| format!("{tag} at {address}"))?;
            ensure!(got == *digest, "{tag} at {address}: {got}, not {digest}");
        }
    }
    Ok(())
}

/// The nodes agree on the state at an equal index.
async fn agree(nodes: &[Node]) -> Result<()> {
    until("all nodes to have applied the same", Duration::from_secs(30), || async {
        let statuses = nodes.iter().map(|node| admin(&node.data, &["status"]));
        let statuses = statuses.collect::<Result<Vec<_>>>()?;
        let same_index = statuses.iter().all(|s| s["applied"] == statuses[0]["applied"]);
        if same_index {
            let same = statuses.iter().all(|s| s["state_hash"] == statuses[0]["state_hash"]);
            ensure!(same, "state hashes differ at index {}", statuses[0]["applied"]);
        }
        Ok(same_index.then_some(()))
    })
    .await
}

async fn kill_one(cluster: &Cluster, victim: &Node, round: u64, acknowledged: &Acknowledged) -> Result<()> {
    let nodes = cluster.nodes()?;
    let (_, others): (Vec<_>, Vec<_>) = nodes.iter().cloned().partition(|node| node.id == victim.id);
    let repos: Vec<Repo> = others.iter().map(|node| node.registry().repo("kill/images")).collect();
    let pid = victim.process()?;
    let killed = Instant::now();
    process::kill(pid)?;
    for (i, repo) in repos.iter().enumerate() {
        let tag = format!("after-{round}-{i}");
        let (tag, seed) = (tag.as_str(), 100 * round + i as u64);
        until("a push", Duration::from_secs(20), || async {
            let pushed = push(repo, tag, seed, acknowledged).await;
            if let Err(error) = &pushed {
                println!("{} after {:?}: {error:#}", repo.registry.address(), killed.elapsed());
            }
            pushed.map(Some)
        })
        .await?;
        let took = killed.elapsed();
        ensure!(took <= PUSHES_GO_ON, "the first push through {} took {took:?}", repo.registry.address());
    }
    check_all(&repos, acknowledged).await.context("while it was dead")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_may_die_at_any_time() -> Result<()> {
    let cluster = Options::new(3).no_restart().start().await?;
    let first = cluster.nodes()?;
    let repos: Vec<Repo> = first.iter().map(|node| node.registry().repo("kill/images")).collect();
    let acknowledged = Acknowledged::default();
    let leader = cluster.leading_node().await?;
    // Each in turn, whoever leads among them first, so that it is a leader that dies at least once.
    let mut order = first.clone();
    order.sort_by_key(|node| node.id != leader.id);
    for (round, victim) in (0..).zip(order) {
        let stop = Arc::new(AtomicBool::new(false));
        let pushing = tokio::spawn(keep_pushing(repos.clone(), stop.clone(), acknowledged.clone()));
        let before = count(&acknowledged);
        until("pushes to be under way", Duration::from_secs(20), || async {
            Ok((count(&acknowledged) > before).then_some(()))
        })
        .await?;
        let victim = match victim.pid {
            Some(pid) if process::alive(pid) => victim,
            _ => anyhow::bail!("{} died by itself", victim.name),
        };
        kill_one(&cluster, &victim, round, &acknowledged).await.context(victim.name.clone())?;
        cluster.serve(&victim.config, victim.address()).await.context("start it again")?;
        stop.store(true, Ordering::Relaxed);
        pushing.await?;
        agree(&first).await?;
        check_all(&repos, &acknowledged).await.context("when it was back")?;
    }
    let count = count(&acknowledged);
    ensure!(count > 10, "only {count} pushes were acknowledged in all");
    Ok(())
}
