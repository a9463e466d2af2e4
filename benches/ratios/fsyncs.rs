//! Counts fsync and fdatasync calls of running processes with strace, per push and per tag.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::manifest::{self, Image};
use clawhub_testkit::{Repo, process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How often each is done while it is counted.
const TIMES: u32 = 20;

/// A strace attached to processes, writing its summary when it is told to stop.
struct Count {
    strace: Child,
    summary: tempfile::NamedTempFile,
}

impl Count {
    async fn start(pids: &[u32]) -> Result<Self> {
        let summary = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-o"]).arg(summary.path());
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let mut strace = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().context("strace")?;
        let mut said = BufReader::new(strace.stderr.take().context("a pipe")?).lines();
        for _ in pids {
            // One line for each process that it is attached to.
            tokio::time::timeout(Duration::from_secs(10), said.next_line()).await??;
        }
        // Nobody reads on; strace must not wait for that.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Ok(Count { strace, summary })
    }

    /// The calls so far.
    async fn stop(mut self) -> Result<u64> {
        let pid = self.strace.id().context("strace ended by itself")?;
        process::interrupt(pid)?;
        tokio::time::timeout(Duration::from_secs(10), self.strace.wait()).await??;
        let text = std::fs::read_to_string(self.summary.path())?;
        let calls = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let counted = matches!(words.last(), Some(&("fsync" | "fdatasync")));
            counted.then(|| words.get(3).and_then(|calls| calls.parse::<u64>().ok())).flatten()
        });
        Ok(calls.sum())
    }
}

/// Calls for each push of an image: config, one layer, manifest with a tag.
pub(crate) async fn per_push(pids: &[u32], repo: &Repo) -> Result<f64> {
    repo.push_image("warm", &[Bytes::from_static(b"warm")]).await?;
    let count = Count::start(pids).await?;
    for n in 0..TIMES {
        let layer = Bytes::from(Rng::new(u64::from(n)).bytes(100 << 10));
        repo.push_image(&format!("v{n}"), &[layer]).await?;
    }
    Ok(count.stop().await? as f64 / f64::from(TIMES))
}

/// Calls for each tag that is moved to another manifest.
pub(crate) async fn per_tag(pids: &[u32], repo: &Repo) -> Result<f64> {
    let config = repo.push_blob(manifest::CONFIG_BYTES).await?;
    let image = Image::new(&config, manifest::CONFIG_BYTES.len());
    let versions: Vec<Vec<u8>> =
        (0..2).map(|n| image.clone().annotation("n", &n.to_string()).bytes()).collect();
    for version in &versions {
        repo.push_manifest("moving", manifest::OCI_MANIFEST, version).await?;
    }
    let count = Count::start(pids).await?;
    for version in versions.iter().cycle().take(TIMES as usize) {
        repo.push_manifest("moving", manifest::OCI_MANIFEST, version).await?;
    }
    Ok(count.stop().await? as f64 / f64::from(TIMES))
}
