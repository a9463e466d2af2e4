//! What is done to which node's device, and what everybody is told then.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::holds;
use clawhub_testkit::content::Rng;
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::Member;
use clawhub_testkit::fuse::{self, Faulty};
use clawhub_testkit::until;
use reqwest::{Method, StatusCode};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Where the clients push to.
pub(super) const REPO: &str = "pressure/images";
/// Uploads stop below this; metadata at a small part of it.
pub(super) const SECTIONS: &str = "[storage]\nmin_free = \"256MiB\"\n";
/// Between the two limits.
const LEFT: u64 = 160 * MIB;
/// What fills a device, and what takes the room that its node gives up.
const FILLER: &str = "filler";
const SECOND: &str = "filler-too";
const SOON: Duration = Duration::from_secs(30);

/// What a node's data lies on.
pub(super) enum Device {
    /// All of it on one.
    Whole(Disk),
    /// Each part of the metadata on one of its own, the blobs on the one below: dropped after those that are
    /// mounted in it.
    Apart { raft: Disk, _rest: [Disk; 2], blobs: Disk },
    /// All of it behind a file system that fails when told.
    Behind(Faulty),
}

impl Device {
    pub(super) fn new(number: usize, home: &Path, data: &Path) -> Result<Device> {
        let image = |name: &str| home.join(format!("{number}-{name}.ext4"));
        Ok(match number {
            0 => Device::Whole(Disk::new(&image("all"), 1024 * MIB, data)?),
            1 => {
                let blobs = Disk::new(&image("blobs"), 1024 * MIB, data)?;
                let part = |name: &str| {
                    let at = data.join(name);
                    fs::create_dir(&at)?;
                    Disk::new(&image(name), 384 * MIB, &at)
                };
                Device::Apart { raft: part("raft")?, _rest: [part("state")?, part("local")?], blobs }
            }
            _ => {
                let below = home.join("below");
                fs::create_dir(&below)?;
                Device::Behind(Faulty::mount(&below, data)?)
            }
        })
    }

    /// The disk that this fills.
    fn disk(&self, fault: Fault) -> Result<&Disk> {
        match self {
            Device::Whole(disk) => Ok(disk),
            Device::Apart { raft, .. } if fault == Fault::RaftFull => Ok(raft),
            Device::Apart { blobs, .. } => Ok(blobs),
            Device::Behind(_) => Err(anyhow::anyhow!("no disk")),
        }
    }

