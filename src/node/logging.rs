//! Log lines on standard error, and what becomes of a panic.
//!
//! They wait in a [`LogQueue`]. A killed process loses the lines of its last moment; one that stops, or panics, does
//! not.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use clawhub_config::{LogConfig, LogFormat};
use clawhub_log_queue::LogQueue;
use tracing_subscriber::EnvFilter;

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Sends log lines to standard error from here on. Called once, before anything logs.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn init(config: &LogConfig) -> std::io::Result<()> {
    let errors = std::io::stderr();
    let colours = errors.is_terminal();
    let queue = LogQueue::start(errors)?;
    // Set once, since this is called once.
    let _ = QUEUE.set(queue.clone());
    // openraft tells every step it takes, and every message to a dead peer that failed. A directive of
    // the file's own overrides this one. The level was checked when the file was read.
    let filter = EnvFilter::try_new(format!("openraft=error,{}", config.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue);
    match config.format {
        LogFormat::Text => lines.with_ansi(colours).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Writes what is still waiting, for a second at most. What is logged afterwards is lost.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.close(LAST_LINES);
    }
}

/// Lines that were dropped because nobody took those before them.
pub(crate) fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// Ends the process at the first panic, anywhere: half a node, say one that answers clients and has
/// lost its log writer, is worse than none.
pub(crate) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "panic: the node aborts");
        flush();
        std::process::abort();
    }));
}
