//! The `clawhub-mutant` binary: the same as `clawhub`, with rules that the environment can break.

use std::process::ExitCode;

/// The same as in `clawhub`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clawhub_cli::run(clawhub_node::serve)
}
