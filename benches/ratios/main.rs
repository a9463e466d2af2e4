//! Compares, in one run on one machine, a three-node cluster (load on a follower) with nginx serving the
//! same bytes as plain files and with Distribution 3.1.2, and counts fsyncs beside. `make bench` prints
//! the table of docs/performance.md.
//!
//! Absolute figures say more about the machine than about the programs; ratios of one run hold up. The
//! three take turns, several rounds each, and the median counts.
#![expect(clippy::print_stdout, reason = "the table is the result")]

mod fsyncs;
mod load;
mod others;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::Node;
use clawhub_testkit::content::Content;
use clawhub_testkit::{Cluster, Repo, manifest, scale};
use clawhub_types::Digest;

/// What is measured, ready to be asked: addresses and paths of the same bytes everywhere.
struct Setup {
    nginx: others::Server,
    distribution: others::Server,
    cluster: Cluster,
    follower: Node,
    small: Digest,
    large: Digest,
    dir: tempfile::TempDir,
}

const REPO: &str = "bench/image";
const MIB: u64 = 1 << 20;

fn small() -> Content {
    Content { seed: 1, len: MIB }
}

/// `CLAWHUB_BENCH_MIB` sets the size of the large blob; 1024 is the measure.
fn large() -> Content {
    Content { seed: 2, len: scale("CLAWHUB_BENCH_MIB", 1024) * MIB }
}

/// Pushes both blobs and a tagged manifest.
async fn fill(repo: &Repo) -> Result<(Digest, Digest)> {
    let small = repo.push_large(small(), Duration::from_secs(60)).await?;
    let large_digest = repo.push_large(large(), Duration::from_secs(300)).await?;
    let config = repo.push_blob(manifest::CONFIG_BYTES).await?;
    let image = manifest::Image::new(&config, manifest::CONFIG_BYTES.len());
    let image = image.layer(&small, usize::try_from(MIB)?).bytes();
    repo.push_manifest("v1", manifest::OCI_MANIFEST, &image).await?;
    Ok((small, large_digest))
}

fn write_file(path: &Path, content: Content) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    content.pieces().try_for_each(|piece| std::io::Write::write_all(&mut file, &piece))?;
    Ok(file.sync_all()?)
}

async fn setup() -> Result<Setup> {
    let dir = tempfile::Builder::new().prefix("clawhub-bench-").tempdir()?;
    write_file(&dir.path().join("small"), small())?;
    write_file(&dir.path().join("large"), large())?;
    let nginx = others::nginx(dir.path()).await.context("nginx")?;
    let distribution = others::distribution(dir.path()).await.context("Distribution")?;
    let cluster = Cluster::start().await?;
    let follower = cluster.follower().await?;
    let (small, large) = fill(&follower.registry().repo(REPO)).await.context("fill the cluster")?;
    let there = fill(&distribution.registry().repo(REPO)).await.context("fill Distribution")?;
    ensure!(there == (small.clone(), large.clone()), "the same bytes everywhere");
    Ok(Setup { nginx, distribution, cluster, follower, small, large, dir })
}

/// One line of the table: what, and for each contestant its figure (`None`: does not apply).
struct Row {
    what: &'static str,
    unit: &'static str,
    clawhub: f64,
    nginx: Option<f64>,
    distribution: Option<f64>,
}

