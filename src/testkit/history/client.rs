//! Clients that push, mount, move, delete, list and read all the time, in two repositories, on the same tags and,
//! in part, of the same blobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_types::{Algorithm, Digest};
use reqwest::header::{CONTENT_TYPE, ETAG};
use reqwest::{Method, StatusCode};

use super::register::Value;
use super::shared::{self, Blob};
use super::workload::{Asked, Target};
use super::{Condition, Key, Op, Outcome, Pushed, Session, Thing};
use crate::content::{Rng, sha256, sha512};
use crate::manifest::{Descriptor, Image, OCI_MANIFEST};

/// What a client leaves between two things that it does: the nodes are to die busy, not overloaded.
const PACE: Duration = Duration::from_millis(150);
/// How often a push is begun again.
const ATTEMPTS: usize = 4;
/// Tags of each repository. Few, so that their writers meet.
const TAGS: usize = 4;
/// What makes a manifest too large for the log.
const FILL: usize = 70_000;

/// One client.
pub struct Client {
    target: Target,
    id: usize,
    rng: Rng,
    /// The node that it writes through, until that one fails it.
    home: usize,
    pushes: u64,
    /// What it was last told of each tag.
    seen: BTreeMap<Key, Value>,
}

/// What somebody wants to push.
struct Wanted {
    repo: String,
    /// By its digest if there is none.
    tag: Option<String>,
    condition: Condition,
    layers: Vec<Blob>,
    large: bool,
    subject: Option<Digest>,
}

/// How an attempt to push ended.
enum Attempt {
    Done,
    /// Something was not acknowledged.
    Failed,
    /// Another writer was there before; nothing is wrong with the node.
    Lost,
}

impl Client {
    /// Client number `id`, whose seed it is too.
    pub fn new(target: Target, id: usize) -> Client {
        let home = id % target.nodes.len();
        Client { target, id, rng: Rng::new(id as u64), home, pushes: 0, seen: BTreeMap::new() }
    }

    /// Does one thing after another until told to stop.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            match self.rng.below(24) {
                0..=8 => self.push().await,
                9 => self.delete_tag().await,
                10 => self.delete_manifest().await,
                11 | 12 => self.delete_blob().await,
                13 | 14 => self.mount().await,
                15 | 16 => self.list().await,
                _ => self.read().await,
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// What a push is to be: under a tag, mostly, and often on a condition that somebody else may break.
    async fn push(&mut self) {
        let repo = self.repo();
        let tag = (self.rng.below(5) > 0).then(|| format!("tag{}", self.rng.below(TAGS)));
        let known = tag.as_ref().and_then(|tag| self.seen.get(&Key::tag(&repo, tag)).cloned());
        let condition = match known {
            Some(Some(digest)) if self.rng.below(3) == 0 => Condition::Matches(digest),
            Some(None) if self.rng.below(2) == 0 => Condition::Absent,
            _ => Condition::Any,
        };
        let mut layers = vec![Blob::new(self.layer())];
        if self.rng.below(3) == 0 {
            layers.push(self.shared());
        }
        let large = self.rng.below(12) == 0;
        let subject = (!large && self.rng.below(4) == 0).then(|| shared::subject(&mut self.rng));
        self.push_until_done(Wanted { repo, tag, condition, layers, large, subject }).await;
    }

