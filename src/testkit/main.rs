//! What scripts need of the testkit: a cluster around a command, the conformance runs, images.
#![expect(clippy::print_stdout, reason = "a command line prints")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use clawhub_testkit::cluster::Options;
use clawhub_testkit::proxy::Proxy;
use clawhub_testkit::{conformance, image};

#[derive(Parser)]
#[command(about = "Helpers of ClawHub's tests")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a cluster and a proxy before it, run a command with NODE1, NODE2, … and PROXY (host:port),
    /// PROXY_LOG and TESTKIT (this program) in its environment, stop both; ends with the command's exit
    /// code.
    Run {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Keep data and logs here.
        #[arg(long)]
        data: Option<PathBuf>,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Run a conformance suite against a follower and through the proxy.
    Conformance {
        /// The compiled 1.1 suite.
        #[arg(long = "suite-1.1", value_name = "FILE", required_unless_present = "suite")]
        suite_1_1: Option<PathBuf>,
        /// The 2026 suite, run for OCI_VERSION 1.1 and dev.
        #[arg(long, value_name = "FILE")]
        suite: Option<PathBuf>,
        /// The document that lists the checks that may be skipped.
        #[arg(long, default_value = "docs/protocols/oci.md")]
        skips: PathBuf,
        /// Where the suites' reports go.
        #[arg(long)]
        results: Option<PathBuf>,
    },
    /// Write an OCI layout with an image (`single`) and an index (`multi`) of Debian packages.
    Image {
        /// The folder to write.
        dir: PathBuf,
        /// One layer each.
        #[arg(required = true)]
        packages: Vec<PathBuf>,
    },
    /// Annotate the zstd:chunked image of an OCI layout so that clients read it in parts.
    AnnotateChunked {
        /// The layout.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Image { dir, packages } => make_image(&dir, &packages),
        Verb::AnnotateChunked { dir } => image::annotate_chunked(&dir).map(|digest| {
            println!("{digest}");
            0
        }),
        Verb::Run { nodes, data, command } => block_on(run(nodes, data, command)),
        Verb::Conformance { suite_1_1, suite, skips, results } => {
            let results = results.unwrap_or_else(conformance::default_results);
            block_on(run_suites(suite_1_1, suite, skips, results))
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            println!("clawhub-testkit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `future`, or drops it on an interrupt: dropping is what stops the processes.
fn block_on(future: impl Future<Output = Result<u8>>) -> Result<u8> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = future => done,
            _ = tokio::signal::ctrl_c() => Ok(130),
            _ = terminate.recv() => Ok(143),
        }
    })
}

fn make_image(dir: &Path, packages: &[PathBuf]) -> Result<u8> {
    let (single, multi) = image::from_packages(dir, packages)?;
    println!("single {single}\nmulti {multi}");
    Ok(0)
}

async fn run(nodes: usize, data: Option<PathBuf>, command: Vec<String>) -> Result<u8> {
    let mut options = Options::new(nodes);
    if let Some(data) = &data {
        options = options.data(data);
    }
    let cluster = options.start().await?;
    let addresses: Vec<String> = cluster.nodes()?.iter().map(|node| node.address().to_owned()).collect();
    let scratch = tempfile::tempdir()?;
    let log = scratch.path().join("proxy.log");
    let proxy = Proxy::start_logged(addresses.clone(), &log).await?;
    let mut child = tokio::process::Command::new(&command[0]);
    child.args(&command[1..]).env("PROXY", proxy.address()).env("PROXY_LOG", &log);
    child.env("TESTKIT", std::env::current_exe()?);
    for (i, address) in addresses.iter().enumerate() {
        child.env(format!("NODE{}", i + 1), address);
    }
    let status = child.kill_on_drop(true).status().await.with_context(|| command.join(" "))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

async fn run_suites(
    suite_1_1: Option<PathBuf>,
    suite: Option<PathBuf>,
    skips: PathBuf,
    results: PathBuf,
) -> Result<u8> {
    let cluster = Options::new(3).start().await?;
    let targets = conformance::targets(&cluster).await?;
    let mut wrong = Vec::new();
    let mut note = |name: String, line: String, verdict: Result<()>| {
        println!("{name}: {line}");
        if let Err(error) = verdict {
            println!("{name}: {error:#}");
            wrong.push(name);
        }
    };
    for target in &targets {
        if let Some(suite) = &suite_1_1 {
            let outcome = conformance::run_1_1(suite, target, &results).await?;
            let verdict = conformance::judge_1_1(&outcome);
            note(format!("suite 1.1, {}", target.name), outcome.line(), verdict);
        }
        let Some(suite) = &suite else { continue };
        let allowed = conformance::allowed_skips(&std::fs::read_to_string(&skips).unwrap_or_default());
        for version in ["1.1", "dev"] {
            let (outcome, statuses) = conformance::run_rewrite(suite, version, target, &results).await?;
            let verdict = conformance::judge_rewrite(&outcome, &statuses, &allowed);
            note(format!("suite 2026 as {version}, {}", target.name), outcome.line(), verdict);
        }
    }
    ensure!(wrong.is_empty(), "not conformant: {} (reports in {})", wrong.join("; "), results.display());
    Ok(0)
}
