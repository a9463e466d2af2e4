//! What a node does that is cut off.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::{self, Descriptor, version};
use clawhub_testkit::oci::{Upload, expect, header};
use clawhub_testkit::wan::{allowed, wait};
use clawhub_testkit::{Repo, until};
use clawhub_types::Digest;
use futures::future::{try_join, try_join_all};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::world::{CATCH_UP, REPO, Standing, World};

/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_millis(1500);
/// How long the partner of an upload may be silent before it is given up.
const PARTNER: Duration = Duration::from_millis(2500);
/// What is in the upload that is open when the cut is made.
const MORE: &[u8] = b"more";

/// What lies on a node before it is cut off. What happens to the doomed is not known: a refused write may
/// still be on its way.
pub(super) struct Held {
    manifest: Digest,
    blob: Digest,
    doomed: Descriptor,
    upload: Upload,
}

impl Held {
    pub(super) async fn push(repo: &Repo) -> Result<Held> {
        let blob = repo.push_blob(vec![7; 200_000]).await?;
        let bytes = version("held");
        let manifest = repo.push_manifest("held", manifest::OCI_MANIFEST, &bytes).await?.digest;
        let doomed = repo.push_manifest("doomed", manifest::OCI_MANIFEST, &version("doomed")).await?;
        repo.push_blob("doomed").await?;
        Ok(Held { manifest, blob, doomed, upload: repo.open().await? })
    }

    /// Everything that only a majority can answer at once.
    fn refused(&self, repo: &Repo) -> Vec<(String, RequestBuilder)> {
        let fresh = version("never");
        let unknown = sha256(&fresh);
        let Held { manifest, blob, doomed, .. } = self;
        let paths = [
            (Method::GET, "manifests/held".to_owned()),
            (Method::GET, "manifests/nobodys".to_owned()),
            (Method::GET, format!("manifests/{unknown}")),
            (Method::GET, format!("blobs/{unknown}")),
            (Method::GET, "tags/list".to_owned()),
            (Method::GET, format!("referrers/{manifest}")),
            (Method::HEAD, "manifests/held".to_owned()),
            (Method::HEAD, format!("manifests/{manifest}")),
            (Method::HEAD, format!("blobs/{blob}")),
            (Method::HEAD, format!("blobs/{unknown}")),
            (Method::POST, format!("blobs/uploads/?mount={blob}&from={REPO}")),
            (Method::DELETE, "manifests/doomed".to_owned()),
            (Method::DELETE, format!("manifests/{}", doomed.digest)),
            (Method::DELETE, format!("blobs/{}", sha256(b"doomed"))),
        ];
        let node = &repo.registry;
        let ask = |method: Method, path: String| {
            let what = format!("{method} {path}");
            (what, node.request(method, &path))
        };
        let put = |reference: &str| {
            let (what, request) = ask(Method::PUT, repo.path(&format!("manifests/{reference}")));
            (what, request.header("content-type", manifest::OCI_MANIFEST).body(fresh.clone()))
        };
        let mut all: Vec<_> = paths.map(|(method, path)| ask(method, repo.path(&path))).into();
        all.extend(["doomed", "new", &unknown.to_string()].map(put));
        all.push(ask(Method::GET, "/v2/_catalog".to_owned()));
        all.push(ask(Method::GET, "/v2/no/such/tags/list".to_owned()));
        all
    }

    /// Content by digest goes on, and says how old what the node knows is.
    async fn served(&self, repo: &Repo) -> Result<(u64, u64)> {
        let mut told = Vec::new();
        for path in [format!("manifests/{}", self.manifest), format!("blobs/{}", self.blob)] {
            let answer = expect(repo.registry.get(&repo.path(&path)).await?, StatusCode::OK).await?;
            let warning = header(&answer, "warning").with_context(|| format!("no Warning: GET {path}"))?;
            told.push(parse(&warning).with_context(|| warning.clone())?);
            let digest = sha256(&answer.bytes().await?);
            ensure!(path.ends_with(&digest.to_string()), "GET {path} gave {digest}");
        }
        ensure!(told[0].0 == told[1].0, "one state, two indices: {told:?}");
        Ok(told[1])
    }
}

