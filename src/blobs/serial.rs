//! Work on one stream of chunks, one after the other, on the blocking threads: a strand.
//!
//! A [`Serial`] occupies a thread only while it has work, so idle sessions cost none, and several of them over
//! the same chunks use several cores. How much may be queued is the pusher's business: a chunk carries
//! the permit for its bytes and gives it back when the last one has dropped it. Nothing here outlives the process.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::BlobError;

/// Bytes on their way through the strands, and the room they take.
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    /// Of its upload, and of all.
    pub(crate) _room: [OwnedSemaphorePermit; 2],
}

/// What is done with each chunk.
pub(crate) trait Worker: Send + 'static {
    fn chunk(&mut self, bytes: &[u8]);
}

enum Job<W> {
    Chunk(Arc<Chunk>),
    Call(Box<dyn FnOnce(&mut W) + Send>),
}

struct State<W> {
    queue: VecDeque<Job<W>>,
    /// At home while no thread drains the queue.
    worker: Option<W>,
    /// The worker panicked: nothing queued is ever done.
    dead: bool,
}

pub(crate) struct Serial<W>(Arc<Mutex<State<W>>>);

impl<W: Worker> Serial<W> {
    pub(crate) fn new(worker: W) -> Serial<W> {
        Serial(Arc::new(Mutex::new(State { queue: VecDeque::new(), worker: Some(worker), dead: false })))
    }

    pub(crate) fn push(&self, chunk: Arc<Chunk>) {
        self.enqueue(Job::Chunk(chunk));
    }

    /// Runs `call` after everything pushed before, and answers what it returns.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut W) -> R + Send + 'static,
    ) -> Result<R, BlobError> {
        let (answer, answered) = oneshot::channel();
        // A caller that went away does not need its answer.
        self.enqueue(Job::Call(Box::new(move |worker| drop(answer.send(call(worker))))));
        answered.await.map_err(|_| BlobError::Worker("it panicked".into()))
    }

    fn enqueue(&self, job: Job<W>) {
        let mut state = self.0.lock();
        if state.dead {
            return;
        }
        state.queue.push_back(job);
        if let Some(worker) = state.worker.take() {
            drop(state);
            let shared = self.0.clone();
            tokio::task::spawn_blocking(move || drain(Alive(shared), worker));
        }
    }
}

/// Marks the strand dead if the thread that drains it unwinds, so that nobody waits for it.
struct Alive<W>(Arc<Mutex<State<W>>>);

impl<W> Drop for Alive<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.dead = true;
            state.queue.clear();
        }
    }
}

fn drain<W: Worker>(serial: Alive<W>, mut worker: W) {
    loop {
        let jobs = {
            let mut state = serial.0.lock();
            if state.queue.is_empty() {
                state.worker = Some(worker);
                return;
            }
            std::mem::take(&mut state.queue)
        };
        for job in jobs {
            match job {
                Job::Chunk(chunk) => worker.chunk(&chunk.bytes),
                Job::Call(call) => call(&mut worker),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum(u64);
    impl Worker for Sum {
        fn chunk(&mut self, bytes: &[u8]) {
            bytes.iter().for_each(|byte| self.0 = self.0.wrapping_mul(31) + u64::from(*byte));
        }
    }

    async fn push(serial: &Serial<Sum>, byte: u8) {
        let all = Arc::new(tokio::sync::Semaphore::new(2));
        let room = [all.clone().acquire_owned().await.unwrap(), all.acquire_owned().await.unwrap()];
        serial.push(Arc::new(Chunk { bytes: Bytes::from(vec![byte]), _room: room }));
    }

    #[tokio::test]
    async fn work_is_done_in_order_and_calls_see_all_before_them() {
        let serial = Serial::new(Sum(0));
        let mut expected = 0u64;
        for byte in 0..200u8 {
            push(&serial, byte).await;
            expected = expected.wrapping_mul(31) + u64::from(byte);
        }
        assert_eq!(serial.call(|sum| sum.0).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_panicking_worker_fails_its_callers_and_leaves_nobody_waiting() {
        let serial = Serial::new(Sum(0));
        let first = serial.call(|_| -> u64 { panic!("expected by the test") }).await;
        assert!(matches!(first, Err(BlobError::Worker(_))));
        let second = serial.call(|sum| sum.0).await;
        assert!(matches!(second, Err(BlobError::Worker(_))));
    }
}
