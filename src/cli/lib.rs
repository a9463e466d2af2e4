//! The command line: `serve`, `dev` and `cluster`.
//!
//! Owns what people and scripts see of the binary: arguments, tables, JSON, exit codes. It knows a
//! running node only through its administration socket; `serve` is handed in by the binary, so that
//! nothing here depends on the node.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line does")]

mod admin;
mod answers;
mod cluster;
mod dev;
mod exit;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use exit::Failure;

/// A registry cluster: every node serves the whole OCI API.
#[derive(Debug, Parser)]
#[command(name = "clawhub", version, about, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(ServeArgs),
    /// Run a cluster of several nodes on this machine, for trying out and for tests.
    Dev(dev::DevArgs),
    /// Administer a cluster through a node on this machine.
    Cluster(cluster::ClusterArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Die when the process of this id, the parent, does.
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
}

/// Runs the command that the process was started with. `serve` runs a node from a configuration file
/// until it is told to stop.
pub fn run(serve: impl FnOnce(&Path) -> ExitCode) -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => match follow_parent(args.with_parent) {
            Ok(()) => return serve(&args.config),
            Err(failure) => Err(failure),
        },
        Command::Dev(args) => dev::run(&args),
        Command::Cluster(args) => cluster::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("clawhub: {failure}");
            failure.code()
        }
    }
}

/// Asks the kernel to kill this process when its parent ends, however it ends.
fn follow_parent(parent: Option<u32>) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| Failure::failed(e.to_string()))?;
    // The parent may have gone before the kernel was asked.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) { Ok(()) } else { Err(Failure::failed("the parent process is gone")) }
}

/// A runtime for a command: one thread is enough, and the thread that starts children must outlive
/// them, because the kernel ties their death signal to it.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tokens_are_not_taken_from_the_command_line() {
        for argv in [
            &["clawhub", "cluster", "join", "--data", "d", "--peer", "h:1", "--token", "x"][..],
            &["clawhub", "cluster", "join", "--data", "d", "--peer", "h:1", "x"],
        ] {
            assert!(Cli::try_parse_from(argv).is_err(), "{argv:?}");
        }
        assert!(Cli::try_parse_from(["clawhub", "cluster", "join", "--data", "d", "--peer", "h:1"]).is_ok());
    }
}
