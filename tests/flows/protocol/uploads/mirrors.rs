//! The second copy of an upload under way: its node or its partner dies, and what a 202 has named is on two
//! nodes all the same.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::{Node, Options};
use clawhub_testkit::content::{Content, Rng};
use clawhub_testkit::oci::{Upload, expect, header};
use clawhub_testkit::{Cluster, process, until};
use futures::channel::mpsc;
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{arrived, status};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Three nodes in three regions that stay dead when they are killed, and an upload to the first of them.
struct Trial {
    cluster: Cluster,
    nodes: Vec<Node>,
    upload: Upload,
}

impl Trial {
    async fn start(repo: &str) -> Result<Trial> {
        let cluster = Options::new(3).no_restart().start().await?;
        let nodes = cluster.nodes()?;
        let upload = nodes[0].registry().repo(repo).open().await?;
        Ok(Trial { cluster, nodes, upload })
    }

    fn owner(&self) -> &Node {
        &self.nodes[0]
    }

    /// The owner's others: the one that has bytes of the upload first.
    fn partner_and_third(&self) -> Result<(&Node, &Node)> {
        let (one, two) = (&self.nodes[1], &self.nodes[2]);
        match (self.has(one), self.has(two)) {
            (1.., 0) => Ok((one, two)),
            (0, 1..) => Ok((two, one)),
            both => anyhow::bail!("not one of them mirrors the upload: {both:?}"),
        }
    }

    /// The file that holds a node's copy.
    fn file(&self, node: &Node) -> PathBuf {
        let id = self.upload.location.rsplit('/').next().unwrap_or_default();
        node.data.join("uploads").join(id).join("data")
    }

    fn has(&self, node: &Node) -> u64 {
        fs::metadata(self.file(node)).map_or(0, |file| file.len())
    }

    /// Which file that is: another one if the node has begun again.
    fn identity(&self, node: &Node) -> Result<(u64, Option<SystemTime>)> {
        let file = fs::metadata(self.file(node))?;
        Ok((file.ino(), file.created().ok()))
    }

    /// The node's copy is these bytes and no more.
    fn holds(&self, node: &Node, bytes: &[u8]) -> Result<()> {
        let copy = fs::read(self.file(node)).with_context(|| format!("the copy on {}", node.name))?;
        ensure!(copy == bytes, "{} has {} other bytes than the {} sent", node.name, copy.len(), bytes.len());
        Ok(())
    }

    /// Appends this part of the content through the owner and wants a 202 that names all of it.
    async fn append(&self, content: &Bytes, part: Range<usize>) -> Result<()> {
        let (node, start, end) = (self.owner().registry(), part.start as u64, part.end as u64);
        let answer = self.upload.patch(&node, Some(start), content.slice(part)).await?;
        let arrived = arrived(&expect(answer, StatusCode::ACCEPTED).await?)?;
        ensure!(arrived == end, "{arrived} of {end} bytes are confirmed");
        Ok(())
    }

    /// Waits until the node's copy has more than so many bytes.
    async fn receives(&self, node: &Node, offset: usize) -> Result<()> {
        until("the partner to have some of the chunk", SOON, || async {
            Ok((self.has(node) > offset as u64).then_some(()))
        })
        .await
    }

    /// A PATCH without a length, fed piece by piece.
    fn feed(&self) -> (mpsc::UnboundedSender<io::Result<Bytes>>, tokio::task::JoinHandle<Result<Response>>) {
        let (feed, body) = mpsc::unbounded();
        let request = self.owner().registry().request(Method::PATCH, &self.upload.location);
        let request = request.body(reqwest::Body::wrap_stream(body));
        (feed, tokio::spawn(async move { Ok(request.send().await?) }))
    }

    async fn start_again(&self, node: &Node) -> Result<u32> {
        self.cluster.serve(&node.config, node.address()).await.with_context(|| node.name.clone())
    }

