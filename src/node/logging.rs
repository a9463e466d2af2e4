//! Log lines on standard error, and what becomes of a panic.
//!
//! A thread of its own writes them: whoever reads standard error (a pipe, a terminal, a full disk) must
//! not be able to hold up requests. Lines that find the queue full are dropped and counted. A killed
//! process loses the lines of its last moment; one that stops, or panics, does not.

use std::io::{BufWriter, IsTerminal};
use std::sync::OnceLock;

use clawhub_config::{LogConfig, LogFormat};
use parking_lot::Mutex;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait to be written.
const WAITING_LINES: usize = 16 * 1024;
/// What they take, at 256 bytes each; a line is seldom longer.
pub(crate) const MEMORY: u64 = WAITING_LINES as u64 * 256;
/// What is written at once while many lines wait.
const WRITE_BYTES: usize = 64 * 1024;

/// The writing thread, until [`flush`] ends it.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Sends log lines to standard error from here on. Called once, before anything logs.
pub(crate) fn init(config: &LogConfig) {
    let errors = std::io::stderr();
    let colours = errors.is_terminal();
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES);
    let (writer, guard) = queue.thread_name("log").finish(BufWriter::with_capacity(WRITE_BYTES, errors));
    *WRITER.lock() = Some(guard);
    // Set once, since this is called once.
    let _ = DROPPED.set(writer.error_counter());
    // openraft tells every step it takes, and every message to a dead peer that failed. A directive of
    // the file's own overrides this one. The level was checked when the file was read.
    let filter = EnvFilter::try_new(format!("openraft=error,{}", config.level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match config.format {
        LogFormat::Text => lines.with_ansi(colours).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Writes what is still waiting, for a second at most. What is logged afterwards is lost.
pub(crate) fn flush() {
    drop(WRITER.lock().take());
}

/// Lines that were dropped because nobody took those before them.
pub(crate) fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
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
