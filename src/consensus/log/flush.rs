//! Group commit: one fsync makes durable everything that was written before it, and everybody who waits for it is
//! told, in order. A crash loses what was written since the last fsync, of which nobody was told.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use clawhub_kv::{Kv, KvError};
use futures::channel::oneshot;
use parking_lot::Mutex;

use crate::Execution;

/// Called once with the result of the sync that covers its write.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Callers that may wait for one sync. A caller beyond them waits for a place, which takes one sync.
const QUEUE: usize = 4096;

/// Syncs the store and tells those who wait, in the order they came. Who calls has written already.
///
/// After a failed sync nobody knows what the device holds: everybody from then on gets the error.
pub(super) struct Flusher {
    executor: Executor,
}

enum Executor {
    /// One thread takes all who wait, syncs once, answers all.
    Thread { queue: Option<SyncSender<Done>>, thread: Option<JoinHandle<()>> },
    /// Everybody syncs by itself, at once: deterministic.
    Inline { kv: Arc<dyn Kv>, fault: Mutex<Option<KvError>> },
}

impl Flusher {
    pub(super) fn new(kv: Arc<dyn Kv>, execution: Execution) -> io::Result<Flusher> {
        let executor = match execution {
            Execution::Inline => Executor::Inline { kv, fault: Mutex::new(None) },
            Execution::Threads => {
                let (queue, waiting) = sync_channel(QUEUE);
                let thread = std::thread::Builder::new().name("raft-log".into());
                let thread = thread.spawn(move || run(&*kv, &waiting))?;
                Executor::Thread { queue: Some(queue), thread: Some(thread) }
            }
        };
        Ok(Flusher { executor })
    }

    /// Calls `done` after the next sync.
    pub(super) fn then(&self, done: Done) -> io::Result<()> {
        match &self.executor {
            Executor::Inline { kv, fault } => {
                let result = sync(&**kv, &mut fault.lock());
                done(result.map_err(io::Error::from));
                Ok(())
            }
            Executor::Thread { queue, .. } => {
                let queue = queue.as_ref().expect("the queue is closed only when the flusher is dropped");
                queue.send(done).map_err(|_| io::Error::other("the flush thread is gone"))
            }
        }
    }

    /// Returns after the next sync.
    pub(super) async fn wait(&self) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.then(Box::new(move |result| {
            // Who waited may have given up.
            let _ = tell.send(result);
        }))?;
        told.await.map_err(|_| io::Error::other("the flush thread is gone"))?
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if let Executor::Thread { queue, thread } = &mut self.executor {
            drop(queue.take());
            // The store is closed when this returns, unless the last handle died on the thread itself.
            let thread = thread.take().filter(|t| t.thread().id() != std::thread::current().id());
            if thread.is_some_and(|t| t.join().is_err()) {
                tracing::error!("the flush thread of the log panicked");
            }
        }
    }
}

fn sync(kv: &dyn Kv, fault: &mut Option<KvError>) -> Result<(), KvError> {
    if fault.is_none() {
        *fault = kv.sync().err();
    }
    fault.clone().map_or(Ok(()), Err)
}

fn run(kv: &dyn Kv, waiting: &Receiver<Done>) {
    let mut fault = None;
    while let Ok(first) = waiting.recv() {
        // Whoever is in the queue by now has written, so this sync covers them all.
        let others: Vec<Done> = waiting.try_iter().take(QUEUE).collect();
        let result = sync(kv, &mut fault);
        if let Err(e) = &result {
            tracing::error!(error = %e, "the log cannot be synced");
        }
        for done in std::iter::once(first).chain(others) {
            done(result.clone().map_err(io::Error::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use clawhub_kv::{Batch, KvErrorKind, KvRead, MemoryKv, Pair};

    use super::*;

    /// Counts syncs, lets none pass until told, fails when told.
    #[derive(Default)]
    struct Slow {
        kv: MemoryKv,
        gate: Mutex<()>,
        syncs: AtomicUsize,
        broken: AtomicBool,
    }

    impl KvRead for Slow {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            self.kv.get(key)
        }
        fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
            self.kv.scan(start, end, limit)
        }
        fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
            self.kv.last(start, end)
        }
    }

    impl Kv for Slow {
        fn write(&self, batch: Batch) -> Result<(), KvError> {
            self.kv.write(batch)
        }
        fn sync(&self) -> Result<(), KvError> {
            let _gate = self.gate.lock();
            self.syncs.fetch_add(1, Ordering::SeqCst);
            if self.broken.load(Ordering::SeqCst) {
                return Err(KvError {
                    kind: KvErrorKind::Io,
                    context: "sync".into(),
                    message: "no device".into(),
                });
            }
            self.kv.sync()
        }
        fn snapshot(&self) -> Box<dyn KvRead + '_> {
            self.kv.snapshot()
        }
        fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
            self.kv.frozen()
        }
        fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
            self.kv.checkpoint(dir)
        }
    }

    #[test]
    fn one_sync_serves_all_who_wait_and_answers_keep_their_order() {
        let kv = Arc::new(Slow::default());
        let flusher = Flusher::new(Arc::clone(&kv) as Arc<dyn Kv>, Execution::Threads).unwrap();
        let (tell, told) = channel();
        let shut = kv.gate.lock();
        for i in 0..100 {
            let tell = tell.clone();
            flusher.then(Box::new(move |r| tell.send((i, r.is_ok())).unwrap())).unwrap();
        }
        drop(shut);
        let answers: Vec<_> = (0..100).map(|_| told.recv().unwrap()).collect();
        assert_eq!(answers, (0..100).map(|i| (i, true)).collect::<Vec<_>>());
        assert!(kv.syncs.load(Ordering::SeqCst) <= 2, "{:?}", kv.syncs);
    }

    #[test]
    fn after_a_failed_sync_nobody_is_told_of_success_again() {
        for execution in [Execution::Threads, Execution::Inline] {
            let kv = Arc::new(Slow::default());
            let flusher = Flusher::new(Arc::clone(&kv) as Arc<dyn Kv>, execution).unwrap();
            kv.broken.store(true, Ordering::SeqCst);
            assert!(futures::executor::block_on(flusher.wait()).is_err());
            kv.broken.store(false, Ordering::SeqCst);
            assert!(futures::executor::block_on(flusher.wait()).is_err());
        }
    }
}
