//! A tag that one writer moves and others read: which answers are right.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clawhub_testkit::Repo;
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::{self, version};
use clawhub_testkit::oci::header;
use reqwest::{Method, StatusCode};
use tokio::sync::watch;

/// How long the writer waits before it asks another node.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many nodes in a row that do not answer are a cluster that does not.
const TRIES: usize = 60;

/// What its writer knows.
#[derive(Default)]
struct Known {
    /// Versions begun.
    begun: usize,
    /// The last version that was acknowledged.
    acked: usize,
    /// Those without an answer: each may still be applied, once, at any time.
    doubtful: BTreeSet<usize>,
    versions: HashMap<String, usize>,
}

/// A tag.
pub(super) struct Tag {
    name: String,
    known: Mutex<Known>,
}

/// What a reader was told.
pub(super) enum Answer {
    /// What was acknowledged before it asked, or something later.
    Fresh,
    /// Nothing: no answer, or a refusal.
    None,
}

impl Tag {
    pub(super) fn new(number: usize) -> Tag {
        Tag { name: format!("tag-{number}"), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes through one node and reads at once through another, round and round, until told to stop.
    /// How many writes had no answer.
    pub(super) async fn work(
        self: Arc<Tag>,
        repos: Vec<Repo>,
        told: watch::Receiver<bool>,
        count: watch::Sender<usize>,
    ) -> Result<usize> {
        let mut turn = 0;
        let mut silent = 0;
        while !*told.borrow() {
            while !self.write(&repos[turn % repos.len()]).await? {
                (turn, silent) = (turn + 1, silent + 1);
                ensure!(silent < TRIES, "{}: {TRIES} attempts without an answer", self.name);
            }
            turn += 1;
            while let Answer::None = self.read(&repos[turn % repos.len()], PATIENCE).await? {
                (turn, silent) = (turn + 1, silent + 1);
                ensure!(silent < TRIES, "{}: {TRIES} attempts without an answer", self.name);
            }
            silent = 0;
            count.send_modify(|count| *count += 1);
        }
        Ok(self.known().doubtful.len())
    }

    /// Moves the tag to a new version; `false` if it is not known whether it did.
    async fn write(&self, repo: &Repo) -> Result<bool> {
        let (number, bytes) = self.begin();
        let request = repo.registry.request(Method::PUT, &repo.path(&format!("manifests/{}", self.name)));
        let request = request.header("content-type", manifest::OCI_MANIFEST).timeout(PATIENCE);
        let status = request.body(bytes).send().await.map(|answer| answer.status());
        let mut known = self.known();
        match status {
            Ok(StatusCode::CREATED) => known.acked = number,
            Ok(StatusCode::SERVICE_UNAVAILABLE) | Err(_) => drop(known.doubtful.insert(number)),
            Ok(status) => bail!("{}: PUT: {status}", self.name),
        }
        Ok(known.acked == number)
    }

    fn begin(&self) -> (usize, Vec<u8>) {
        let mut known = self.known();
        known.begun += 1;
        let number = known.begun;
        let bytes = version(format!("{} {number}", self.name));
        known.versions.insert(sha256(&bytes).to_string(), number);
        (number, bytes)
    }

    /// Asks a node, for at most `patience`.
    ///
    /// # Errors
    /// If what it says was overwritten, with an acknowledgement, before it was asked.
    pub(super) async fn read(&self, repo: &Repo, patience: Duration) -> Result<Answer> {
        let least = self.known().acked;
        let request = repo.registry.request(Method::HEAD, &repo.path(&format!("manifests/{}", self.name)));
        let answer = match request.timeout(patience).send().await {
            Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => answer,
            _ => return Ok(Answer::None),
        };
        if least == 0 && answer.status() == StatusCode::NOT_FOUND {
            return Ok(Answer::Fresh);
        }
        ensure!(answer.status() == StatusCode::OK, "{}: HEAD: {}", self.name, answer.status());
        let digest = header(&answer, "docker-content-digest").context("no digest")?;
        let known = self.known();
        let got = known.versions.get(&digest).with_context(|| format!("{}: unknown {digest}", self.name))?;
        let fresh = *got >= least || known.doubtful.contains(got);
        ensure!(fresh, "{}: version {got}, after {least} was acknowledged: stale", self.name);
        Ok(Answer::Fresh)
    }
}
