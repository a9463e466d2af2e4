//! Log lines on standard error, and what becomes of a panic.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Sends log lines to standard error from here on. Called once, before anything logs.
pub(crate) fn init(config: &LogConfig) {
    // openraft tells every step it takes, and every message to a dead peer that failed. A directive of
    // the file's own overrides this one. The level was checked when the file was read.
    let filter = EnvFilter::try_new(format!("openraft=error,{}", config.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Ends the process at the first panic, anywhere: half a node, say one that answers clients and has
/// lost its log writer, is worse than none.
pub(crate) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "panic: the node aborts");
        std::process::abort();
    }));
}
