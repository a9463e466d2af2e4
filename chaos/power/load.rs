//! Clients that push images without a break, and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::{self, Content, Rng};
use clawhub_testkit::manifest::{Image, OCI_MANIFEST};
use clawhub_testkit::{Registry, Repo, until};
use clawhub_types::Digest;
use reqwest::StatusCode;
use tokio::task::JoinHandle;

/// Clients of each node.
const WRITERS: usize = 2;
/// Images up to this size follow each other without a break. After a larger one a client rests so long that
/// it pushes this many bytes in a second, so that the disks of a long run stay small.
const SMALL: u64 = 512 << 10;
const RATE: u64 = 4 << 20;
/// After a failure a client waits for this long.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How long answers may take to come, an election and a start included.
const ANSWERED: Duration = Duration::from_secs(60);
/// Larger manifests than this are kept as blobs.
const IN_THE_LOG: usize = 64 << 10;

/// Something that a node said it has.
pub(super) struct Object {
    pub(super) repo: String,
    /// Below the repository: `blobs/DIGEST` or `manifests/DIGEST`.
    pub(super) path: String,
    body: Body,
}

enum Body {
    Blob(Content),
    Manifest(Bytes),
}

impl Object {
    pub(super) fn bytes(&self) -> Bytes {
        match &self.body {
            Body::Blob(content) => content.bytes(),
            Body::Manifest(bytes) => bytes.clone(),
        }
    }

    /// The name of its files; none for a manifest that lives in the log.
    pub(super) fn root(&self) -> Option<String> {
        match &self.body {
            Body::Manifest(bytes) if bytes.len() <= IN_THE_LOG => None,
            _ => Some(blake3::hash(&self.bytes()).to_hex().to_string()),
        }
    }
}

/// A tag that one client moves. After an outcome that it does not know the client takes another one, so that
/// of each it is known exactly where it may point.
#[derive(Default)]
pub(super) struct Tag {
    pub(super) repo: String,
    pub(super) name: String,
    acked: Option<Digest>,
    unknown: Option<Digest>,
}

impl Tag {
    /// Whether it may point there now.
    ///
    /// # Errors
    /// If not, with where it should.
    pub(super) fn check(&self, found: &Option<Digest>) -> Result<()> {
        let Tag { acked, unknown, .. } = self;
        let may = found == acked || (unknown.is_some() && found == unknown);
        let name = format!("{}:{}", self.repo, self.name);
        ensure!(may, "{name} is {found:?}, was acknowledged as {acked:?}, perhaps moved to {unknown:?}");
        Ok(())
    }
}

/// All clients.
pub(super) struct Load {
    /// None while they run.
    writers: Vec<Writer>,
    objects: Vec<Arc<Object>>,
}

/// The clients at work. They stop when this is dropped.
pub(super) struct Running {
    state: Arc<State>,
    tasks: Vec<JoinHandle<Writer>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    /// Manifests acknowledged.
    acked: AtomicUsize,
}

impl Load {
    pub(super) fn new(nodes: &[Registry], seed: u64) -> Load {
        let clients = nodes.iter().flat_map(|node| [node; WRITERS]).enumerate();
        let writer = |(number, node): (usize, &Registry)| Writer {
            repo: node.repo(&format!("power/{number}")),
            rng: Rng::new(seed ^ ((number as u64 + 1) << 32)),
            objects: Vec::new(),
            tags: Vec::new(),
            images: 0,
            refused: Vec::new(),
        };
        Load { writers: clients.map(writer).collect(), objects: Vec::new() }
    }

    pub(super) fn start(&mut self) -> Running {
        let state = Arc::new(State::default());
        let tasks = self.writers.drain(..).map(|writer| tokio::spawn(writer.run(state.clone())));
        Running { tasks: tasks.collect(), state }
    }

    /// Lets every client finish the push it is at.
    ///
    /// # Errors
    /// If a node did not know a blob any more that it had acknowledged.
    pub(super) async fn stop(&mut self, mut running: Running) -> Result<()> {
        running.state.stop.store(true, Ordering::Release);
        for task in std::mem::take(&mut running.tasks) {
            let mut writer = task.await?;
            self.objects.append(&mut writer.objects);
            self.writers.push(writer);
        }
        let refused: Vec<&str> =
            self.writers.iter().flat_map(|w| w.refused.iter().map(String::as_str)).collect();
        ensure!(refused.is_empty(), "LOST: manifests of acknowledged blobs are refused: {refused:?}");
        Ok(())
    }

