//! Pieces of files that are compared with their digests once more, right before they are sent, because that was not done
//! lately: on a thread that may wait for the device, while the connection waits and nobody else does.
//!
//! In memory; a connection has at most one piece under way.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clawhub_registry::DataFile;
use tokio::task::{JoinHandle, spawn_blocking};

/// A part of a file.
pub(crate) type Part = (DataFile, Range<u64>);

/// What a connection has under way.
#[derive(Default)]
pub(crate) struct Vouching(Option<Task>);

struct Task {
    /// The last of the parts that it looks at: where its open file is in memory, which tells it from others.
    last: (usize, Range<u64>),
    looked: JoinHandle<io::Result<()>>,
}

impl Vouching {
    /// Ready once every part was checked lately.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut parts: Vec<Part>) -> Poll<io::Result<()>> {
        parts.retain(|(file, range)| !file.is_vouched(range));
        let Some((file, range)) = parts.last() else { return Poll::Ready(Ok(())) };
        let last = (address(file), range.clone());
        let task = match &mut self.0 {
            Some(task) if task.last == last => task,
            other => {
                let look = move || parts.into_iter().try_for_each(|(file, range)| file.vouch(range));
                other.insert(Task { last, looked: spawn_blocking(look) })
            }
        };
        let looked = ready!(Pin::new(&mut task.looked).poll(cx));
        self.0 = None;
        // Not asked about once more: where checks are good for very little time, they may be stale already.
        Poll::Ready(looked.unwrap_or_else(|lost| Err(io::Error::other(lost))))
    }
}

fn address(file: &DataFile) -> usize {
    std::ptr::from_ref::<File>(file).addr()
}