    /// The rest of the upload goes through, and every node serves the whole.
    async fn ends(&self, repo: &str, content: Content, rest: Bytes) -> Result<()> {
        let digest = content.digest();
        let answer = self.upload.put(&self.owner().registry(), &digest, rest).await?;
        expect(answer, StatusCode::CREATED).await?;
        for node in &self.nodes {
            node.registry().repo(repo).pull_blob(&digest).await.with_context(|| node.name.clone())?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_that_dies_in_the_middle_of_a_chunk_is_replaced_before_the_answer() -> Result<()> {
    const REPO: &str = "mirrors/partner";
    let trial = Trial::start(REPO).await?;
    let content = Content { seed: 40, len: 80 << 20 };
    let (bytes, first) = (content.bytes(), 9 * MIB);
    trial.append(&bytes, 0..first).await?;
    let (partner, third) = trial.partner_and_third()?;
    trial.holds(partner, &bytes[..first])?;

    let (feed, answer) = trial.feed();
    let send = |bytes: Bytes| feed.unbounded_send(Ok(bytes)).context("the request has ended");
    send(bytes.slice(first..first + 8 * MIB))?;
    trial.receives(partner, first).await?;
    process::kill(partner.process()?)?;
    // More than can be on its way to a dead node: the loss shows while the chunk is received.
    let last = bytes.len() - 5 * MIB - 3;
    send(bytes.slice(first + 8 * MIB..last))?;
    drop(feed);
    let answer = expect(answer.await??, StatusCode::ACCEPTED).await?;
    ensure!(arrived(&answer)? == last as u64);
    trial.holds(trial.owner(), &bytes[..last])?;
    trial.holds(third, &bytes[..last])?;

    process::kill(trial.owner().process()?)?;
    trial.holds(third, &bytes[..last]).context("after the owner's death")?;
    // The old partner first: two of three make a majority.
    trial.start_again(partner).await?;
    trial.start_again(trial.owner()).await?;
    ensure!(status(&trial.owner().registry(), &trial.upload).await? == last as u64);
    trial.ends(REPO, content, bytes.slice(last..)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_from_its_durable_offset_when_its_node_is_back() -> Result<()> {
    const REPO: &str = "mirrors/owner";
    let trial = Trial::start(REPO).await?;
    let content = Content { seed: 41, len: 7 * MIB as u64 };
    let bytes = content.bytes();
    let [first, second, third] = [2 * MIB, 4 * MIB + 1, 6 * MIB];
    trial.append(&bytes, 0..first).await?;
    let (partner, _) = trial.partner_and_third()?;
    let copy = trial.identity(partner)?;

    // Between two chunks: the partner goes on from what it has.
    process::kill(trial.owner().process()?)?;
    let pid = trial.start_again(trial.owner()).await?;
    trial.append(&bytes, first..second).await?;
    trial.holds(partner, &bytes[..second])?;
    ensure!(trial.identity(partner)? == copy, "the partner began again for nothing");

    // In the middle of one that is never sent again: what came of it is nowhere in the upload.
    let mut stream = TcpStream::connect(trial.owner().address()).await?;
    let head =
        format!("PATCH {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", trial.upload.location, 3 * MIB);
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&Rng::new(42).bytes(2 * MIB)).await?;
    trial.receives(partner, second).await?;
    process::kill(pid)?;
    trial.start_again(trial.owner()).await?;
    ensure!(status(&trial.owner().registry(), &trial.upload).await? == second as u64);
    trial.append(&bytes, second..third).await?;
    trial.holds(trial.owner(), &bytes[..third])?;
    trial.holds(partner, &bytes[..third])?;
    trial.ends(REPO, content, bytes.slice(third..)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_that_stands_still_is_replaced_and_goes_on_when_it_is_asked_again() -> Result<()> {
    const REPO: &str = "mirrors/pause";
    let trial = Trial::start(REPO).await?;
    let content = Content { seed: 44, len: 7 * MIB as u64 };
    let bytes = content.bytes();
    let [first, second, third] = [2 * MIB, 4 * MIB + 1, 6 * MIB];
    trial.append(&bytes, 0..first).await?;
    let (partner, other) = trial.partner_and_third()?;
    let copy = trial.identity(partner)?;

    let pid = partner.process()?;
    process::pause(pid)?;
    let replaced = trial.append(&bytes, first..second).await;
    process::resume(pid)?;
    replaced?;
    trial.holds(other, &bytes[..second])?;
    process::kill(other.process()?)?;
    // What was still on its way to it has come to it by now, or never does.
    trial.append(&bytes, second..third).await?;
    trial.holds(partner, &bytes[..third])?;
    ensure!(trial.identity(partner)? == copy, "the partner began again for nothing");
    trial.start_again(other).await?;
    trial.ends(REPO, content, bytes.slice(third..)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_partner_nothing_is_confirmed_and_nothing_is_lost() -> Result<()> {
    const REPO: &str = "mirrors/alone";
    let trial = Trial::start(REPO).await?;
    let content = Content { seed: 43, len: 3 * MIB as u64 };
    let (bytes, node) = (content.bytes(), trial.owner().registry());
    trial.append(&bytes, 0..MIB).await?;
    let others = [&trial.nodes[1], &trial.nodes[2]];
    for other in others {
        process::kill(other.process()?)?;
    }
    let chunk = trial.upload.patch(&node, Some(MIB as u64), bytes.slice(MIB..2 * MIB)).await?;
    for answer in [chunk, node.get(&trial.upload.location).await?] {
        let answer = expect(answer, StatusCode::SERVICE_UNAVAILABLE).await?;
        ensure!(header(&answer, "retry-after").is_some(), "no Retry-After");
    }
    for other in others {
        trial.start_again(other).await?;
    }
    // Both chunks are there, and now on two nodes.
    let offset = until("the upload to be confirmed", SOON, || async {
        let answer = node.get(&trial.upload.location).await?;
        (answer.status() == StatusCode::NO_CONTENT).then(|| arrived(&answer)).transpose()
    })
    .await?;
    ensure!(offset == 2 * MIB as u64, "{offset}");
    let copies = others.map(|other| trial.holds(other, &bytes[..2 * MIB]));
    ensure!(copies.iter().any(Result::is_ok), "{copies:?}");
    trial.ends(REPO, content, bytes.slice(2 * MIB..)).await
}