impl Row {
    fn print(&self) {
        let show = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.0}"));
        let ratio = |value: Option<f64>| {
            value.map_or("–".to_owned(), |other| format!("{:.2}", self.clawhub / other))
        };
        println!(
            "| {} | {} | {:.0} | {} | {} | {} | {} |",
            self.what,
            self.unit,
            self.clawhub,
            show(self.nginx),
            show(self.distribution),
            ratio(self.nginx),
            ratio(self.distribution),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets each of `urls` take its turn, `rounds` times; the median of each.
async fn take_turns<F>(urls: &[String], measure: impl Fn(String) -> F) -> Result<Vec<f64>>
where
    F: Future<Output = Result<f64>>,
{
    let rounds = scale("CLAWHUB_BENCH_ROUNDS", 3);
    let mut figures = vec![Vec::new(); urls.len()];
    for _ in 0..rounds {
        for (url, figures) in urls.iter().zip(&mut figures) {
            figures.push(measure(url.clone()).await?);
        }
    }
    Ok(figures.into_iter().map(median).collect())
}

async fn pulls(setup: &Setup) -> Result<()> {
    let urls = |blob: &str, file: &str| {
        [
            format!("http://{}/v2/{REPO}/blobs/{blob}", setup.follower.address()),
            format!("http://{}/{file}", setup.nginx.address()),
            format!("http://{}/v2/{REPO}/blobs/{blob}", setup.distribution.address()),
        ]
    };
    let figures = take_turns(&urls(&setup.small.to_string(), "small"), |url| load::wrk(url, 16)).await?;
    let row = |what, unit, figures: Vec<f64>| Row {
        what,
        unit,
        clawhub: figures[0],
        nginx: Some(figures[1]),
        distribution: Some(figures[2]),
    };
    row("blob 1 MiB × 16 connections", "MiB/s", figures).print();
    let urls = urls(&setup.large.to_string(), "large");
    // A large upload goes past the page cache, and the files of the others went through it: each is read once
    // before it counts.
    for url in &urls {
        load::download(url.clone()).await?;
    }
    let figures = take_turns(&urls, load::download).await?;
    row("blob 1 GiB × 1", "MiB/s", figures).print();
    let tags = [setup.follower.address(), setup.distribution.address()]
        .map(|address| format!("http://{address}/v2/{REPO}/manifests/v1"));
    let figures = take_turns(&tags, |url| load::wrk(url, 16)).await?;
    Row {
        what: "manifest GET by tag × 16",
        unit: "1/s",
        clawhub: figures[0],
        nginx: None,
        distribution: Some(figures[1]),
    }
    .print();
    Ok(())
}

/// A push of the large blob against what the machine needs for its parts.
async fn pushes(setup: &Setup) -> Result<()> {
    let file = setup.dir.path().join("large");
    let rounds = scale("CLAWHUB_BENCH_ROUNDS", 3);
    let (mut pushed, mut there, mut copied, mut hashed) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        copied.push(load::two_copies(&file, setup.dir.path()).await?);
        hashed.push(load::hash(&file)?);
        // Bytes that the store has not seen, or there would be nothing to write.
        load::make_new(&file, round)?;
        let digest = load::digest(&file)?;
        pushed.push(load::upload(&setup.follower.registry().repo("bench/push"), &file, &digest).await?);
        there.push(load::upload(&setup.distribution.registry().repo("bench/push"), &file, &digest).await?);
    }
    let (pushed, there) = (median(pushed), median(there));
    let (copied, hashed) = (median(copied), median(hashed));
    println!();
    println!("| push of 1 GiB | seconds |");
    println!("|---|---|");
    println!("| ClawHub, two fsynced copies | {pushed:.2} |");
    println!("| two copies by dd, side by side, fsynced | {copied:.2} |");
    println!("| one SHA-256 pass | {hashed:.2} |");
    println!("| Distribution, one copy, not fsynced | {there:.2} |");
    println!("| ClawHub / the slower of dd and SHA-256 | {:.2} |", pushed / copied.max(hashed));
    Ok(())
}

async fn syncs(setup: &Setup) -> Result<()> {
    let nodes = setup.cluster.nodes()?.iter().map(Node::process).collect::<Result<Vec<_>>>()?;
    let here = setup.follower.registry().repo("bench/syncs");
    let there = setup.distribution.registry().repo("bench/syncs");
    println!();
    println!("| fsync and fdatasync calls, all nodes together | ClawHub | Distribution |");
    println!("|---|---|---|");
    let ours = fsyncs::per_push(&nodes, &here).await?;
    let theirs = fsyncs::per_push(&[setup.distribution.pid()], &there).await?;
    println!("| per push of an image with one 100 KiB layer | {ours:.1} | {theirs:.1} |");
    let ours = fsyncs::per_tag(&nodes, &here).await?;
    let theirs = fsyncs::per_tag(&[setup.distribution.pid()], &there).await?;
    println!("| per tag written | {ours:.1} | {theirs:.1} |");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let setup = setup().await?;
    println!("| what | unit | ClawHub | nginx | Distribution | to nginx | to Distribution |");
    println!("|---|---|---|---|---|---|---|");
    pulls(&setup).await?;
    pushes(&setup).await?;
    syncs(&setup).await
}
