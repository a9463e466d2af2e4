//! Clients that push, move, delete and read all the time, and write down what they were answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_types::Digest;
use futures::StreamExt as _;
use futures::stream;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::{History, Key, Op, Outcome, Record, Session};
use crate::Registry;
use crate::content::{Rng, sha256};
use crate::manifest::{CONFIG_BYTES, Image, OCI_MANIFEST};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a client leaves between two things that it does: the nodes are to die busy, not overloaded.
const PACE: Duration = Duration::from_millis(150);
/// How often a push is begun again.
const ATTEMPTS: usize = 4;
/// So many answers are awaited at once when everything is read back.
const READERS: usize = 8;
/// Who reads back, where clients have their number.
const READER: usize = usize::MAX;
/// So much of a refusal is kept.
const TEXT: usize = 300;

/// The cluster as the clients see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Every node.
    pub nodes: Vec<Registry>,
    /// The repository that all of them use.
    pub repo: String,
    /// Where everything is written down.
    pub history: Arc<History>,
}

impl Target {
    /// Sends a request, waits for the whole answer, and writes it down.
    async fn ask(&self, client: usize, node: usize, op: Op, request: RequestBuilder) -> Asked {
        let asked = self.history.now();
        let (outcome, location) = answered(&op, request).await;
        let record = Record { client, node, op, asked, answered: self.history.now(), outcome };
        let (done, status) = (record.acknowledged(), record.outcome.status());
        self.history.record(record);
        Asked { done, status, location, asked }
    }

    async fn get(&self, client: usize, node: usize, key: Key) -> Asked {
        let request = self.nodes[node].request(Method::GET, &self.path(&key.path()));
        self.ask(client, node, Op::Get(key), request).await
    }

    async fn head(&self, client: usize, node: usize, key: Key) -> Asked {
        let request = self.nodes[node].request(Method::HEAD, &self.path(&key.path()));
        self.ask(client, node, Op::Head(key), request).await
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repo)
    }

    /// GETs everything that was acknowledged from every node, and every tag. The answers are written down;
    /// returned is what a node did not serve. A tag may have been deleted: whether a 404 is true is for the
    /// checker.
    pub async fn read_back(&self) -> Vec<String> {
        let keys = self.history.events().promised();
        let nodes = 0..self.nodes.len();
        let all = keys.iter().flat_map(|key| nodes.clone().map(move |node| (key.clone(), node)));
        let read = |(key, node): (Key, usize)| async move {
            let asked = self.get(READER, node, key.clone()).await;
            let gone = matches!(key, Key::Tag(_)) && asked.status == Some(StatusCode::NOT_FOUND);
            (!asked.done && !gone).then(|| format!("{key:?} from node {node}: {:?}", asked.status))
        };
        stream::iter(all)
            .map(read)
            .buffer_unordered(READERS)
            .filter_map(|missing| async { missing })
            .collect()
            .await
    }
}

/// What a client goes on with.
struct Asked {
    done: bool,
    status: Option<StatusCode>,
    location: Option<String>,
    asked: Duration,
}

/// The outcome of a request, with the Location that it names.
async fn answered(op: &Op, request: RequestBuilder) -> (Outcome, Option<String>) {
    let nothing = |error: reqwest::Error| {
        let outcome =
            if error.is_timeout() && !error.is_connect() { Outcome::TimedOut } else { Outcome::Broken };
        (outcome, None)
    };
    let answer = match request.timeout(PATIENCE).send().await {
        Ok(answer) => answer,
        Err(error) => return nothing(error),
    };
    let location = answer.headers().get(LOCATION).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    match whole(op, answer).await {
        Ok(outcome) => (outcome, location),
        Err(error) => nothing(error),
    }
}

/// An answer with its whole body; one that breaks off is none.
async fn whole(op: &Op, answer: Response) -> reqwest::Result<Outcome> {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.bytes().await?;
    let body = (matches!(op, Op::Get(_)) && status == op.success()).then(|| sha256(&bytes));
    let text = if status.is_success() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() };
    Ok(Outcome::Answer { status, headers, body, text: text.chars().take(TEXT).collect() })
}

/// One client. Its tags are its own; everything else it shares.
pub struct Client {
    target: Target,
    id: usize,
    rng: Rng,
    /// The node that it writes through, until that one fails it.
    home: usize,
    tags: Vec<String>,
    pushes: u64,
}

impl Client {
    /// Client number `id`, whose seed it is too.
    pub fn new(target: Target, id: usize) -> Client {
        let home = id % target.nodes.len();
        Client { target, id, rng: Rng::new(id as u64), home, tags: Vec::new(), pushes: 0 }
    }

    /// Does one thing after another until told to stop.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            match self.rng.below(10) {
                0..=3 => self.push_new().await,
                4 | 5 => self.move_tag().await,
                6 if self.rng.below(2) == 0 => self.delete().await,
                _ => self.read().await,
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn push_new(&mut self) {
        let tag = format!("client{}-{}", self.id, self.tags.len());
        self.tags.push(tag.clone());
        self.push(tag).await;
    }

