//! The devices of one node, with its ballast.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ballast::Ballast;
use crate::condition::{Condition, Part, Seen, judge, short_below};
use crate::look::{Look, all_of};
use crate::volume::Volume;

/// Sound looks in a row that end a first failure. Each further life takes twice as many, so that a device
/// that comes and goes does not drag the node along.
const SOUND_LOOKS: u32 = 3;
/// The most of them that a life of the node takes.
const MOST_LOOKS: u32 = 60;

/// Where a node keeps what; each folder may lie on a device of its own.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Votes and log entries; the ballast lies here, too.
    pub log: PathBuf,
    /// The applied state.
    pub state: PathBuf,
    /// What the node alone knows.
    pub local: PathBuf,
    /// The bytes.
    pub blobs: PathBuf,
}

/// Looks at the devices of one node, and remembers what was found.
pub struct Devices {
    /// The first is that of the log, where the ballast lies.
    metadata: Vec<Volume>,
    blobs: Volume,
    ballast: Ballast,
    /// How much of the device the ballast took at the last look, bytes.
    held: AtomicU64,
    /// Which life of the process this is, from 0.
    life: u32,
    condition: Mutex<Condition>,
}

impl Devices {
    /// The devices below these folders, taken to be sound, with a ballast of `ballast` bytes. `life` counts the lives
    /// of the node in this process, from 0.
    ///
    /// # Errors
    /// If a device does not take a file.
    pub fn open(folders: Folders, ballast: u64, life: u32) -> io::Result<Devices> {
        for folder in [&folders.log, &folders.state] {
            // The stores would make them a little later.
            std::fs::create_dir_all(folder)?;
        }
        let ballast = Ballast::new(&folders.log, ballast);
        Ok(Devices {
            metadata: Volume::distinct([folders.log, folders.state, folders.local])?,
            blobs: Volume::open(folders.blobs)?,
            ballast,
            held: AtomicU64::default(),
            life,
            condition: Mutex::default(),
        })
    }

    /// What is known now.
    pub fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// How much of the device the ballast took at the last look, bytes.
    pub fn ballast(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Blocking. Looks at the devices of metadata, and takes the ballast or leaves it as was found.
    pub fn look_at_metadata(&self) -> Look {
        let sound = self.condition().metadata == Part::Sound;
        if !sound {
            self.note(self.ballast.give_up());
        }
        let held = self.ballast.held();
        let seen = all_of(self.metadata.iter().map(Volume::look), held);
        // Not where taking it is what makes the room short.
        if sound && matches!(seen, Look::Room(room) if room >= short_below(self.ballast.bytes())) {
            self.note(self.ballast.take());
        }
        self.held.store(self.ballast.held(), Ordering::Relaxed);
        seen
    }

    /// Blocking. Looks at the device of blobs.
    pub fn look_at_blobs(&self) -> Look {
        self.blobs.look()
    }

    /// What a look means, after what is known.
    pub fn judge(&self, seen: &Seen) -> Condition {
        judge(&self.condition(), seen, self.ballast.bytes())
    }

    /// Notes what is known now.
    pub fn set_condition(&self, now: Condition) {
        *self.condition.lock() = now;
    }

    fn note(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::debug!(%error, "the ballast is not as it should be");
        }
    }

    /// Sound looks in a row that end a failure.
    pub fn looks_needed(&self) -> u32 {
        SOUND_LOOKS.saturating_mul(1 << self.life.min(16)).min(MOST_LOOKS)
    }
}
