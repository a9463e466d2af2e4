//! Devices that run full, fail, or become read-only under load, one node at a time: no answer is untrue,
//! nothing acknowledged is lost, the node says what is wrong, the others go on, and once the device is well
//! again so is the node, in the same process.
//!
//! `CLAWHUB_PRESSURE_SECONDS` is how long each fault lasts at least; 20 in the full measure.

mod faults;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::fuse::Faulty;
use clawhub_testkit::history::check::violations;
use clawhub_testkit::history::workload::{Client, Target};
use clawhub_testkit::history::{Events, History};
use clawhub_testkit::{scale, until};
use tokio::task::JoinSet;

use faults::{Device, Fault};

const CLIENTS: usize = 6;
/// Pushes that are acknowledged before a fault, while it lasts, and after it.
const PUSHES: usize = 12;
/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(60);
/// How soon after a fault writes are acknowledged again.
const RESUME: Duration = Duration::from_secs(5);
/// So many untrue answers are shown.
const SHOWN: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn devices_that_fail_lose_nothing_and_no_answer_is_untrue() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable().or_else(Faulty::unavailable) {
        crate::seen("pressure", &format!("SKIPPED: no devices can be made here: {why}"));
        return Ok(());
    }
    let home = tempfile::tempdir()?;
    let mut trial = Trial::start(home.path()).await?;
    let proved = trial.all().await;
    // The devices go before the folder: nothing may be left mounted in it.
    drop(trial);
    // What the nodes wrote is the only trace of how it came to this.
    proved.with_context(|| format!("the nodes' folders are kept in {}", home.keep().display()))
}

/// Three nodes with devices of three kinds, and clients.
struct Trial {
    /// Before their devices: they must have stopped when those go.
    members: Vec<Member>,
    devices: Vec<Device>,
    target: Target,
    lasts: Duration,
}

impl Trial {
    async fn start(home: &Path) -> Result<Trial> {
        let (mut members, mut devices) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let spec = Spec { sections: faults::SECTIONS.into(), ..Spec::zone(number) };
            let member = Member::new(home, spec)?;
            devices.push(Device::new(number, home, &member.data())?);
            members.push(member);
        }
        fleet::gather(&mut members).await?;
        let nodes = members.iter().map(Member::registry).collect();
        let target = Target { nodes, repo: "pressure/images".into(), history: Arc::new(History::default()) };
        let lasts = Duration::from_secs(scale("CLAWHUB_PRESSURE_SECONDS", 2));
        Ok(Trial { members, devices, target, lasts })
    }

    async fn all(&mut self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for id in 0..CLIENTS {
            clients.spawn(Client::new(self.target.clone(), id).run(stop.clone()));
        }
        let mut outcome = Ok(());
        for fault in Fault::ALL {
            outcome = self.round(fault).await.with_context(|| format!("{fault:?}"));
            if outcome.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        clients.join_all().await;
        let missing = if outcome.is_ok() { self.target.read_back().await } else { Vec::new() };
        let events = self.target.history.events();
        let wrong = violations(&events);
        crate::seen("pressure", &figures(&events));
        let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
        ensure!(wrong.is_empty(), "{} answers cannot be true:\n{shown}", wrong.len());
        outcome?;
        ensure!(missing.is_empty(), "{} acknowledged and not there: {missing:#?}", missing.len());
        Ok(())
    }

    /// A device fails and becomes well again, under load.
    async fn round(&mut self, fault: Fault) -> Result<()> {
        self.pushes(PUSHES).await.context("before the fault")?;
        let victim = fault.victim();
        if fault.wants_the_leader() {
            self.lead(victim).await?;
        }
        let pid = self.members[victim].pid()?;
        if fault.is_full() {
            self.target.history.runs_full();
        }
        // What its node cannot finish is as unknown as after a death, and its sessions may end.
        self.target.history.killed(victim);
        let began = Instant::now();
        fault.strike(&self.devices[victim])?;
        self.pushes(1).await?;
        let resumed = began.elapsed();
        let told = fault.told(&self.members, &self.devices[victim]).await?;
        self.pushes(PUSHES).await.context("while the fault lasts")?;
        tokio::time::sleep(self.lasts.saturating_sub(began.elapsed())).await;
        fault.shown(&self.members).await.context("while the fault lasts")?;
        self.target.history.killed(victim);
        let healed = Instant::now();
        fault.heal(&self.devices[victim])?;
        self.well(victim).await?;
        let back = healed.elapsed();
        ensure!(self.members[victim].pid()? == pid, "another process");
        self.pushes(PUSHES).await.context("after the fault")?;
        crate::seen(
            "pressure",
            &format!(
                "{fault}: {told}; writes went on after {resumed:.1?}; ready {back:.1?} after it was over"
            ),
        );
        ensure!(resumed <= RESUME, "writes went on after {resumed:?} only");
        Ok(())
    }

    /// Waits until so many more pushes are acknowledged.
    async fn pushes(&self, count: usize) -> Result<()> {
        let goal = self.target.history.events().pushes() + count;
        until("pushes to be acknowledged", SOON, || async {
            Ok((self.target.history.events().pushes() >= goal).then_some(()))
        })
        .await
    }

    async fn lead(&self, number: usize) -> Result<()> {
        let id = number as u64 + 1;
        until("the leader to be the one", SOON, || async {
            if self.members[0].leader()? == Some(id) {
                return Ok(Some(()));
            }
            self.members[number].admin(&["transfer-leader", &id.to_string()])?;
            Ok(None)
        })
        .await
    }

    /// Waits until the node is like the others again, and they know.
    async fn well(&self, number: usize) -> Result<()> {
        let (member, other) = (&self.members[number], &self.members[(number + 1) % 3]);
        until("the node to be well", SOON, || async {
            let status = member.admin(&["status"])?;
            let members = other.admin(&["members"])?;
            let failing = members["members"][number]["failing"].as_bool();
            ensure!(status["storage"] == "sound" && failing != Some(true), "{status} {members}");
            Ok(member.registry().ready().await.then_some(()))
        })
        .await
    }
}

fn figures(events: &Events) -> String {
    let classes = events.classes();
    let answers: Vec<String> = classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    format!("{} pushes acknowledged in all; answers: {}", events.pushes(), answers.join(", "))
}