/// Index and age, seconds, of `299 - "… log index 7, 61 s old"`.
fn parse(warning: &str) -> Option<(u64, u64)> {
    let text = warning.strip_prefix("299 - \"")?.strip_suffix(" s old\"")?;
    let (rest, age) = text.rsplit_once(", ")?;
    Some((rest.rsplit_once("log index ")?.1.parse().ok()?, age.parse().ok()?))
}

/// 503 with `Retry-After`, within `limit` and what a busy machine may add. How long it took.
async fn refuses(what: String, request: RequestBuilder, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    let answer = answers(&what, request, limit).await?;
    let took = start.elapsed();
    is_refusal(&what, answer).await?;
    Ok(took)
}

/// Whatever it is, it comes within `limit` and what a busy machine may add.
pub(super) async fn answers(what: &str, request: RequestBuilder, limit: Duration) -> Result<Response> {
    request.timeout(limit + SLACK).send().await.with_context(|| what.to_owned())
}

/// 503 with `Retry-After`.
pub(super) async fn is_refusal(what: &str, answer: Response) -> Result<()> {
    let (status, later) = (answer.status(), header(&answer, "retry-after"));
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{what}: {status} {}", answer.text().await?);
    ensure!(later.as_deref().is_some_and(|s| s.parse::<u64>().is_ok()), "{what}: Retry-After {later:?}");
    Ok(())
}

/// P7 to the letter. The slowest refusal.
pub(super) async fn is_a_minority(world: &World, host: usize, held: &Held, cut: Instant) -> Result<Duration> {
    let repo = world.repo(host);
    // Until it notices it cannot warn; it must by the time a write is refused.
    until("a warning", wait(), || async { held.served(&repo).await.map(Some) }).await?;
    let asked = held.refused(&repo).into_iter().map(|(what, request)| refuses(what, request, wait()));
    // The end of an upload first gives up the partner that held the second copy.
    let end = repo.registry.request(Method::PUT, &held.upload.closing(&sha256(MORE))).body(MORE);
    let end = refuses("PUT blobs/uploads/…".into(), end, wait() + allowed(PARTNER));
    let (took, end) = try_join(try_join_all(asked), end).await?;
    // By now it knows that nobody is left to hold a second copy.
    let open = repo.registry.request(Method::POST, &repo.path("blobs/uploads/"));
    refuses("POST blobs/uploads/".into(), open, wait()).await?;
    let (index, age) = held.served(&repo).await?;
    let applied = world.standing(host)?.applied;
    ensure!(index == applied, "warned of index {index}, the state is at {applied}");
    let since = cut.elapsed().as_secs();
    ensure!((wait().as_secs() - 1..=since + 1).contains(&age), "warned of {age} s, cut off for {since} s");
    took.into_iter().chain([end]).max().context("nothing was asked")
}

/// The returned node is like the others, by itself, and warns no more. How long that took.
pub(super) async fn returns(world: &World, host: usize, held: &Held) -> Result<(Duration, Standing)> {
    world.heal()?;
    let healed = Instant::now();
    let standing = world.settle().await?;
    let took = healed.elapsed();
    let repo = world.repo(host);
    ensure!(held.served(&repo).await.is_err(), "it still warns");
    repo.pull_blob(&held.blob).await?;
    ensure!(repo.resolve("held").await?.as_ref() == Some(&held.manifest), "the tag moved");
    until("the upload to end", CATCH_UP, || async {
        let answer = held.upload.put(&repo.registry, &sha256(MORE), MORE.into()).await?;
        match answer.status() {
            StatusCode::SERVICE_UNAVAILABLE => Ok(None),
            _ => expect(answer, StatusCode::CREATED).await.map(Some),
        }
    })
    .await?;
    ensure!(repo.pull_blob(&sha256(MORE)).await? == MORE, "other bytes than were sent");
    Ok((took, standing))
}
