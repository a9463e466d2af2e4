//! Two faults at once, on two of three nodes: one dies while another one's disk is slow or full, cut off, or still
//! catching up. For a while nobody may be able to write; no answer is untrue all the same, nothing acknowledged is
//! lost, and all of it ends by itself once the faults have.
//!
//! `CLAWHUB_OVERLAP_ROUNDS` is how many pairs of faults: 4 small, 72 in the full measure.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::fuse::{self, Faulty};
use clawhub_testkit::net::Net;
use clawhub_testkit::{process, scale, until};

use crate::clients::{self, Clients};
use crate::lead::{lead, leader};

const REPO: &str = "overlap/images";
const NODES: usize = 3;
/// Pushes that are acknowledged before the faults and after them.
const PUSHES: usize = 10;
/// How long both faults last together at least, and at most.
const TOGETHER: [u64; 2] = [800, 2500];
/// How much longer a slow disk takes for each write and fsync.
const SLOW: Duration = Duration::from_millis(25);
/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(60);
/// Where blobs and parts of them lie.
const BLOB_FOLDERS: [&str; 3] = ["blobs", "uploads", "partial"];

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Cut,
    Slow,
    /// There is no room for blobs.
    Full,
    /// Its whole device fails.
    Io,
}

impl Fault {
    const ALL: [Fault; 6] = [Fault::Kill, Fault::Pause, Fault::Cut, Fault::Slow, Fault::Full, Fault::Io];
}

/// Two faults, and when the second one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    first: Fault,
    second: Fault,
    /// At the moment when the first one ends, whose node then catches up; otherwise while it lasts.
    after: bool,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.after { "as one comes back from" } else { "while one has" };
        write!(f, "{:?} {when} {:?}", self.second, self.first)
    }
}

impl Pair {
    /// All of them, those that stand for the others first.
    fn all() -> Vec<Pair> {
        let pair = |first, second, after| Pair { first, second, after };
        let foremost = [
            pair(Fault::Slow, Fault::Kill, false),
            pair(Fault::Full, Fault::Cut, false),
            pair(Fault::Kill, Fault::Kill, false),
            pair(Fault::Kill, Fault::Kill, true),
        ];
        let with = |first| Fault::ALL.into_iter().map(move |second| (first, second));
        let every = Fault::ALL.into_iter().flat_map(with);
        let others = every.flat_map(|(one, other)| [false, true].map(|after| pair(one, other, after)));
        let others = others.filter(|pair| !foremost.contains(pair));
        foremost.into_iter().chain(others).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_faults_at_once_lose_nothing_and_no_answer_is_untrue() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Net::refused().or_else(Faulty::unavailable) {
        return crate::skipped("overlap", &format!("no networks or devices can be made here: {why}"));
    }
    let home = tempfile::tempdir()?;
    let mut trial = Trial::start(home.path()).await?;
    let rounds = scale("CLAWHUB_OVERLAP_ROUNDS", 4);
    let proved = trial.all(rounds).await;
    // The devices go before the folder: nothing may be left mounted in it.
    drop(trial);
    // What the nodes wrote is the only trace of how it came to this.
    proved.with_context(|| format!("the nodes' folders are kept in {}", home.keep().display()))
}

/// Three nodes, each on a host and on a device of its own, and clients.
struct Trial {
    // Order matters in the drop: processes, their devices, the network they are in.
    members: Vec<Member>,
    devices: Vec<Faulty>,
    net: Net,
    clients: Clients,
    rng: Rng,
}

impl Trial {
    async fn start(home: &Path) -> Result<Trial> {
        let net = Net::new(NODES)?;
        let (mut members, mut devices) = (Vec::new(), Vec::new());
        for number in 0..NODES {
            let spec = Spec { ip: net.ip(number), prefix: net.prefix(number), ..Spec::zone(number) };
            let member = Member::new(home, spec)?;
            let below = home.join(format!("below-{number}"));
            fs::create_dir(&below)?;
            devices.push(Faulty::mount(&below, &member.data())?);
            members.push(member);
        }
        fleet::gather(&mut members).await?;
        let clients = Clients::start(&members, REPO);
        Ok(Trial { members, devices, net, clients, rng: Rng::new(1) })
    }

