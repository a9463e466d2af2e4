//! `clawhub dev`: a cluster of node processes on this machine, for trying out and for tests.
//!
//! Owns a folder: `nodeK/config.toml` and `nodeK/data/` for each node, and `cluster.json`, which exists
//! only while the cluster has been brought up and says where everything is. What nodes log comes out
//! on standard error, each line under the node's name. The nodes are ordinary ones, children of this
//! process that the kernel kills with it. The same folder starts again with its data; without one,
//! everything lies in a temporary folder that goes when the command ends.

mod bootstrap;
mod children;
mod layout;
mod manifest;
mod ports;
mod wan;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use clawhub_relay::Shape;
use clawhub_types::Durability;
use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, runtime};
use children::{Children, Event};
use layout::Node;
use manifest::Manifest;

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes, each in a region of its own; what the folder holds already, or 3. One or two keep a push on
    /// one disk only (durability local).
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: Option<u16>,
    /// The folder of the cluster; a temporary one if left out.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// HTTP port of the first node, the others follow; 0 for any free ones. What the folder's
    /// configurations say already, or 5000.
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Put the nodes far apart: this round trip between any two of them, as `80ms`, `80ms,1gbit`, or with jitter and
    /// loss `400ms~80ms,1gbit,1%`. They run with profile `wan` then. On Linux only.
    #[arg(long, value_name = "ROUND-TRIP[,RATE]")]
    wan: Option<Shape>,
    /// Leave a node that dies dead, instead of starting it again after a second.
    #[arg(long)]
    no_restart: bool,
}

/// Runs a cluster until the process is told to stop.
pub(crate) fn run(args: &DevArgs) -> Result<(), Failure> {
    // Dropped last, when the nodes that write into it are gone.
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("clawhub-dev-").tempdir()?),
    };
    let folder = match (&args.data, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two is set above"),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // Children and cluster.json need paths that hold wherever they are read.
    let folder = folder.canonicalize()?;
    let _lock = lock(&folder)?;
    let mut nodes = layout::prepare(&folder, args.nodes, args.http_port)?;
    layout::check_http(&nodes)?;
    // Outlives the nodes, which speak through it.
    let _relay = args.wan.map(|shape| wan::between(&mut nodes, shape)).transpose()?;
    let done = runtime()?.block_on(bring_up(&folder, nodes, !args.no_restart));
    Manifest::remove(&folder)?;
    if let Some(temporary) = temporary {
        temporary.close()?;
    }
    done
}

/// Keeps a second `dev` off the folder.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("dev.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Failure::failed(format!("{} is in use by another clawhub dev", folder.display())))?;
    Ok(file)
}

/// Starts the nodes, makes them a cluster, and keeps them running until a signal or a fatal failure.
/// The children are gone when this returns.
async fn bring_up(folder: &Path, nodes: Vec<Node>, restart: bool) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut stop = std::pin::pin!(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    });

    // What an earlier run left is no longer true, and its absence tells watchers to wait.
    Manifest::remove(folder)?;
    let mut children = Children::start(&nodes, restart)?;
    let done = tokio::select! {
        () = &mut stop => Ok(()),
        done = keep_up(folder, &nodes, &mut children) => done,
    };
    println!("stopping");
    children.stop().await;
    done
}

/// Bootstraps while watching the children, then watches for ever.
async fn keep_up(folder: &Path, nodes: &[Node], children: &mut Children) -> Result<(), Failure> {
    let cluster = {
        let mut cluster = std::pin::pin!(bootstrap::run(nodes));
        loop {
            tokio::select! {
                cluster = &mut cluster => break cluster?,
                event = children.event() => {
                    report(nodes, &event);
                    if let Event::Ended { node, .. } = event {
                        let name = &nodes[node].name;
                        return Err(Failure::failed(format!("{name} ended before the cluster was up")));
                    }
                }
            }
        }
    };
    let mut manifest = Manifest::new(nodes, cluster.ids);
    for (at, pid) in children.pids().into_iter().enumerate() {
        manifest.set_pid(at, pid);
    }
    manifest.write(folder)?;
    print!("{}", manifest.summary());
    println!("{}", promise(cluster.durability));
    println!("ready; {} says where everything is", folder.join("cluster.json").display());
    loop {
        let event = children.event().await;
        report(nodes, &event);
        match event {
            Event::Started { node, pid } => manifest.set_pid(node, Some(pid)),
            Event::Ended { node, .. } => manifest.set_pid(node, None),
        }
        manifest.write(folder)?;
    }
}

/// What a push to a cluster of this durability outlives.
fn promise(durability: Durability) -> &'static str {
    match durability {
        Durability::Local => {
            "durability local: a push outlives a crash of every node, but not the loss of a node's disk"
        }
        Durability::Zone => "durability zone: a push outlives the loss of any one zone",
        Durability::Region => "durability region: a push outlives the loss of any one region",
    }
}

/// Says what happened to a child; the first start is no news.
fn report(nodes: &[Node], event: &Event) {
    match event {
        Event::Started { node, pid } => println!("{} started again, process {pid}", nodes[*node].name),
        Event::Ended { node, how } => {
            eprintln!("{} ended: {how}", nodes[*node].name);
        }
    }
}
