//! The supervisor, on a clock that stands still while anybody has work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{BackOff, Status};

const MS: Duration = Duration::from_millis(1);
const EVERY: Duration = Duration::from_millis(1000);
const REST: Duration = Duration::from_millis(100);

/// What a test's reconciler does in its passes, in turn; then it settles.
#[derive(Clone, Copy)]
enum Act {
    Say(Progress),
    Fail,
    Panic,
}

/// Takes down when each pass or step began.
struct Script {
    began: Arc<Mutex<Vec<u128>>>,
    start: Instant,
    acts: VecDeque<Act>,
    takes: Duration,
    signal: Arc<Notify>,
    scope: Scope,
}

impl Reconciler for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn every(&self) -> Duration {
        EVERY
    }

    fn rest(&self) -> Duration {
        REST
    }

    fn back_off(&self) -> BackOff {
        BackOff { first: 200 * MS, most: 500 * MS }
    }

    async fn wake(&mut self) {
        self.signal.notified().await;
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.began.lock().push(self.start.elapsed().as_millis());
        sleep(self.takes).await;
        match self.acts.pop_front() {
            None => Ok(Progress::Settled),
            Some(Act::Say(progress)) => Ok(progress),
            Some(Act::Fail) => Err("out of order".into()),
            Some(Act::Panic) => panic!("of the script"),
        }
    }
}

struct Stage {
    supervisor: Supervisor,
    leading: watch::Sender<bool>,
    began: Arc<Mutex<Vec<u128>>>,
    signal: Arc<Notify>,
    start: Instant,
}

impl Stage {
    fn play(acts: &[Act], takes: Duration, scope: Scope) -> Stage {
        let (leading, told) = watch::channel(false);
        let mut supervisor = Supervisor::new(told);
        let began = Arc::<Mutex<Vec<u128>>>::default();
        let signal = Arc::new(Notify::new());
        let start = Instant::now();
        let acts = acts.iter().copied().collect();
        let script = Script { began: began.clone(), start, acts, takes, signal: signal.clone(), scope };
        supervisor.start(script);
        Stage { supervisor, leading, began, signal, start }
    }

    async fn at(&self, millis: u64) {
        tokio::time::sleep_until(self.start + Duration::from_millis(millis)).await;
    }

