//! Work that takes as long as it takes, for a peer that waits: it is told every two seconds how it goes, and what it limits
//! is silence.
//!
//! Owns the reading end of a mirror's stream, at the upload's owner. Nothing here outlives the stream.

use std::pin::pin;
use std::time::Duration;

use clawhub_peer::frame::{FrameError, Message, read_message, write_message};
use clawhub_wire::blob as pb;
use pb::mirror_reply::Outcome;
use quinn::{RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout_at};

/// How often a peer that waits is told.
const REPORT: Duration = Duration::from_secs(2);
/// Answers that were not asked for, held at once. There are none.
const ANSWERS: usize = 1;
/// How long a partner may say nothing at all: its owner may have nothing for it to do.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// When to tell next. One for each stream.
pub(crate) fn reports() -> Interval {
    let mut reports = interval(REPORT);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reports
}

/// Does something, and tells the peer meanwhile what there is to say. If the peer leaves, the work is done all the same.
pub(crate) async fn telling<T, M: Message>(
    send: &mut SendStream,
    reports: &mut Interval,
    say: impl Fn() -> Option<M>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = reports.tick() => {
                if let Some(message) = say()
                    && write_message(send, &message).await.is_err()
                {
                    return work.await;
                }
            }
        }
    }
}

/// How much of a mirror's stream its partner has, and since when.
#[derive(Clone, Copy)]
struct Arrived {
    bytes: u64,
    at: Instant,
}

/// What a partner says of a mirror: how far it is, and its answers. Read by a task of its own, which ends with this.
pub(crate) struct Replies {
    answers: mpsc::Receiver<Result<Outcome, FrameError>>,
    arrived: watch::Receiver<Arrived>,
    _reading: JoinSet<()>,
}

impl Replies {
    pub(crate) fn of(recv: RecvStream) -> Replies {
        let (answer, answers) = mpsc::channel(ANSWERS);
        let (arrives, arrived) = watch::channel(Arrived { bytes: 0, at: Instant::now() });
        let mut reading = JoinSet::new();
        reading.spawn(read(recv, answer, arrives));
        Replies { answers, arrived, _reading: reading }
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`FrameError`] if the stream has ended.
    pub(crate) async fn next(&mut self) -> Result<Outcome, FrameError> {
        let gone = || FrameError::Stream("it has ended".to_owned());
        self.answers.recv().await.unwrap_or_else(|| Err(gone()))
    }

    /// Completes when nothing more has arrived for so long, from now on, although there is more than that: so many bytes
    /// are on their way or there.
    pub(crate) fn stalled(&self, limit: Duration, sent: u64) -> impl Future<Output = ()> + use<> {
        let mut arrived = self.arrived.clone();
        let mut since = Instant::now();
        async move {
            loop {
                if let Ok(Ok(())) = timeout_at(since + limit, arrived.changed()).await {
                    since = arrived.borrow_and_update().at;
                    continue;
                }
                // It may have come early: the stream has ended, which whoever waits for an answer hears.
                sleep_until(since + limit).await;
                if arrived.borrow().bytes < sent {
                    return;
                }
                since = Instant::now();
            }
        }
    }
}

/// Reads until the stream ends, or nobody wants to know.
async fn read(
    mut recv: RecvStream,
    answer: mpsc::Sender<Result<Outcome, FrameError>>,
    arrives: watch::Sender<Arrived>,
) {
    loop {
        let reply: Result<pb::MirrorReply, _> = read_message(&mut recv, FOREVER).await;
        let reply = match reply.map(|reply| reply.outcome) {
            Ok(Some(Outcome::Progress(bytes))) => {
                if bytes > arrives.borrow().bytes {
                    arrives.send_replace(Arrived { bytes, at: Instant::now() });
                }
                continue;
            }
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Err(FrameError::Malformed("an empty reply".to_owned())),
            Err(error) => Err(error),
        };
        let last = reply.is_err();
        if answer.send(reply).await.is_err() || last {
            return;
        }
    }
}