    fn faulty(&self) -> Result<&Faulty> {
        match self {
            Device::Behind(faulty) => Ok(faulty),
            _ => Err(anyhow::anyhow!("no faulty file system")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BlobsLow,
    BlobsFull,
    AllFull,
    RaftFull,
    BlobsFail,
    AllFail,
    ReadOnly,
}

impl Fault {
    pub(super) const ALL: [Fault; 7] = [
        Fault::BlobsLow,
        Fault::BlobsFull,
        Fault::AllFull,
        Fault::RaftFull,
        Fault::BlobsFail,
        Fault::AllFail,
        Fault::ReadOnly,
    ];

    /// The node whose device is of the right kind.
    pub(super) fn victim(self) -> usize {
        match self {
            Fault::BlobsLow | Fault::AllFull => 0,
            Fault::BlobsFull | Fault::RaftFull => 1,
            Fault::BlobsFail | Fault::AllFail | Fault::ReadOnly => 2,
        }
    }

    /// Where it is harder for the leader.
    pub(super) fn wants_the_leader(self) -> bool {
        matches!(self, Fault::RaftFull | Fault::AllFail)
    }

    /// Whether there is no room for blobs, so that 507 is a true answer to an upload under way.
    pub(super) fn is_full(self) -> bool {
        matches!(self, Fault::BlobsLow | Fault::BlobsFull | Fault::AllFull)
    }

    /// Whether all that is missing is room for blobs.
    fn is_room_for_blobs(self) -> bool {
        matches!(self, Fault::BlobsLow | Fault::BlobsFull)
    }

    pub(super) fn strike(self, device: &Device) -> Result<()> {
        match self {
            Fault::BlobsLow => device.disk(self)?.fill(FILLER, LEFT),
            Fault::BlobsFull | Fault::AllFull | Fault::RaftFull => device.disk(self)?.fill(FILLER, 0),
            Fault::BlobsFail => {
                // All but metadata, as if that lay on a device of its own.
                for name in ["blobs", "uploads", "partial", "quarantine", "PROBE"] {
                    device.faulty()?.fail(name, fuse::Fault::Io);
                }
                Ok(())
            }
            Fault::AllFail => {
                device.faulty()?.fail("", fuse::Fault::Io);
                Ok(())
            }
            Fault::ReadOnly => {
                device.faulty()?.fail("", fuse::Fault::ReadOnly);
                Ok(())
            }
        }
    }

    pub(super) fn heal(self, device: &Device) -> Result<()> {
        match device {
            Device::Behind(faulty) => {
                faulty.heal();
                Ok(())
            }
            _ => device.disk(self)?.empty(&[FILLER, SECOND]),
        }
    }

    /// Waits until the node and the cluster have noticed.
    pub(super) async fn told(self, members: &[Member], device: &Device) -> Result<&'static str> {
        let (victim, other) = (self.victim(), &members[(self.victim() + 1) % members.len()]);
        match self {
            Fault::BlobsLow | Fault::BlobsFull => {
                storage(&members[victim], "below min_free").await?;
                Ok("its status says so; uploads that begin there go elsewhere, everything else as before")
            }
            Fault::AllFull | Fault::RaftFull => {
                storage(&members[victim], "nearly full").await?;
                leads_not(other, victim).await?;
                // Whoever fills the device takes what the ballast was, too.
                device.disk(self)?.fill(SECOND, 0)?;
                storage(&members[victim], "the device is full").await?;
                counted_out(other, victim).await?;
                Ok("gave up its ballast and the lead, then stepped aside")
            }
            Fault::BlobsFail => {
                storage(&members[victim], "the storage of blobs fails").await?;
                counted_out(other, victim).await?;
                Ok("its copies do not count, it votes and passes through")
            }
            Fault::AllFail | Fault::ReadOnly => {
                unready(&members[victim], "the storage of metadata fails").await?;
                leads_not(other, victim).await?;
                counted_out(other, victim).await?;
                Ok("stepped aside, its copies do not count")
            }
        }
    }

    /// What its node tells clients and operators for as long as it lasts.
    pub(super) async fn shown(self, members: &[Member]) -> Result<()> {
        if self.is_room_for_blobs() || self == Fault::BlobsFail {
            passes_through(members, self.victim()).await?;
        }
        let registry = members[self.victim()].registry();
        let ready = registry.get("/readyz").await?;
        let (status, text) = (ready.status(), ready.text().await?);
        let opened = opens(&members[self.victim()]).await?;
        if self.is_room_for_blobs() {
            ensure!(status == StatusCode::OK, "{status} {text}");
            ensure!(opened == StatusCode::ACCEPTED, "an upload there, kept elsewhere: {opened}");
            return Ok(());
        }
        ensure!(
            status == StatusCode::SERVICE_UNAVAILABLE && text.contains("the storage of"),
            "{status} {text}"
        );
        let tags = registry.get(&registry.repo(REPO).path("tags/list")).await?.status();
        if self == Fault::BlobsFail {
            ensure!(tags == StatusCode::OK, "a list there: {tags}");
            ensure!(opened == StatusCode::ACCEPTED, "an upload there, kept elsewhere: {opened}");
        } else {
            ensure!(tags == StatusCode::SERVICE_UNAVAILABLE, "a list there: {tags}");
            ensure!(opened == StatusCode::SERVICE_UNAVAILABLE, "an upload there: {opened}");
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::BlobsLow => "below min_free",
            Fault::BlobsFull => "a blob volume without a free byte, metadata elsewhere",
            Fault::AllFull => "one full device for everything",
            Fault::RaftFull => "a full Raft volume",
            Fault::BlobsFail => "EIO of the blob folders",
            Fault::AllFail => "EIO of everything",
            Fault::ReadOnly => "read-only",
        })
    }
}

/// What a node says to who wants to bring it bytes.
pub(super) async fn opens(member: &Member) -> Result<StatusCode> {
    let registry = member.registry();
    let open = registry.request(Method::POST, &registry.repo(REPO).path("blobs/uploads/"));
    Ok(open.send().await?.status())
}

/// What is pushed elsewhere is read through the node, which does not keep it.
async fn passes_through(members: &[Member], victim: usize) -> Result<()> {
    let other = members[(victim + 1) % members.len()].registry().repo("pressure/through");
    let bytes = Bytes::from(Rng::new(victim as u64).bytes(3 << 20));
    let digest = other.push_blob(bytes.clone()).await?;
    let read = other.on(&members[victim].registry()).pull_blob(&digest).await?;
    ensure!(read == bytes, "other bytes than were pushed");
    let root = blake3::hash(&bytes).to_hex().to_string();
    ensure!(!holds(&members[victim].data(), &root), "it was kept");
    Ok(())
}

/// Waits until the node says this of its storage.
async fn storage(member: &Member, text: &str) -> Result<()> {
    let said = until("the node to notice", SOON, || async {
        let status = member.admin(&["status"])?;
        let said = status["storage"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains(text), "it says {said:?}");
        Ok(Some(()))
    });
    said.await.with_context(|| format!("{} and {text:?}", member.spec.name))
}

/// Waits until the node says this to who asks whether it is ready: the way to its administration socket leads
/// through the device.
async fn unready(member: &Member, text: &str) -> Result<()> {
    let registry = member.registry();
    let said = until("the node to notice", SOON, || async {
        let said = registry.get("/readyz").await?.text().await?;
        ensure!(said.contains(text), "it says {said:?}");
        Ok(Some(()))
    });
    said.await.with_context(|| format!("{} and {text:?}", member.spec.name))
}

async fn leads_not(other: &Member, number: usize) -> Result<()> {
    until("another leader", SOON, || async {
        Ok(other.leader()?.filter(|id| *id != number as u64 + 1).map(drop))
    })
    .await
}

/// Waits until the log says that the node's copies do not count.
async fn counted_out(other: &Member, number: usize) -> Result<()> {
    until("the others to know", SOON, || async {
        let members: Value = other.admin(&["members"])?;
        Ok((members["members"][number]["failing"] == true).then_some(()))
    })
    .await
}
