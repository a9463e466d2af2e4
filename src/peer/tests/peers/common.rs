//! Small clusters of endpoints on loopback, for the tests of this crate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clawhub_peer::{
    Admission, Ca, Caller, ClusterKey, Csr, Directory, Endpoint, Hello, Identity, NodeKey, PeerInfo, Proof,
    RecvStream, Refusal, RefusalCode, SendStream, StreamHandler, caller, log_caller,
};
use clawhub_types::{ClusterId, NodeId};
use clawhub_wire::peer::join_server::{Join, JoinServer};
use clawhub_wire::peer::raft_server::{Raft, RaftServer};
use clawhub_wire::peer::*;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here may take, shorter than a person waits.
pub const SOON: Duration = Duration::from_secs(20);

/// Who is a member. Shared by the nodes of a cluster, unless a test says otherwise.
#[derive(Default)]
pub struct Members(pub Mutex<HashMap<NodeId, PeerInfo>>, pub AtomicBool);

impl Members {
    /// From now on those who ask are behind, or no more: they let strangers in for the log.
    pub fn behind(&self, behind: bool) {
        self.1.store(behind, Ordering::SeqCst);
    }
}

impl Directory for Members {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        self.0.lock().get(&node).cloned()
    }

    fn admit(&self, hello: &Hello, proof: &Proof) -> Result<Admission, Refusal> {
        match self.lookup(hello.node) {
            Some(info) if info.spki == proof.spki => Ok(Admission::Member),
            Some(_) => Err(Refusal::new(RefusalCode::WrongIdentity, "another key")),
            None if self.1.load(Ordering::SeqCst) => Ok(Admission::LogOnly),
            None => Err(Refusal::new(RefusalCode::UnknownNode, "not a member")),
        }
    }
}

pub struct Cluster {
    pub id: ClusterId,
    pub ca: Ca,
    pub key: ClusterKey,
    pub members: Arc<Members>,
}

impl Cluster {
    pub fn new(id: u8) -> Cluster {
        let id = ClusterId([id; 16]);
        let ca = Ca::create(id).unwrap();
        Cluster { id, ca, key: ClusterKey::generate(), members: Arc::default() }
    }

    /// An identity and, beside it, its key once more.
    pub fn identity(&self, node: u64, boot: u64, key: NodeKey) -> Identity {
        let cert = self.ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), NodeId(node)).unwrap();
        let hello = Hello { cluster: self.id, epoch: 1, node: NodeId(node), boot, nonce: 0 };
        Identity { key, cert, ca_cert: self.ca.cert_der().to_vec(), hello }
    }

    /// Starts a member on any port.
    pub async fn start(&self, node: u64) -> Node {
        let identity = self.identity(node, 1, NodeKey::generate().unwrap());
        self.start_as(identity, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts a member and enters it in the directory.
    pub async fn start_as(&self, identity: Identity, listen: SocketAddr) -> Node {
        let (id, spki) = (identity.hello.node, identity.key.spki_sha256());
        let node = Node::start(identity, listen, self.members.clone()).await;
        let info = PeerInfo { addr: node.endpoint.local_addr().to_string(), spki };
        self.members.0.lock().insert(id, info);
        node
    }
}

pub struct Node {
    pub id: NodeId,
    spki: [u8; 32],
    pub endpoint: Endpoint,
    pub served: Arc<Served>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    pub async fn start(identity: Identity, listen: SocketAddr, directory: Arc<dyn Directory>) -> Node {
        let (id, spki) = (identity.hello.node, identity.key.spki_sha256());
        let endpoint = Endpoint::bind(listen, identity, directory).await.unwrap();
        let served = Arc::new(Served::default());
        let (stop, stopped) = oneshot::channel();
        let serve = endpoint.clone().serve(
            Routes::new(RaftServer::from_arc(served.clone())),
            Routes::new(JoinServer::from_arc(served.clone())),
            served.clone(),
            async {
                let _ = stopped.await;
            },
        );
        let task = tokio::spawn(async move { serve.await.unwrap() });
        Node { id, spki, endpoint, served, stop, task }
    }

    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub fn endpoint_spki(&self) -> [u8; 32] {
        self.spki
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }

    /// A call to a peer that answers with who it thinks called.
    pub async fn ask(&self, peer: NodeId) -> Result<u64, Status> {
        let mut client = raft_client::RaftClient::new(self.endpoint.channel(peer));
        let call = client.read_index(ReadIndexRequest::default());
        let reply = tokio::time::timeout(SOON, call).await.expect("calls end")?;
        match reply.into_inner().result {
            Some(read_index_reply::Result::NotLeader(NotLeader { leader: Some(caller) })) => Ok(caller),
            other => panic!("{other:?}"),
        }
    }

    /// A stream to a peer that sends everything back.
    pub async fn echo(&self, peer: NodeId, what: &[u8]) -> Result<Vec<u8>, String> {
        let echoed = async {
            let (mut send, mut recv) =
                self.endpoint.open(peer, clawhub_peer::Class::Foreground).await.map_err(|e| e.to_string())?;
            let write = async {
                send.write_all(what).await.map_err(|e| e.to_string())?;
                send.finish().map_err(|e| e.to_string())
            };
            let read = async { recv.read_to_end(64 << 20).await.map_err(|e| e.to_string()) };
            futures::try_join!(write, read).map(|(_, back)| back)
        };
        tokio::time::timeout(SOON, echoed).await.expect("streams end")
    }
}

/// What a node serves, to members and in part to whoever was let in for the log, as a real node does: the read index
/// call answers with the caller's id, appends are answered one by one, joins are counted and refused, streams are
/// echoed.
#[derive(Default)]
pub struct Served {
    pub calls: AtomicUsize,
    pub joins: AtomicUsize,
    pub streams: AtomicUsize,
    pub join_reply: Mutex<Option<JoinReply>>,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for Served {
    type AppendStream = Out<AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        log_caller(&request)?;
        let answers = request.into_inner().map(|r| r.map(|_| AppendResponse::default()));
        Ok(Response::new(answers.boxed()))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let leader = Some(caller(&request)?.0);
        let result = Some(read_index_reply::Result::NotLeader(NotLeader { leader }));
        Ok(Response::new(ReadIndexReply { result }))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        caller(&request)?;
        Ok(Response::new(ProposeReply::default()))
    }

    async fn vote(&self, _: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pre_vote(&self, _: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leader(
        &self,
        _: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn change_membership(
        &self,
        _: Request<ChangeMembershipRequest>,
    ) -> Result<Response<ChangeMembershipReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Join for Served {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        assert!(caller(&request).is_err(), "nobody is proved here");
        self.joins.fetch_add(1, Ordering::SeqCst);
        let reply = self.join_reply.lock().clone();
        reply.map(Response::new).ok_or_else(|| Status::permission_denied("no such token"))
    }
}

impl StreamHandler for Served {
    fn handle(&self, _: Caller, mut send: SendStream, mut recv: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.streams.fetch_add(1, Ordering::SeqCst);
            while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
                if send.write_chunk(chunk.bytes).await.is_err() {
                    return;
                }
            }
            let _ = send.finish();
        })
    }
}

/// Waits until something is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let until = tokio::time::Instant::now() + SOON;
    while !check().await {
        assert!(tokio::time::Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until both sockets of an address are free: whoever had them is gone, or about to be.
pub async fn free(addr: SocketAddr) {
    eventually("the port is free", || async {
        std::net::TcpListener::bind(addr).is_ok() && std::net::UdpSocket::bind(addr).is_ok()
    })
    .await;
}
