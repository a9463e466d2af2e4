//! The cluster as clients see it: whoever asks it something writes down what was answered.

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::Algorithm;
use futures::StreamExt;
use futures::stream;
use reqwest::header::LOCATION;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::shared;
use super::{History, Key, Op, Outcome, Record, Thing};
use crate::Registry;
use crate::content::{sha256, sha512};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many answers are awaited at once when everything is read back.
const READERS: usize = 8;
/// Who reads back, where clients have their number.
const READER: usize = usize::MAX;
/// So much of a refusal is kept: it may name every blob that a manifest lacks.
const TEXT: usize = 2000;

/// The cluster as the clients see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Every node.
    pub nodes: Vec<Registry>,
    /// The repositories that all of them use.
    pub repos: [String; 2],
    /// Where everything is written down.
    pub history: Arc<History>,
}

/// What a client goes on with.
pub(super) struct Asked {
    pub(super) done: bool,
    pub(super) outcome: Outcome,
    pub(super) location: Option<String>,
    pub(super) asked: Duration,
}

impl Target {
    /// Sends a request, waits for the whole answer, and writes it down.
    pub(super) async fn ask(&self, client: usize, node: usize, op: Op, request: RequestBuilder) -> Asked {
        let asked = self.history.now();
        let (outcome, location) = answered(&op, request).await;
        let record = Record { client, node, op, asked, answered: self.history.now(), outcome };
        let (done, outcome) = (record.acknowledged(), record.outcome.clone());
        self.history.record(record);
        Asked { done, outcome, location, asked }
    }

    /// The same for what has no body.
    pub(super) async fn plain(&self, client: usize, node: usize, op: Op) -> Asked {
        let (method, path) = match &op {
            Op::Get(key) => (Method::GET, key.path()),
            Op::Head(key) => (Method::HEAD, key.path()),
            Op::Tags(repo) => (Method::GET, format!("/v2/{repo}/tags/list")),
            Op::Referrers { repo, subject } => (Method::GET, format!("/v2/{repo}/referrers/{subject}")),
            Op::Catalog => (Method::GET, "/v2/_catalog".to_owned()),
            Op::DeleteTag { repo, tag, .. } => (Method::DELETE, Key::tag(repo, tag).path()),
            Op::DeleteManifest { repo, digest } => (Method::DELETE, Key::manifest(repo, digest).path()),
            Op::DeleteBlob { repo, digest } => (Method::DELETE, Key::blob(repo, digest).path()),
            Op::Mount { from, to, digest } => {
                (Method::POST, format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}"))
            }
            Op::Open | Op::Append(_) | Op::PutBlob { .. } | Op::PutManifest { .. } => {
                unreachable!("these are made by who knows what is in them")
            }
        };
        let mut request = self.nodes[node].request(method, &path);
        if let Op::DeleteTag { condition, .. } = &op {
            request = condition.set(request);
        }
        self.ask(client, node, op, request).await
    }

    /// Reads everything that was acknowledged from every node, and every list. The answers are written down, and
    /// whether they are true is for the checker, 404 too: it may have been deleted. Returned are those that are
    /// neither yes nor no.
    pub async fn read_back(&self) -> Vec<String> {
        let events = self.history.events();
        let doomed = events.doomed();
        let content = events.promised().into_iter().flat_map(|key| {
            // Bytes, and whether they should be there: a node may serve them for a while after a deletion.
            let asked = doomed.contains(&key).then(|| Op::Head(key.clone()));
            [Op::Get(key)].into_iter().chain(asked)
        });
        let lists = self.repos.iter().flat_map(|repo| {
            let referrers = shared::subjects().map(|subject| Op::Referrers { repo: repo.clone(), subject });
            referrers.chain([Op::Tags(repo.clone())])
        });
        let ops: Vec<Op> = content.chain(lists).chain([Op::Catalog]).collect();
        let all = ops.into_iter().flat_map(|op| (0..self.nodes.len()).map(move |node| (op.clone(), node)));
        let read = |(op, node): (Op, usize)| async move {
            let asked = self.plain(READER, node, op.clone()).await;
            let status = asked.outcome.status();
            let answered = asked.done || status == Some(StatusCode::NOT_FOUND);
            (!answered).then(|| format!("{op:?} from node {node}: {:?}", asked.outcome))
        };
        stream::iter(all)
            .map(read)
            .buffer_unordered(READERS)
            .filter_map(|missing| async { missing })
            .collect()
            .await
    }
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
    let done = status == op.success();
    let body = match op {
        Op::Get(Key { thing: Thing::Manifest(digest) | Thing::Blob(digest), .. })
            if digest.algorithm() == Algorithm::Sha512 =>
        {
            done.then(|| sha512(&bytes))
        }
        Op::Get(_) => done.then(|| sha256(&bytes)),
        _ => None,
    };
    let list = if done { names(op, &bytes) } else { Vec::new() };
    let text = if status.is_success() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() };
    Ok(Outcome::Answer { status, headers, body, list, text: text.chars().take(TEXT).collect() })
}

/// The names in a list. One that is no list has none, and will be found to lack everything.
fn names(op: &Op, bytes: &[u8]) -> Vec<String> {
    let Some((list, field)) = op.list() else { return Vec::new() };
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let items = value[list].as_array().cloned().unwrap_or_default();
    let name = |item: Value| field.map_or(item.clone(), |field| item[field].clone());
    items.into_iter().filter_map(|item| name(item).as_str().map(str::to_owned)).collect()
}