    fn status(&self) -> Status {
        self.supervisor.statuses().all().remove(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_begins_at_once_and_then_on_its_cadence() {
    let stage = Stage::play(&[], 300 * MS, Scope::EveryNode);
    stage.at(3500).await;
    // From beginning to beginning, whatever a pass takes.
    assert_eq!(*stage.began.lock(), [0, 1000, 2000, 3000]);
    let status = stage.status();
    assert_eq!((status.passes, status.failures, status.unsettled), (4, 0, 0));
    assert_eq!(status.phase, Phase::Waiting(stage.start + 4 * EVERY));
    let last = status.last.unwrap();
    assert_eq!((last.took, last.outcome), (300 * MS, Outcome::Settled));
    assert_eq!(status.settled, Some(stage.start + 3300 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_outlasts_its_cadence_rests_and_goes_on() {
    let stage = Stage::play(&[], 1500 * MS, Scope::EveryNode);
    stage.at(4000).await;
    assert_eq!(*stage.began.lock(), [0, 1600, 3200]);
    assert_eq!(stage.status().phase, Phase::Running(stage.start + 3200 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_wake_begins_a_pass_early_but_not_before_its_rest() {
    let stage = Stage::play(&[], 10 * MS, Scope::EveryNode);
    stage.at(500).await;
    stage.signal.notify_one();
    // While the pass that this began runs, and again in the rest after it.
    stage.at(505).await;
    stage.signal.notify_one();
    stage.at(550).await;
    stage.signal.notify_one();
    stage.at(1000).await;
    assert_eq!(*stage.began.lock(), [0, 500, 610]);
}

#[tokio::test(start_paused = true)]
async fn failures_and_what_is_left_over_back_off_until_a_pass_settles() {
    let behind = Act::Say(Progress::Behind);
    let stage = Stage::play(&[Act::Fail, behind, Act::Fail, Act::Fail], Duration::ZERO, Scope::EveryNode);
    stage.at(1500).await;
    assert_eq!(*stage.began.lock(), [0, 200, 600, 1100]);
    let status = stage.status();
    assert_eq!((status.passes, status.failures, status.unsettled), (4, 3, 4));
    assert_eq!(status.last.unwrap().outcome, Outcome::Failed("out of order".to_owned()));
    assert_eq!(status.settled, None);
    stage.at(2700).await;
    assert_eq!(*stage.began.lock(), [0, 200, 600, 1100, 1600, 2600]);
    assert_eq!(stage.status().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn one_for_the_leader_waits_until_this_node_leads() {
    let stage = Stage::play(&[], Duration::ZERO, Scope::Leader);
    stage.at(5000).await;
    assert_eq!(stage.status().phase, Phase::NotLeading);
    stage.leading.send_replace(true);
    stage.at(6500).await;
    stage.leading.send_replace(false);
    stage.at(9000).await;
    stage.leading.send_replace(true);
    stage.at(9500).await;
    assert_eq!(*stage.began.lock(), [5000, 6000, 9000]);
}

#[tokio::test(start_paused = true)]
async fn what_is_over_never_begins_again() {
    let stage = Stage::play(&[Act::Say(Progress::Over)], Duration::ZERO, Scope::EveryNode);
    stage.at(5000).await;
    stage.signal.notify_one();
    stage.at(6000).await;
    assert_eq!(*stage.began.lock(), [0]);
    let status = stage.status();
    assert_eq!((status.phase, status.passes, status.failures), (Phase::Over, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn steps_are_one_pass_and_a_stop_waits_for_the_step_alone() {
    let step = Act::Say(Progress::Step);
    let stage = Stage::play(&[step, step, step], 400 * MS, Scope::EveryNode);
    stage.at(1250).await;
    assert_eq!(*stage.began.lock(), [0, 400, 800, 1200]);
    assert_eq!(stage.status().passes, 0);
    stage.at(1700).await;
    let last = stage.status().last.unwrap();
    assert_eq!((stage.status().passes, last.took), (1, 1600 * MS));

    let stage = Stage::play(&[step; 9], 400 * MS, Scope::EveryNode);
    stage.at(1000).await;
    let (start, began, statuses) = (stage.start, stage.began.clone(), stage.supervisor.statuses());
    stage.supervisor.stop(EVERY).await;
    assert_eq!(start.elapsed(), 1200 * MS);
    assert_eq!(*began.lock(), [0, 400, 800]);
    assert_eq!(statuses.all()[0].phase, Phase::Over);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_what_waits_at_once_and_cuts_off_what_takes_too_long() {
    let waiting = Stage::play(&[], Duration::ZERO, Scope::EveryNode);
    let follower = Stage::play(&[], Duration::ZERO, Scope::Leader);
    let busy = Stage::play(&[], 60 * EVERY, Scope::EveryNode);
    waiting.at(500).await;
    let start = waiting.start;
    waiting.supervisor.stop(EVERY).await;
    follower.supervisor.stop(EVERY).await;
    assert_eq!(start.elapsed(), 500 * MS);
    let statuses = busy.supervisor.statuses();
    busy.supervisor.stop(EVERY).await;
    assert_eq!(start.elapsed(), 1500 * MS);
    assert_eq!(statuses.all()[0].phase, Phase::Over);
}

#[tokio::test(start_paused = true)]
async fn a_panic_shows_in_the_status_and_in_the_stop() {
    let stage = Stage::play(&[Act::Panic], Duration::ZERO, Scope::EveryNode);
    stage.at(500).await;
    assert_eq!(stage.status().phase, Phase::Panicked);
    let stopped = tokio::spawn(stage.supervisor.stop(EVERY)).await;
    assert!(stopped.unwrap_err().is_panic());
}

#[tokio::test(start_paused = true)]
async fn what_accompanies_them_ends_with_them() {
    let (tell, told) = watch::channel(0);
    let (_leading, is_leading) = watch::channel(false);
    let mut supervisor = Supervisor::new(is_leading);
    supervisor.accompany(async move {
        loop {
            sleep(EVERY).await;
            tell.send_modify(|count| *count += 1);
        }
    });
    sleep(3500 * MS).await;
    assert_eq!(*told.borrow(), 3);
    supervisor.stop(EVERY).await;
    assert!(told.has_changed().is_err(), "its sender is gone");
}
