//! Somebody who has a copy of a member's whole data directory, and a program that uses all of it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_kv::{RocksKv, RocksProfile};
use clawhub_peer::frame::{read_message, write_message};
use clawhub_peer::{
    Admission, Applicant, Ca, CallCode, Caller, Class, ClusterKey, Csr, Directory, Endpoint, Hello, Identity,
    JoinToken, NodeKey, PeerError, PeerInfo, Proof, RecvStream, Refusal, Routes, SendStream, StreamHandler,
    join,
};
use clawhub_state::blob::RootRecord;
use clawhub_state::cluster::{ClusterRecord, NodeRecord};
use clawhub_state::{Entry, LifecycleCmd, View, encode_entry};
use clawhub_types::{AccessRevisions, Actor, ClusterId, Location, NodeId, Roles, Root};
use clawhub_wire::blob::{BlobRequest, Get, GetReply, blob_request};
use clawhub_wire::peer::raft_client::RaftClient;
use clawhub_wire::peer::{
    AppendRequest, ChangeMembershipRequest, ProposeRequest, ReadIndexRequest, Vote, VoteRequest,
    change_membership_request,
};
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use tokio::time::timeout;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);
/// A term that no cluster reaches.
const HUGE: u64 = 1 << 40;

/// What a copy of a data directory tells.
pub(crate) struct Disk {
    key: std::path::PathBuf,
    certificate: Vec<u8>,
    ca_certificate: Vec<u8>,
    cluster_key: ClusterKey,
    cluster: ClusterRecord,
    owner: NodeId,
    nodes: Vec<NodeRecord>,
    /// A blob, and who holds it.
    blob: (Root, RootRecord),
}

impl Disk {
    /// Reads the copy of a data directory. No process may use it.
    pub(crate) fn read(copy: &Path, owner: u64) -> Result<Disk> {
        let current = fs::read_to_string(copy.join("state/CURRENT"))?;
        let state = RocksKv::open(&copy.join("state").join(current.trim()), RocksProfile::State)?;
        let blobs = View::new(&state).blob().roots(None, 1)?;
        let (root, record) = blobs.into_iter().next().context("a blob")?;
        let view = View::new(&state).cluster();
        Ok(Disk {
            blob: (root, record),
            key: copy.join("node.key"),
            certificate: fs::read(copy.join("node.crt"))?,
            ca_certificate: fs::read(copy.join("ca.crt"))?,
            cluster_key: ClusterKey::load(&copy.join("cluster.key"))?,
            cluster: view.record()?.context("a cluster")?,
            owner: NodeId(owner),
            nodes: view.nodes()?,
        })
    }

    fn ca(&self) -> Result<Ca> {
        Ok(Ca::open(&self.cluster.ca_cert, &self.cluster.ca_key_sealed, &self.cluster_key)?)
    }

    /// The node whose disk it is, as it is.
    pub(crate) async fn itself(&self) -> Result<Attacker> {
        // Above whatever was logged of that node, as a later start of it would be.
        self.start(1_000_000).await
    }

    /// The node whose disk it is, as its next start would be.
    pub(crate) async fn next_start(&self) -> Result<Attacker> {
        let record = self.nodes.iter().find(|node| node.id == self.owner);
        self.start(record.context("its own record")?.boot + 1).await
    }

    async fn start(&self, boot: u64) -> Result<Attacker> {
        let key = NodeKey::load_or_create(&self.key)?;
        self.pose(self.owner, key, self.certificate.clone(), boot).await
    }

    /// A node of this id, with a certificate that the CA on the disk issued for a fresh key.
    pub(crate) async fn forged(&self, id: u64) -> Result<Attacker> {
        let key = NodeKey::generate()?;
        let certificate = self.ca()?.issue(Csr::parse(&key.csr()?)?, NodeId(id))?;
        self.pose(NodeId(id), key, certificate, 1_000_000).await
    }

    async fn pose(&self, id: NodeId, key: NodeKey, cert: Vec<u8>, boot: u64) -> Result<Attacker> {
        let hello = Hello { cluster: self.cluster.id, epoch: self.cluster.epoch, node: id, boot, nonce: 13 };
        let identity = Identity { key, cert, ca_cert: self.ca_certificate.clone(), hello };
        let known = self
            .nodes
            .iter()
            .map(|node| (node.id, PeerInfo { addr: node.spec.peer_addr.clone(), spki: node.spec.spki }));
        let directory = Arc::new(Everybody(known.collect()));
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::bind(here, identity, directory).await?;
        let serving = endpoint.clone().serve(
            Routes::default(),
            Routes::default(),
            Arc::new(Silent),
            std::future::pending(),
        );
        let serving = tokio::spawn(async move { drop(serving.await) });
        let blob = self.blob.clone();
        Ok(Attacker { id, blob, cluster: self.cluster.id, ca: self.ca()?.spki_sha256(), endpoint, serving })
    }
}

/// Believes all that it is told.
struct Everybody(Vec<(NodeId, PeerInfo)>);

