//! The `clawhub` binary: gives the command line the node to run.

use std::process::ExitCode;

fn main() -> ExitCode {
    clawhub_cli::run(clawhub_node::serve)
}