    async fn move_tag(&mut self) {
        if !self.tags.is_empty() {
            let tag = self.rng.pick(&self.tags).clone();
            self.push(tag).await;
        }
    }

    async fn delete(&mut self) {
        if self.tags.is_empty() {
            return;
        }
        let tag = self.rng.pick(&self.tags).clone();
        let path = self.target.path(&Key::Tag(tag.clone()).path());
        let request = self.target.nodes[self.home].request(Method::DELETE, &path);
        let asked = self.target.ask(self.id, self.home, Op::DeleteTag(tag), request).await;
        self.leave_unless(asked.done);
    }

    async fn read(&mut self) {
        let Some(key) = self.target.history.pick(&mut self.rng) else { return };
        let node = self.any();
        match self.rng.below(3) {
            0 => self.target.head(self.id, node, key).await,
            _ => self.target.get(self.id, node, key).await,
        };
    }

    /// Pushes an image of its own under a tag. What fails is begun again, through another node.
    async fn push(&mut self, tag: String) {
        self.pushes += 1;
        let layer = self.layer();
        let image = Image::new(&sha256(&CONFIG_BYTES), CONFIG_BYTES.len())
            .layer(&sha256(&layer), layer.len())
            .annotation("push", &format!("{} of client {}", self.pushes, self.id))
            .bytes();
        for key in [Key::Tag(tag.clone()), Key::Manifest(sha256(&image)), Key::Blob(sha256(&layer))] {
            self.target.history.named(key);
        }
        for _ in 0..ATTEMPTS {
            let done = self.push_once(&tag, &layer, &image).await.is_some();
            self.leave_unless(done);
            if done {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// `None` as soon as something is not acknowledged.
    async fn push_once(&mut self, tag: &str, layer: &Bytes, image: &[u8]) -> Option<()> {
        let config = sha256(&CONFIG_BYTES);
        // As clients do with what the repository may have already.
        if !self.target.head(self.id, self.home, Key::Blob(config.clone())).await.done {
            self.monolithic(&config, &CONFIG_BYTES).await?;
        }
        let digest = sha256(layer);
        match self.rng.below(3) {
            0 => self.monolithic(&digest, layer).await?,
            1 => self.in_session(&digest, layer, 0).await?,
            _ => self.in_session(&digest, layer, 2).await?,
        }
        let node = self.home;
        let request =
            self.target.nodes[node].request(Method::PUT, &self.target.path(&format!("manifests/{tag}")));
        let request = request.header(CONTENT_TYPE, OCI_MANIFEST).body(image.to_vec());
        let op = Op::PutManifest { tag: tag.to_owned(), digest: sha256(image) };
        self.target.ask(self.id, node, op, request).await.done.then_some(())
    }

    /// POST with everything.
    async fn monolithic(&mut self, digest: &Digest, bytes: &Bytes) -> Option<()> {
        let path = self.target.path(&format!("blobs/uploads/?digest={digest}"));
        let request = self.target.nodes[self.home].request(Method::POST, &path).body(bytes.clone());
        let op = Op::PutBlob(digest.clone(), None);
        self.target.ask(self.id, self.home, op, request).await.done.then_some(())
    }

    /// POST, a PATCH for each of `chunks` parts, PUT with the rest. Some steps go through another node.
    async fn in_session(&mut self, digest: &Digest, bytes: &Bytes, chunks: usize) -> Option<()> {
        let owner = self.home;
        let request = self.target.nodes[owner].request(Method::POST, &self.target.path("blobs/uploads/"));
        let opened = self.target.ask(self.id, owner, Op::Open, request).await;
        let session = Session { owner, opened: opened.asked };
        let mut location = opened.location.filter(|_| opened.done)?;
        let mut rest = bytes.clone();
        for left in (1..=chunks).rev() {
            let chunk = rest.split_to(rest.len() / (left + 1));
            let node = self.often_home();
            let request = self.target.nodes[node].request(Method::PATCH, &location).body(chunk);
            let appended = self.target.ask(self.id, node, Op::Append(session), request).await;
            location = appended.location.filter(|_| appended.done)?;
        }
        let separator = if location.contains('?') { '&' } else { '?' };
        let node = self.often_home();
        let closing = format!("{location}{separator}digest={digest}");
        let request = self.target.nodes[node].request(Method::PUT, &closing).body(rest);
        let op = Op::PutBlob(digest.clone(), Some(session));
        self.target.ask(self.id, node, op, request).await.done.then_some(())
    }

    /// Mostly small; now and then one of several pieces.
    fn layer(&mut self) -> Bytes {
        let len = if self.rng.below(16) == 0 { 1 << 20 } else { 1000 + self.rng.below(48_000) };
        Bytes::from(self.rng.bytes(len))
    }

    fn any(&mut self) -> usize {
        self.rng.below(self.target.nodes.len())
    }

    fn often_home(&mut self) -> usize {
        if self.rng.below(3) == 0 { self.any() } else { self.home }
    }

    /// Goes to the next node after a failure.
    fn leave_unless(&mut self, done: bool) {
        if !done {
            self.home = (self.home + 1) % self.target.nodes.len();
        }
    }
}