    /// Everything acknowledged, in the order of the rounds.
    pub(super) fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.writers.iter().flat_map(|writer| &writer.tags)
    }

    /// Images acknowledged, MiB of them, pushes of which nobody knows.
    pub(super) fn figures(&self) -> (usize, u64, usize) {
        let size = |object: &Arc<Object>| match &object.body {
            Body::Blob(content) => content.len,
            Body::Manifest(bytes) => bytes.len() as u64,
        };
        let images = self.writers.iter().map(|writer| writer.images).sum();
        let unknown = self.tags().filter(|tag| tag.unknown.is_some()).count();
        (images, self.objects.iter().map(size).sum::<u64>() >> 20, unknown)
    }
}

impl Running {
    /// Waits until so many more images were acknowledged.
    pub(super) async fn answers(&self, count: usize) -> Result<()> {
        let acked = || self.state.acked.load(Ordering::Acquire);
        let goal = acked() + count;
        until("pushes to be acknowledged", ANSWERED, || async { Ok((acked() >= goal).then_some(())) }).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

/// One client, with a repository of its own at one node.
struct Writer {
    repo: Repo,
    rng: Rng,
    objects: Vec<Arc<Object>>,
    /// The last one is in use, unless its outcome is unknown.
    tags: Vec<Tag>,
    images: usize,
    /// What should not have been refused.
    refused: Vec<String>,
}

impl Writer {
    async fn run(mut self, state: Arc<State>) -> Writer {
        while !state.stop.load(Ordering::Acquire) {
            let wait = match self.push().await {
                Ok(bytes) => {
                    self.images += 1;
                    state.acked.fetch_add(1, Ordering::AcqRel);
                    Duration::from_millis(bytes.saturating_sub(SMALL) * 1000 / RATE)
                }
                Err(_) => AFTER_FAILURE,
            };
            tokio::time::sleep(wait).await;
        }
        self
    }

    /// Pushes an image and answers its size. After an error nobody knows what of it is there.
    async fn push(&mut self) -> Result<u64> {
        let config = self.blob(300).await?;
        let mut image = Image::new(&config.digest(), 300);
        let mut size = 0;
        for len in self.layers() {
            let layer = self.blob(len).await?;
            image = image.layer(&layer.digest(), usize::try_from(len)?);
            size += len;
        }
        if self.rng.below(8) == 0 {
            // Too large for the log: kept as a blob.
            image = image.annotation("padding", &hex(&mut self.rng, IN_THE_LOG));
        }
        self.manifest(image.bytes().into()).await?;
        Ok(size)
    }

    /// Mostly small ones; some of several MiB; some so large that they are written past the page cache.
    fn layers(&mut self) -> Vec<u64> {
        let rng = &mut self.rng;
        let mut up_to = |least: u64, most: u64| least + rng.next_u64() % (most - least);
        match up_to(0, 40) {
            0 => vec![up_to(10 << 20, 20 << 20)],
            1..=2 => vec![up_to(1 << 20, 6 << 20), up_to(1, 100 << 10)],
            _ => (0..up_to(1, 3)).map(|_| up_to(1, 100 << 10)).collect(),
        }
    }

    async fn blob(&mut self, len: u64) -> Result<Content> {
        let content = Content { seed: self.rng.next_u64(), len };
        let digest = if len < 8 << 20 {
            self.repo.push_blob(content.bytes()).await?
        } else {
            self.repo.push_large(content, ANSWERED).await?
        };
        self.keep(format!("blobs/{digest}"), Body::Blob(content));
        Ok(content)
    }

    async fn manifest(&mut self, bytes: Bytes) -> Result<()> {
        if self.tags.last().is_none_or(|tag| tag.unknown.is_some()) {
            let name = format!("t{}", self.tags.len());
            self.tags.push(Tag { repo: self.repo.name.clone(), name, ..Tag::default() });
        }
        let digest = content::sha256(&bytes);
        let tag = self.tags.last_mut().context("just made sure")?;
        tag.unknown = Some(digest.clone());
        let answer = self.repo.put_manifest(&tag.name, OCI_MANIFEST, &bytes).await?;
        let status = answer.status();
        if status.is_client_error() {
            let why = answer.text().await.unwrap_or_default();
            self.refused.push(format!("{}: {status}: {why}", self.repo.registry.address()));
        }
        ensure!(status == StatusCode::CREATED, "{status}");
        (tag.acked, tag.unknown) = (Some(digest.clone()), None);
        self.keep(format!("manifests/{digest}"), Body::Manifest(bytes));
        Ok(())
    }

    fn keep(&mut self, path: String, body: Body) {
        self.objects.push(Arc::new(Object { repo: self.repo.name.clone(), path, body }));
    }
}

/// Text that does not compress to nothing.
fn hex(rng: &mut Rng, len: usize) -> String {
    rng.bytes(len).iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}
