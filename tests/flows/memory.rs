//! A blob larger than a node's memory may be, through a node that lacks it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::holds;
use clawhub_testkit::content::Content;
use clawhub_testkit::fleet::{Member, Spec};
use clawhub_testkit::{Cluster, process, scale};

/// No node may ever have had more than this in memory.
const LIMIT: u64 = 300 << 20;

fn root_of(content: Content) -> String {
    let mut hash = blake3::Hasher::new();
    content.pieces().for_each(|piece| {
        hash.update(&piece);
    });
    hash.finalize().to_hex().to_string()
}

fn check_memory(pids: &[(String, u32)]) -> Result<()> {
    for (name, pid) in pids {
        let peak = process::peak_memory(*pid)?;
        println!("{name}: at most {} MiB resident", peak >> 20);
        ensure!(peak < LIMIT, "{name} had {} MiB resident", peak >> 20);
    }
    Ok(())
}

/// `CLAWHUB_BLOB_MIB` sets the size; 4096 (and one more MiB, always) is the full measure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_streams_through_a_node_that_lacks_it() -> Result<()> {
    let mib: u64 = scale("CLAWHUB_BLOB_MIB", 512);
    let content = Content { seed: 99, len: (mib + 1) << 20 };
    let limit = Duration::from_secs(60 + mib / 4);
    let cluster = Cluster::start().await?;
    let nodes = cluster.nodes()?;
    let digest = nodes[1].registry().repo("memory/large").push_large(content, limit).await?;

    let home = tempfile::tempdir()?;
    let place = Spec { region: nodes[0].region.clone(), zone: "b".into(), ..Spec::zone(3) };
    let mut fourth = Member::new(home.path(), place)?;
    fourth.start().await?;
    fourth.enter(&nodes[0].data, &nodes[0].peer).await?;
    let root = root_of(content);
    let held = |data: &Path| holds(data, &root);
    ensure!(nodes.iter().any(|node| held(&node.data)), "no node holds the root {root}");
    ensure!(!held(&fourth.data()), "the fourth node has the blob already: nothing would be fetched");

    let pulled = fourth.registry().repo("memory/large").pull_large(&digest, limit).await?;
    ensure!(pulled.len == content.len);
    println!(
        "{} MiB: first byte after {:?}, last after {:?}, {:.0} MiB/s",
        pulled.len >> 20,
        pulled.first_byte,
        pulled.total,
        (pulled.len >> 20) as f64 / pulled.total.as_secs_f64()
    );
    ensure!(pulled.first_byte <= pulled.total / 10, "the first byte took too long: {pulled:?}");

    let mut pids = vec![("fourth".to_owned(), fourth.pid()?)];
    for node in cluster.nodes()? {
        pids.push((node.name.clone(), node.process().context("still the same")?));
    }
    check_memory(&pids)
}
