//! Somebody who has the whole disk of a member, or of a former one: the cluster key, the sealed key of the CA, and so
//! a certificate for any id.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::common::{Cluster, Members, Node, SOON, eventually};
use clawhub_peer::{Ca, Csr, Directory, Hello, Identity, NodeKey, PeerInfo};
use clawhub_types::NodeId;
use clawhub_wire::peer::join_client::JoinClient;
use clawhub_wire::peer::raft_client::RaftClient;
use clawhub_wire::peer::{AppendRequest, JoinRequest, ProposeRequest, ReadIndexRequest};
use futures::{StreamExt, stream};
use tokio::time::timeout;
use tonic::Code;

/// Opens the CA as it lies on the disk of every member, and issues itself a certificate for this id.
async fn intruder(cluster: &Cluster, id: u64) -> Node {
    let sealed = cluster.ca.seal_key(&cluster.key);
    let ca = Ca::open(cluster.ca.cert_der(), &sealed, &cluster.key).unwrap();
    let key = NodeKey::generate().unwrap();
    let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), NodeId(id)).unwrap();
    let hello = Hello { cluster: cluster.id, epoch: 1, node: NodeId(id), boot: 1_000, nonce: 7 };
    let identity = Identity { key, cert, ca_cert: cluster.ca.cert_der().to_vec(), hello };
    // It knows everybody; nobody has it in their directory.
    let everybody = Arc::new(Members::default());
    everybody.0.lock().extend(cluster.members.0.lock().clone());
    Node::start(identity, "127.0.0.1:0".parse().unwrap(), everybody).await
}

/// A call of the log lane: the first answer to an append.
async fn append(from: &Node, to: NodeId) -> Result<(), tonic::Status> {
    let mut client = RaftClient::new(from.endpoint.channel(to));
    let requests = stream::iter([AppendRequest::default()]).chain(stream::pending());
    let mut answers = timeout(SOON, client.append(requests)).await.expect("calls end")?.into_inner();
    let first = timeout(SOON, answers.message()).await.expect("an answer or an end")?;
    first.map(drop).ok_or_else(|| tonic::Status::aborted("the stream ended"))
}

/// The code of what a call for members is answered with.
async fn as_member(from: &Node, to: NodeId) -> [Code; 3] {
    let channel = from.endpoint.channel(to);
    let propose = RaftClient::new(channel.clone()).propose(ProposeRequest::default()).await;
    let read = RaftClient::new(channel.clone()).read_index(ReadIndexRequest::default()).await;
    let join = JoinClient::new(channel).join(JoinRequest::default()).await;
    [propose.map(drop), read.map(drop), join.map(drop)]
        .map(|told| told.map_or_else(|e| e.code(), |()| Code::Ok))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_authority_is_nobody_with_an_id_of_its_own_making() {
    let cluster = Cluster::new(1);
    let nodes = [cluster.start(1).await, cluster.start(2).await];
    let intruder = intruder(&cluster, 999).await;
    for node in &nodes {
        append(&intruder, node.id).await.unwrap_err();
        assert!(as_member(&intruder, node.id).await.iter().all(|code| *code != Code::Ok));
        let told = intruder.echo(node.id, b"bytes").await.unwrap_err();
        assert!(told.contains("not a member"), "{told}");
        assert_eq!(node.served.calls.load(Ordering::SeqCst), 0);
        assert_eq!(node.served.streams.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_id_with_another_key_is_refused_by_callers_and_called() {
    let cluster = Cluster::new(1);
    let (node, real) = (cluster.start(1).await, cluster.start(2).await);
    // Behind or not: the record of the member says which key is its own.
    for behind in [false, true] {
        cluster.members.behind(behind);
        let forged = intruder(&cluster, 2).await;
        append(&forged, node.id).await.unwrap_err();
        let told = forged.echo(node.id, b"bytes").await.unwrap_err();
        assert!(told.contains("another key"), "{told}");
        // Where the real one is looked for, the forger is found, and known.
        let genuine = cluster.members.lookup(real.id).unwrap();
        let addr = forged.endpoint.local_addr().to_string();
        cluster.members.0.lock().insert(real.id, PeerInfo { addr, ..genuine.clone() });
        let told = node.echo(real.id, b"secret").await.unwrap_err();
        assert!(told.contains("not the node that was called"), "{told}");
        assert_eq!(forged.served.streams.load(Ordering::SeqCst), 0);
        cluster.members.0.lock().insert(real.id, genuine);
    }
    assert_eq!(real.ask(node.id).await.unwrap(), 2, "the real one is not harmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_known_yet_brings_the_log_and_nothing_else() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    cluster.members.behind(true);
    let new = intruder(&cluster, 7).await;
    append(&new, node.id).await.unwrap();
    let refused = [Code::PermissionDenied, Code::PermissionDenied, Code::Unimplemented];
    assert_eq!(as_member(&new, node.id).await, refused);
    let told = new.echo(node.id, b"bytes").await.unwrap_err();
    assert!(told.contains("not a member as far as this node knows"), "{told}");

    // The log says that it is one: the connection that it has is good for everything.
    let spki = new.endpoint_spki();
    cluster.members.0.lock().insert(new.id, PeerInfo { addr: new.endpoint.local_addr().to_string(), spki });
    node.endpoint.review();
    assert_eq!(new.ask(node.id).await.unwrap(), 7);
    assert_eq!(new.echo(node.id, b"bytes").await.unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_still_unknown_when_a_node_has_caught_up_is_hung_up_on() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    cluster.members.behind(true);
    let stranger = intruder(&cluster, 999).await;
    let mut client = RaftClient::new(stranger.endpoint.channel(node.id));
    let requests = stream::iter([AppendRequest::default()]).chain(stream::pending());
    let mut answers = client.append(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    cluster.members.behind(false);
    node.endpoint.review();
    let end = timeout(SOON, answers.message()).await.expect("the stream ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    eventually("it is not let in again", || async { append(&stranger, node.id).await.is_err() }).await;
}