    /// Pushes an image. What fails is begun again, through another node and as another image: nobody knows what
    /// became of the first one.
    async fn push_until_done(&mut self, wanted: Wanted) {
        let tag = wanted.tag.as_ref().map(|tag| Key::tag(&wanted.repo, tag));
        let blobs = wanted.layers.iter().map(|blob| Key::blob(&wanted.repo, &blob.digest));
        for key in tag.into_iter().chain(blobs) {
            self.target.history.named(key);
        }
        for _ in 0..ATTEMPTS {
            match self.push_once(&wanted).await {
                Attempt::Failed => self.leave(),
                Attempt::Done | Attempt::Lost => return,
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn push_once(&mut self, wanted: &Wanted) -> Attempt {
        let config = Blob::config();
        // As clients do with what the repository may have already.
        let ask = Op::Head(Key::blob(&wanted.repo, &config.digest));
        let there = self.target.plain(self.id, self.home, ask).await.done;
        let missing = (!there).then_some(&config);
        for blob in missing.into_iter().chain(&wanted.layers) {
            if self.put_blob(&wanted.repo, blob).await.is_none() {
                return Attempt::Failed;
            }
        }
        let (manifest, bytes) = self.image(wanted, &config);
        let reference = wanted.tag.clone().unwrap_or_else(|| manifest.digest.to_string());
        let path = format!("/v2/{}/manifests/{reference}", wanted.repo);
        let request = self.target.nodes[self.home].request(Method::PUT, &path);
        let request = wanted.condition.set(request.header(CONTENT_TYPE, OCI_MANIFEST));
        let op = Op::PutManifest {
            repo: wanted.repo.clone(),
            tag: wanted.tag.clone(),
            manifest: Arc::new(manifest),
            condition: wanted.condition.clone(),
        };
        let asked = self.target.ask(self.id, self.home, op.clone(), request.body(bytes)).await;
        self.learn(&op, &asked);
        match asked.outcome.status() {
            _ if asked.done => Attempt::Done,
            Some(StatusCode::PRECONDITION_FAILED) => Attempt::Lost,
            _ => Attempt::Failed,
        }
    }

    /// A manifest that nobody has pushed before.
    fn image(&mut self, wanted: &Wanted, config: &Blob) -> (Pushed, Vec<u8>) {
        self.pushes += 1;
        let mut image = Image::new(&config.digest, config.bytes.len())
            .annotation("push", &format!("{} of client {}", self.pushes, self.id));
        for layer in &wanted.layers {
            image = image.layer(&layer.digest, layer.bytes.len());
        }
        if wanted.large {
            image = image.annotation("fill", &"x".repeat(FILL));
        }
        if let Some(subject) = &wanted.subject {
            image = image.subject(&Descriptor::new(OCI_MANIFEST, subject, 1000));
        }
        let bytes = image.bytes();
        // A tag is always put by its SHA-256.
        let by_512 = wanted.tag.is_none() && self.rng.below(2) == 0;
        let digest = if by_512 { sha512(&bytes) } else { sha256(&bytes) };
        self.target.history.named(Key::manifest(&wanted.repo, &digest));
        let blobs = [config].into_iter().chain(&wanted.layers).map(|blob| blob.digest.clone()).collect();
        (Pushed { digest, blobs, subject: wanted.subject.clone(), large: wanted.large }, bytes)
    }

    /// `None` as soon as something is not acknowledged.
    async fn put_blob(&mut self, repo: &str, blob: &Blob) -> Option<()> {
        match self.rng.below(3) {
            0 => self.monolithic(repo, blob).await,
            1 => self.in_session(repo, blob, 0).await,
            _ => self.in_session(repo, blob, 2).await,
        }
    }

    /// POST with everything.
    async fn monolithic(&mut self, repo: &str, blob: &Blob) -> Option<()> {
        let path = format!("/v2/{repo}/blobs/uploads/?digest={}", blob.digest);
        let request = self.target.nodes[self.home].request(Method::POST, &path).body(blob.bytes.clone());
        let op = Op::PutBlob { repo: repo.to_owned(), digest: blob.digest.clone(), session: None };
        self.target.ask(self.id, self.home, op, request).await.done.then_some(())
    }

    /// POST, a PATCH for each of `chunks` parts, PUT with the rest. Some steps go through another node.
    async fn in_session(&mut self, repo: &str, blob: &Blob, chunks: usize) -> Option<()> {
        let owner = self.home;
        let hint = if blob.digest.algorithm() == Algorithm::Sha512 { "?digest-algorithm=sha512" } else { "" };
        let path = format!("/v2/{repo}/blobs/uploads/{hint}");
        let request = self.target.nodes[owner].request(Method::POST, &path);
        let opened = self.target.ask(self.id, owner, Op::Open, request).await;
        let session = Session { owner, opened: opened.asked };
        let mut location = opened.location.filter(|_| opened.done)?;
        let mut rest = blob.bytes.clone();
        for left in (1..=chunks).rev() {
            let chunk = rest.split_to(rest.len() / (left + 1));
            let node = self.often_home();
            let request = self.target.nodes[node].request(Method::PATCH, &location).body(chunk);
            let appended = self.target.ask(self.id, node, Op::Append(session), request).await;
            location = appended.location.filter(|_| appended.done)?;
        }
        let separator = if location.contains('?') { '&' } else { '?' };
        let node = self.often_home();
        let closing = format!("{location}{separator}digest={}", blob.digest);
        let request = self.target.nodes[node].request(Method::PUT, &closing).body(rest);
        let op = Op::PutBlob { repo: repo.to_owned(), digest: blob.digest.clone(), session: Some(session) };
        self.target.ask(self.id, node, op, request).await.done.then_some(())
    }

    async fn delete_tag(&mut self) {
        let (repo, tag) = (self.repo(), format!("tag{}", self.rng.below(TAGS)));
        let known = self.seen.get(&Key::tag(&repo, &tag)).cloned();
        let condition = match known {
            Some(Some(digest)) if self.rng.below(2) == 0 => Condition::Matches(digest),
            _ => Condition::Any,
        };
        self.write(Op::DeleteTag { repo, tag, condition }).await;
    }

    /// Mostly one that was just pushed, and so has a tag.
    async fn delete_manifest(&mut self) {
        for _ in 0..8 {
            let Some(key) = self.target.history.pick(&mut self.rng) else { return };
            if let Thing::Manifest(digest) = key.thing {
                return self.write(Op::DeleteManifest { repo: key.repo, digest }).await;
            }
        }
    }

    /// Mostly one that others are about to use.
    async fn delete_blob(&mut self) {
        let shared = self.shared().digest;
        let some = self.target.history.pick(&mut self.rng).map(|key| key.thing);
        let digest = match (self.rng.below(5), some) {
            (0, Some(Thing::Blob(digest))) => digest,
            (1, _) => Blob::config().digest,
            _ => shared,
        };
        let repo = self.repo();
        self.write(Op::DeleteBlob { repo, digest }).await;
    }

    async fn mount(&mut self) {
        let [one, other] = self.target.repos.clone();
        let (from, to) = if self.rng.below(2) == 0 { (one, other) } else { (other, one) };
        let blob = if self.rng.below(4) == 0 { Blob::config() } else { self.shared() };
        self.target.history.named(Key::blob(&to, &blob.digest));
        self.write(Op::Mount { from, to, digest: blob.digest }).await;
    }

    /// Something that has no body and needs the log. Any answer is one, but for 5xx.
    async fn write(&mut self, op: Op) {
        let asked = self.target.plain(self.id, self.home, op.clone()).await;
        self.learn(&op, &asked);
        if asked.outcome.status().is_none_or(|status| status.is_server_error()) {
            self.leave();
        }
    }

    async fn list(&mut self) {
        let (repo, node) = (self.repo(), self.any());
        let op = match self.rng.below(5) {
            0 | 1 => Op::Tags(repo),
            2 | 3 => Op::Referrers { repo, subject: shared::subject(&mut self.rng) },
            _ => Op::Catalog,
        };
        self.target.plain(self.id, node, op).await;
    }

    async fn read(&mut self) {
        let key = if self.rng.below(2) == 0 {
            Some(Key::tag(&self.repo(), &format!("tag{}", self.rng.below(TAGS))))
        } else {
            self.target.history.pick(&mut self.rng)
        };
        let (Some(key), node) = (key, self.any()) else { return };
        let op = if self.rng.below(3) == 0 { Op::Head(key) } else { Op::Get(key) };
        let asked = self.target.plain(self.id, node, op.clone()).await;
        self.learn(&op, &asked);
    }

    /// Remembers what an answer says of a tag, for a condition later on.
    fn learn(&mut self, op: &Op, asked: &Asked) {
        let Outcome::Answer { status, headers, .. } = &asked.outcome else { return };
        let digest = |name: &str| headers.get(name)?.to_str().ok()?.trim_matches('"').parse().ok();
        let (key, value) = match op {
            Op::PutManifest { repo, tag: Some(tag), .. } | Op::DeleteTag { repo, tag, .. }
                if *status == StatusCode::PRECONDITION_FAILED =>
            {
                (Key::tag(repo, tag), digest(ETAG.as_str()))
            }
            Op::PutManifest { repo, tag: Some(tag), manifest, .. } if asked.done => {
                (Key::tag(repo, tag), Some(manifest.digest.clone()))
            }
            Op::DeleteTag { repo, tag, .. } if asked.done => (Key::tag(repo, tag), None),
            Op::Get(key) | Op::Head(key) if asked.done || *status == StatusCode::NOT_FOUND => {
                (key.clone(), digest("docker-content-digest"))
            }
            _ => return,
        };
        if matches!(key.thing, Thing::Tag(_)) {
            self.seen.insert(key, value);
        }
    }

    /// Mostly small; now and then one of several pieces.
    fn layer(&mut self) -> Bytes {
        let len = if self.rng.below(16) == 0 { 1 << 20 } else { 1000 + self.rng.below(48_000) };
        Bytes::from(self.rng.bytes(len))
    }

    fn shared(&mut self) -> Blob {
        Blob::shared(self.target.history.count(), &mut self.rng)
    }

    fn repo(&mut self) -> String {
        self.rng.pick(&self.target.repos).clone()
    }

    fn any(&mut self) -> usize {
        self.rng.below(self.target.nodes.len())
    }

    fn often_home(&mut self) -> usize {
        if self.rng.below(3) == 0 { self.any() } else { self.home }
    }

    /// Goes to the next node after a failure.
    fn leave(&mut self) {
        self.home = (self.home + 1) % self.target.nodes.len();
    }
}