    async fn all(&mut self, rounds: usize) -> Result<()> {
        let mut outcome = Ok(());
        let pairs: Vec<Pair> = Pair::all().into_iter().take(rounds).collect();
        for pair in &pairs {
            outcome = self.round(*pair).await.with_context(|| pair.to_string());
            if outcome.is_err() {
                break;
            }
        }
        self.clients.stop().await;
        let there = if outcome.is_ok() { self.clients.read_back().await } else { Ok(()) };
        let figures = clients::figures(&self.clients.history().events());
        crate::seen("overlap", &format!("{} pairs of faults; {figures}", pairs.len()));
        // First of all: a lie may be why the rest failed.
        self.clients.truthful()?;
        outcome.and(there)
    }

    /// One fault, a second one, and both are over, in this order or the other one.
    async fn round(&mut self, pair: Pair) -> Result<()> {
        let (one, other) = self.victims().await?;
        self.clients.pushes(PUSHES, SOON).await.context("before the faults")?;
        self.strike(pair.first, one)?;
        // Of one fault the cluster as a whole takes no harm.
        self.clients.pushes(PUSHES, SOON).await.context("with one fault")?;
        if pair.after {
            self.heal(pair.first, one)?;
            self.strike(pair.second, other)?;
            self.together().await;
            self.heal(pair.second, other)?;
        } else {
            self.strike(pair.second, other)?;
            self.together().await;
            let last_comes_first = self.rng.below(2) == 0;
            if last_comes_first {
                self.heal(pair.second, other)?;
            }
            self.heal(pair.first, one)?;
            if !last_comes_first {
                self.heal(pair.second, other)?;
            }
        }
        for member in &self.members {
            member.ready().await.context("after the faults")?;
        }
        for full in [one, other] {
            self.takes_bytes(full).await?;
        }
        self.clients.pushes(PUSHES, SOON).await.context("after the faults")
    }

    /// Two nodes; one of them leads, the first or the second.
    async fn victims(&mut self) -> Result<(usize, usize)> {
        let one = self.rng.below(NODES);
        let other = (one + 1 + self.rng.below(NODES - 1)) % NODES;
        lead(&self.members, if self.rng.below(2) == 0 { one } else { other }).await?;
        leader(&self.members).await?;
        Ok((one, other))
    }

    async fn together(&mut self) {
        let [least, most] = TOGETHER;
        // A random moment; nothing is waited for.
        let lasts = least + self.rng.next_u64() % (most - least);
        tokio::time::sleep(Duration::from_millis(lasts)).await;
    }

    fn strike(&mut self, fault: Fault, node: usize) -> Result<()> {
        let (history, device) = (self.clients.history(), &self.devices[node]);
        match fault {
            Fault::Kill => {
                history.killed(node);
                self.members[node].kill()?;
            }
            Fault::Pause => process::pause(self.members[node].pid()?)?,
            Fault::Cut => self.net.isolate(node)?,
            Fault::Slow => device.fail("", fuse::Fault::Slow(SLOW)),
            Fault::Full => {
                history.runs_full(node);
                history.killed(node);
                BLOB_FOLDERS.iter().for_each(|folder| device.fail(folder, fuse::Fault::Full));
            }
            Fault::Io => {
                // What its node cannot finish is as unknown as after a death, and its sessions may end.
                history.killed(node);
                device.fail("", fuse::Fault::Io);
            }
        }
        Ok(())
    }

    fn heal(&mut self, fault: Fault, node: usize) -> Result<()> {
        match fault {
            Fault::Kill => self.members[node].launch()?,
            Fault::Pause => process::resume(self.members[node].pid()?)?,
            Fault::Cut => self.net.rejoin(node)?,
            Fault::Slow | Fault::Full => self.devices[node].heal(),
            Fault::Io => {
                self.clients.history().killed(node);
                self.devices[node].heal();
            }
        }
        Ok(())
    }

    /// Waits until a node opens uploads again: one that was full does so a moment after it has room.
    async fn takes_bytes(&self, node: usize) -> Result<()> {
        let registry = self.members[node].registry();
        until("the node to take bytes", SOON, || async {
            let opened = registry.repo(REPO).open().await;
            Ok(opened.is_ok().then_some(()))
        })
        .await?;
        self.clients.history().has_room(node);
        Ok(())
    }
}
