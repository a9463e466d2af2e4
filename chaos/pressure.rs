//! Devices that run full, fail, or become read-only under load, one node at a time: no answer is untrue,
//! nothing acknowledged is lost, the node says what is wrong, the others go on, and once the device is well
//! again so is the node, in the same process.
//!
//! `CLAWHUB_PRESSURE_SECONDS` is how long each fault lasts at least; 20 in the full measure.

mod faults;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::fuse::Faulty;
use clawhub_testkit::{scale, until};
use reqwest::StatusCode;

use crate::clients::{self, Clients};
use crate::lead::lead;
use faults::{Device, Fault};

/// Pushes that are acknowledged before a fault, while it lasts, and after it.
const PUSHES: usize = 12;
/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(60);
/// How soon after a fault writes are acknowledged again.
const RESUME: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn devices_that_fail_lose_nothing_and_no_answer_is_untrue() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable().or_else(Faulty::unavailable) {
        return crate::skipped("pressure", &format!("no devices can be made here: {why}"));
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
    clients: Clients,
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
        let clients = Clients::start(&members, faults::REPO);
        let lasts = Duration::from_secs(scale("CLAWHUB_PRESSURE_SECONDS", 2));
        Ok(Trial { members, devices, clients, lasts })
    }

    async fn all(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for fault in Fault::ALL {
            outcome = self.round(fault).await.with_context(|| format!("{fault:?}"));
            if outcome.is_err() {
                break;
            }
        }
        self.clients.stop().await;
        let there = if outcome.is_ok() { self.clients.read_back().await } else { Ok(()) };
        crate::seen("pressure", &format!("in all {}", clients::figures(&self.clients.history().events())));
        self.clients.truthful()?;
        outcome.and(there)
    }

    /// A device fails and becomes well again, under load.
    async fn round(&mut self, fault: Fault) -> Result<()> {
        self.clients.pushes(PUSHES, SOON).await.context("before the fault")?;
        let victim = fault.victim();
        if fault.wants_the_leader() {
            lead(&self.members, victim).await?;
        }
        let history = self.clients.history();
        let pid = self.members[victim].pid()?;
        if fault.is_full() {
            history.runs_full(victim);
        }
        // What its node cannot finish is as unknown as after a death, and its sessions may end.
        history.killed(victim);
        let began = Instant::now();
        fault.strike(&self.devices[victim])?;
        self.clients.pushes(1, SOON).await?;
        let resumed = began.elapsed();
        let told = fault.told(&self.members, &self.devices[victim]).await?;
        self.clients.pushes(PUSHES, SOON).await.context("while the fault lasts")?;
        tokio::time::sleep(self.lasts.saturating_sub(began.elapsed())).await;
        fault.shown(&self.members).await.context("while the fault lasts")?;
        history.killed(victim);
        let healed = Instant::now();
        fault.heal(&self.devices[victim])?;
        self.well(victim).await?;
        history.has_room(victim);
        let back = healed.elapsed();
        ensure!(self.members[victim].pid()? == pid, "another process");
        self.clients.pushes(PUSHES, SOON).await.context("after the fault")?;
        crate::seen(
            "pressure",
            &format!(
                "{fault}: {told}; writes went on after {resumed:.1?}; ready {back:.1?} after it was over"
            ),
        );
        ensure!(resumed <= RESUME, "writes went on after {resumed:?} only");
        Ok(())
    }

    /// Waits until the node is like the others again, takes bytes, and they know.
    async fn well(&self, number: usize) -> Result<()> {
        let (member, other) = (&self.members[number], &self.members[(number + 1) % 3]);
        until("the node to be well", SOON, || async {
            let status = member.admin(&["status"])?;
            let members = other.admin(&["members"])?;
            let failing = members["members"][number]["failing"].as_bool();
            ensure!(status["storage"] == "sound" && failing != Some(true), "{status} {members}");
            let opened = faults::opens(member).await?;
            ensure!(opened == StatusCode::ACCEPTED, "an upload there: {opened}");
            Ok(member.registry().ready().await.then_some(()))
        })
        .await
    }
}
