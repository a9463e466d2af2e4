//! The loads: wrk for many connections, curl for one, dd and one hash pass for what a push cannot do
//! without.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::manifest::{OCI_INDEX, OCI_MANIFEST};
use clawhub_testkit::oci::expect;
use clawhub_testkit::{Repo, scale};
use clawhub_types::Digest;
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

const MIB: f64 = 1_048_576.0;

async fn output(command: &mut Command) -> Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {said}", command.as_std().get_program());
    Ok(String::from_utf8(output.stdout)?)
}

/// GETs `url` over `connections` connections for a while: MiB/s of a blob, answers a second of anything
/// smaller. An answer that is not 2xx fails the run.
pub(crate) async fn wrk(url: String, connections: u32) -> Result<f64> {
    let seconds = scale("CLAWHUB_BENCH_SECONDS", 8);
    let mut command = Command::new("wrk");
    command.args([
        "-t",
        "2",
        "-c",
        &connections.to_string(),
        "-d",
        &format!("{seconds}s"),
        "--timeout",
        "30s",
    ]);
    command.args(["-H", &format!("Accept: {OCI_MANIFEST}, {OCI_INDEX}"), &url]);
    let text = output(&mut command).await?;
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{url}:\n{text}");
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    if url.contains("/manifests/") {
        return Ok(field("Requests/sec:").context("no rate")?.parse()?);
    }
    let rate = field("Transfer/sec:").context("no rate")?;
    let units = [("GB", 1024.0), ("MB", 1.0), ("KB", 1.0 / 1024.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, factor)| Some((rate.strip_suffix(unit)?, *factor)))
        .with_context(|| rate.to_owned())?;
    Ok(number.parse::<f64>()? * unit)
}

/// GETs `url` once: MiB/s.
pub(crate) async fn download(url: String) -> Result<f64> {
    let mut command = Command::new("curl");
    command.args(["-fsS", "-o", "/dev/null", "-w", "%{time_total} %{size_download}", &url]);
    let text = output(&mut command).await?;
    let (seconds, bytes) = text.split_once(' ').context(text.clone())?;
    Ok(bytes.parse::<f64>()? / MIB / seconds.parse::<f64>()?)
}

/// Pushes a file by POST, one streamed PATCH and PUT: seconds.
pub(crate) async fn upload(repo: &Repo, file: &Path, digest: &Digest) -> Result<f64> {
    let start = Instant::now();
    let upload = repo.open().await?;
    let url = if upload.location.starts_with("http") {
        upload.location.clone()
    } else {
        format!("http://{}{}", repo.registry.address(), upload.location)
    };
    let mut command = Command::new("curl");
    command.args(["-fsS", "-X", "PATCH", "-H", "Content-Type: application/octet-stream", "-H", "Expect:"]);
    command.args(["-o", "/dev/null", "-w", "%header{location}", "-T"]).arg(file).arg(&url);
    let location = output(&mut command).await?;
    let upload = clawhub_testkit::oci::Upload { location };
    let put = repo.registry.request(Method::PUT, &upload.closing(digest)).header("content-length", 0);
    expect(put.timeout(std::time::Duration::from_secs(300)).send().await?, StatusCode::CREATED).await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Two copies of a file, written and fsynced by `dd` side by side: seconds.
pub(crate) async fn two_copies(file: &Path, dir: &Path) -> Result<f64> {
    let copy = |name: &str| {
        let mut command = Command::new("dd");
        command.arg(format!("if={}", file.display())).arg(format!("of={}", dir.join(name).display()));
        command.args(["bs=1M", "conv=fsync", "status=none"]);
        async move { output(&mut command).await }
    };
    let start = Instant::now();
    tokio::try_join!(copy("copy-1"), copy("copy-2"))?;
    let took = start.elapsed().as_secs_f64();
    std::fs::remove_file(dir.join("copy-1"))?;
    std::fs::remove_file(dir.join("copy-2"))?;
    Ok(took)
}

/// The SHA-256 digest of a file.
pub(crate) fn digest(file: &Path) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::Sha256(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// One pass of SHA-256 over a file: seconds.
pub(crate) fn hash(file: &Path) -> Result<f64> {
    let start = Instant::now();
    digest(file)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Changes a file a little, so that it is content nobody has seen.
pub(crate) fn make_new(file: &Path, round: usize) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.seek(SeekFrom::Start(4096))?;
    Ok(file.write_all(format!("round {round}").as_bytes())?)
}
