//! Log lines on their way to a slow reader, bounded in bytes.
//!
//! A thread of its own writes them, as many at once as wait: whoever reads (a pipe, a terminal, a full disk) must not
//! be able to hold up requests. A line that finds the queue full is dropped and counted; one that is too long is cut.
//! In memory: a process that is killed loses the lines of its last moment.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bytes of lines that may wait to be written.
const WAITING: usize = 4 << 20;
/// The longest line, in bytes: a panic's backtrace fits.
const LINE: usize = 32 << 10;
/// What ends a line that was cut.
const CUT: &str = "…\n";

/// What the queue takes: lines that wait, and as many that are being written.
pub const MEMORY: u64 = 2 * WAITING as u64;

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something waits, or the queue was closed.
    more: Condvar,
    /// The thread has ended.
    ended: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    closed: bool,
    ended: bool,
}

impl LogQueue {
    /// A queue whose thread writes to `out`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<LogQueue> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            more: Condvar::new(),
            ended: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let writing = shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all(out))?;
        Ok(LogQueue(shared))
    }

    /// Lines that were dropped because nobody took those before them.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits, for as long as `wait` at most. Lines that come afterwards are dropped.
    pub fn close(&self, wait: Duration) {
        let mut state = self.0.state.lock();
        state.closed = true;
        self.0.more.notify_one();
        self.0.ended.wait_while_for(&mut state, |state| !state.ended, wait);
    }
}

impl Shared {
    fn write_all(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state.lock();
            self.more.wait_while(&mut state, |state| state.waiting.is_empty() && !state.closed);
            if state.waiting.is_empty() {
                state.ended = true;
                self.ended.notify_all();
                return;
            }
            std::mem::swap(&mut state.waiting, &mut lines);
            drop(state);
            // Nobody is left to tell if this fails.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
        }
    }
}

/// One event a call, as `tracing_subscriber` writes them.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (kept, end) = match line.len() {
            0..=LINE => (line, ""),
            _ => (cut(line), CUT),
        };
        let mut state = self.0.state.lock();
        if state.closed || state.waiting.len() + kept.len() + end.len() > WAITING {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            state.waiting.extend_from_slice(kept);
            state.waiting.extend_from_slice(end.as_bytes());
            self.0.more.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The beginning of a line that is too long, up to the end of a character.
fn cut(line: &[u8]) -> &[u8] {
    let mut end = LINE - CUT.len();
    while end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &line[..end]
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for LogQueue {
    type Writer = &'a LogQueue;

    fn make_writer(&'a self) -> &'a LogQueue {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes nothing until it is told to.
    struct Slow {
        go: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Told once; from then on nobody sends any more.
            let _ = self.go.recv();
            self.taken.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody_and_costs_a_bounded_memory() {
        let (go, told) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let queue = LogQueue::start(Slow { go: told, taken: taken.clone() }).unwrap();
        let line = format!("{}\n", "x".repeat(LINE - 1));
        let lines = 3 * WAITING / line.len();
        for _ in 0..lines {
            (&queue).write_all(line.as_bytes()).unwrap();
        }
        assert!(queue.0.state.lock().waiting.len() <= WAITING);
        let dropped = usize::try_from(queue.dropped()).unwrap();
        assert!(dropped > 0);
        drop(go);
        queue.close(Duration::from_secs(60));
        assert_eq!(taken.lock().len(), (lines - dropped) * line.len());
        (&queue).write_all(b"late\n").unwrap();
        assert_eq!(usize::try_from(queue.dropped()).unwrap(), dropped + 1);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_two_characters() {
        for shift in 0..3 {
            let text = format!("{}{}\n", "x".repeat(shift), "€".repeat(LINE));
            let kept = std::str::from_utf8(cut(text.as_bytes())).unwrap();
            assert!(text.starts_with(kept) && kept.len() > LINE - 8 && kept.len() + CUT.len() <= LINE);
        }
    }
}
