//! The `clawhub` binary: gives the command line the node to run.

use std::process::ExitCode;

/// Small allocations from many threads are most of what a node does between two system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clawhub_cli::run(clawhub_node::serve)
}
