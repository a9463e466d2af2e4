//! The node: the only crate that chooses concrete types and puts them together.
//!
//! `run` opens listeners at once: clients get `/healthz` and 503, operators get the administration socket. When
//! the node is a member, or as soon as it becomes one (`node`), the `stack` is built and clients are let in.
//! `reconcilers` starts everything that a member repeats, and `storage` watches the devices. A node whose storage
//! failed and came back lives on in the same process, as after a restart. What a member does is in other crates:
//! this one hands them their parts.
//!
//! State of its own: `FORMAT`, `LOCK` and the certificates in the data directory ([`data_dir`]), and what
//! `node_store` keeps in the `local` store (boot counter, epoch, known peers). A crash loses none of it.

mod base;
mod budget;
pub mod data_dir;
mod error;
mod gauges;
mod health;
mod http;
mod logging;
mod member;
mod metrics;
mod node;
mod node_store;
mod reconcilers;
mod run;
mod stack;
mod stop;
mod storage;
mod stores;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clawhub_config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use data_dir::DataDir;
use error::NodeError;
use run::Then;
use stop::Stop;

/// The exit code of a node that the cluster removed: starting it again is of no use.
const EXIT_REMOVED: u8 = 5;
/// The exit code of a configuration with mistakes, as in sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// Threads that run consensus and nothing else.
const CONSENSUS_THREADS: usize = 2;
/// Between two attempts to live again.
const BETWEEN_LIVES: Duration = Duration::from_secs(5);
/// How long work that nobody waits for may go on when the process ends.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Runs the node that the file describes, until it is told to stop (0), cannot go on (1), or is removed
/// from its cluster (5). A configuration with mistakes is reported on standard error, every mistake on a
/// line of its own (78).
pub fn serve(config: &Path) -> ExitCode {
    let config = match Config::load(config) {
        Ok(config) => config,
        Err(error) => {
            say(&error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = logging::init(&config.log) {
        say(&error);
        return ExitCode::FAILURE;
    }
    logging::abort_on_panic();
    raise_descriptors();
    let done = run_to_end(&config);
    logging::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            match error {
                NodeError::Removed => ExitCode::from(EXIT_REMOVED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// As many files and connections as the system allows: the usual 1024 are for programs that use select(2).
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "the limit of open files stays as it is");
    }
}

/// One life of the node after the other. Everything that a life opened and started is gone before the next
/// one begins: its runtimes take its tasks with them.
fn run_to_end(config: &Config) -> Result<(), NodeError> {
    let signals = runtime("signals", 1)?;
    let stop = Stop::default();
    let heard = signals.block_on(async { stop.on_signals() });
    heard.map_err(|source| NodeError::Fault(format!("signals: {source}")))?;
    for life in 0.. {
        if stop.is_told() {
            break;
        }
        match live(config, &stop, life) {
            Ok(Then::Again) => (),
            Ok(Then::Nothing) => break,
            Err(error) if life > 0 && error.may_pass() => {
                tracing::warn!(%error, "the node cannot live again yet");
                // The clock of this wait is nobody's: the runtimes are gone.
                std::thread::sleep(BETWEEN_LIVES);
            }
            Err(error) => return Err(quarantined(config, error)),
        }
    }
    Ok(())
}

/// Sets a data directory aside whose databases are damaged, and says so instead.
fn quarantined(config: &Config, error: NodeError) -> NodeError {
    if !error.is_damage() {
        return error;
    }
    say(&error);
    let root = &config.node.data;
    match DataDir::quarantine(root, &error.to_string()) {
        Ok(()) => DataDir::open(root).map_or_else(NodeError::DataDir, |_| error),
        Err(kept) => NodeError::DataDir(kept),
    }
}

fn live(config: &Config, stop: &Stop, life: u32) -> Result<Then, NodeError> {
    let main = runtime("node", std::thread::available_parallelism().map_or(2, usize::from).max(2))?;
    let consensus = runtime("consensus", CONSENSUS_THREADS)?;
    let done = main.block_on(run::run(config.clone(), consensus.handle().clone(), stop.life(), life));
    consensus.shutdown_timeout(LAST_WORK);
    main.shutdown_timeout(LAST_WORK);
    done
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, NodeError> {
    let built = Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build();
    built.map_err(|e| NodeError::Fault(format!("no threads: {e}")))
}

/// The last word of a node that does not run. The log may not exist yet, or go elsewhere than a person
/// looks.
fn say(error: &dyn std::fmt::Display) {
    // If standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "clawhub: {error}");
}