impl Directory for Everybody {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        self.0.iter().find(|(id, _)| *id == node).map(|(_, info)| info.clone())
    }

    fn admit(&self, _: &Hello, _: &Proof) -> Result<Admission, Refusal> {
        Ok(Admission::Member)
    }
}

struct Silent;

impl StreamHandler for Silent {
    fn handle(&self, _: Caller, _: SendStream, _: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A node that is none, or not any more.
pub(crate) struct Attacker {
    id: NodeId,
    blob: (Root, RootRecord),
    cluster: ClusterId,
    ca: [u8; 32],
    endpoint: Endpoint,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Attacker {
    /// Whether the node `at` talks to it as to a member.
    pub(crate) async fn is_member_at(&self, at: u64) -> bool {
        let mut raft = RaftClient::new(self.channel(at));
        timeout(SOON, raft.read_index(ReadIndexRequest::default())).await.is_ok_and(|answer| answer.is_ok())
    }

    fn channel(&self, at: u64) -> tonic::transport::Channel {
        self.endpoint.channel(NodeId(at))
    }

    /// Tries everything that a member may do, at the node `at`, which shall answer none of it.
    pub(crate) async fn attack(&self, at: u64, peer_addr: &str) -> Result<()> {
        let raft = || RaftClient::new(self.channel(at));
        let who = format!("node {} at node {at}", self.id);
        let refused = |what: &str, done: bool| {
            if done { Err(anyhow::anyhow!("{who}: {what} was answered")) } else { Ok(()) }
        };
        let entry = self.removal_of(at);
        let propose = ProposeRequest { entry: encode_entry(&entry).into(), ttl_ms: 2_000 };
        refused("a proposal of an operator", raft().propose(propose).await.is_ok())?;
        let change = change_membership_request::Change::Remove(at);
        let change = ChangeMembershipRequest { change: Some(change), ttl_ms: 2_000 };
        refused("a change of votes", raft().change_membership(change).await.is_ok())?;
        refused("a read", raft().read_index(ReadIndexRequest::default()).await.is_ok())?;
        let vote = Vote { term: HUGE, node: self.id.0, committed: false };
        let request = VoteRequest { vote: Some(vote), last_log: None, leadership_transfer: true };
        refused("a vote", raft().vote(request).await.is_ok())?;
        refused("an append", self.leads(at).await)?;
        refused("a fetch", self.fetch(at).await)?;
        self.ask_to_join(peer_addr).await.with_context(|| who)
    }

    fn removal_of(&self, node: u64) -> Entry {
        let cmd = LifecycleCmd::RemoveNode { node: NodeId(node), force: true }.into();
        let access = AccessRevisions::default();
        Entry { tick: 0, at: 0, actor: Actor::operator(), access, request: None, deadline: None, cmd }
    }

    /// Whether an append as the leader of a term that no cluster reaches is answered.
    pub(crate) async fn leads(&self, at: u64) -> bool {
        let vote = Some(Vote { term: HUGE, node: self.id.0, committed: true });
        let requests = stream::iter([AppendRequest { vote, ..AppendRequest::default() }]);
        let call = async {
            let mut answers =
                RaftClient::new(self.channel(at)).append(requests.chain(stream::pending())).await?;
            answers.get_mut().message().await
        };
        matches!(timeout(SOON, call).await, Ok(Ok(Some(_))))
    }

    /// Whether a blob is sent to it from there.
    pub(crate) async fn fetch(&self, at: u64) -> bool {
        let fetched = async {
            let (mut send, mut recv) = self.endpoint.open(NodeId(at), Class::Foreground).await.ok()?;
            let (root, end) = (self.blob.0.0.to_vec().into(), self.blob.1.size);
            let get =
                BlobRequest { op: Some(blob_request::Op::Get(Get { root, start: 0, end, groups: false })) };
            write_message(&mut send, &get).await.ok()?;
            let reply: GetReply = read_message(&mut recv, SOON).await.ok()?;
            Some(reply.held)
        };
        timeout(SOON, fetched).await.ok().flatten().unwrap_or(false)
    }

    /// A node that holds the blob.
    pub(crate) fn holder(&self) -> Result<u64> {
        let other = self.blob.1.holders.iter().find(|holder| **holder != self.id);
        Ok(other.context("another holder")?.0)
    }

    /// Asks the join service with a token of its own making.
    async fn ask_to_join(&self, peer_addr: &str) -> Result<()> {
        let applicant = Applicant {
            name: "intruder".into(),
            location: Location { region: "home".into(), zone: "a".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:1".into(),
        };
        let token = JoinToken::generate(self.ca);
        match join(peer_addr, &token, &NodeKey::generate()?, applicant).await {
            Ok(joined) => anyhow::bail!("it joined {} as node {}", self.cluster, joined.node),
            // It is not the members' CA any more.
            Err(PeerError::Io { .. }) => Ok(()),
            Err(error) => {
                let code = error.answer().map(|(code, _)| code);
                ensure!(code.is_some_and(|code| code != CallCode::Unavailable), "joining: {error}");
                Ok(())
            }
        }
    }
}
