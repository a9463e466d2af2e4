//! Members that talk to each other, and those that must not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{Cluster, Members, Node, SOON, eventually, free};
use clawhub_peer::{Class, Directory, Endpoint, NodeKey, PeerError, PeerInfo, Standing, limits};
use clawhub_types::NodeId;
use clawhub_wire::peer::raft_client::RaftClient;
use clawhub_wire::peer::{AppendRequest, ProposeRequest};
use futures::{StreamExt, stream};
use tokio::time::timeout;

fn any() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_both_ways_and_the_caller_is_proved() {
    let cluster = Cluster::new(1);
    let (a, b, c) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    for (from, to) in [(&a, &b), (&b, &a), (&b, &c), (&c, &a), (&a, &c), (&c, &b)] {
        assert_eq!(from.ask(to.id).await.unwrap(), from.id.0);
    }
    assert_eq!(a.endpoint.standing(b.id), Standing::Connected);
    assert_eq!(a.endpoint.standing(NodeId(9)), Standing::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_bytes_both_ways_in_every_class() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    let bytes: Vec<u8> = (0..20 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(a.echo(b.id, &bytes).await.unwrap() == bytes);
    assert!(b.echo(a.id, b"hello").await.unwrap() == b"hello");
    for class in [Class::Control, Class::Foreground, Class::Background] {
        let (mut send, mut recv) = a.endpoint.open(b.id, class).await.unwrap();
        send.write_all(&[class as u8]).await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(9).await.unwrap(), [class as u8]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_connection_per_class() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    let echoes = stream::iter(0..300u32).map(|n| {
        let (a, id) = (&a, b.id);
        async move { a.echo(id, &n.to_be_bytes()).await.unwrap() == n.to_be_bytes() }
    });
    assert_eq!(echoes.buffer_unordered(300).filter(|ok| std::future::ready(*ok)).count().await, 300);
    assert_eq!(b.served.streams.load(Ordering::SeqCst), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_stay_open_hold_up_no_other_class() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    let mut open = Vec::new();
    // More than are served at once over all connections.
    for (class, count) in [(Class::Foreground, 1000), (Class::Background, 100)] {
        for _ in 0..count {
            let mut stream = a.endpoint.open(b.id, class).await.unwrap();
            stream.0.write_all(b"a mirror that rests").await.unwrap();
            open.push(stream);
        }
    }
    eventually("as many are served as may be", || async {
        b.served.streams.load(Ordering::SeqCst) >= limits::STREAMS
    })
    .await;
    let (mut send, mut recv) = a.endpoint.open(b.id, Class::Control).await.unwrap();
    send.write_all(b"ping").await.unwrap();
    send.finish().unwrap();
    assert_eq!(timeout(SOON, recv.read_to_end(9)).await.expect("at once").unwrap(), b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_authority_is_refused_and_refuses() {
    let (ours, theirs) = (Cluster::new(1), Cluster::new(1));
    let a = ours.start(1).await;
    // Same cluster id, same node ids, another CA; each has the other's address.
    let x = theirs.start(2).await;
    let addr = x.endpoint.local_addr().to_string();
    let spki = theirs.members.lookup(x.id).unwrap().spki;
    ours.members.0.lock().insert(x.id, PeerInfo { addr, spki });
    theirs.members.0.lock().insert(a.id, ours.members.lookup(a.id).unwrap());
    a.ask(x.id).await.unwrap_err();
    x.ask(a.id).await.unwrap_err();
    a.echo(x.id, b"hello").await.unwrap_err();
    x.echo(a.id, b"hello").await.unwrap_err();
    for node in [&a, &x] {
        assert_eq!(node.served.calls.load(Ordering::SeqCst), 0);
        assert_eq!(node.served.streams.load(Ordering::SeqCst), 0);
    }
    assert_eq!(a.endpoint.standing(x.id), Standing::Down);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_epoch_of_the_cluster_is_refused_with_its_reason() {
    let cluster = Cluster::new(1);
    let a = cluster.start(1).await;
    let mut identity = cluster.identity(2, 1, NodeKey::generate().unwrap());
    identity.hello.epoch = 2;
    let b = cluster.start_as(identity, any()).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let told = from.echo(to.id, b"hello").await.unwrap_err();
        assert!(told.contains("the peer refused: it belongs to another epoch"), "{told}");
        from.ask(to.id).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_directory_does_not_know_is_refused_and_told_why() {
    let cluster = Cluster::new(1);
    let a = cluster.start(1).await;
    // It knows everybody; the others know nothing of it.
    let everybody = Arc::new(Members::default());
    everybody.0.lock().insert(a.id, cluster.members.lookup(a.id).unwrap());
    let identity = cluster.identity(7, 1, NodeKey::generate().unwrap());
    let stray = Node::start(identity, any(), everybody).await;
    let told = stray.echo(a.id, b"hello").await.unwrap_err();
    assert!(told.contains("not a member"), "{told}");
    let told = stray.ask(a.id).await.unwrap_err();
    assert!(format!("{told:?}").contains("not a member"), "{told:?}");
    assert_eq!(a.served.calls.load(Ordering::SeqCst), 0);
    let unknown = a.endpoint.open(NodeId(7), Class::Control).await.unwrap_err();
    assert!(matches!(unknown, PeerError::UnknownNode(NodeId(7))), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_at_another_members_address_is_not_taken_for_it() {
    let cluster = Cluster::new(1);
    let (a, b, c) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    let addr = c.endpoint.local_addr().to_string();
    cluster.members.0.lock().get_mut(&b.id).unwrap().addr = addr;
    a.ask(b.id).await.unwrap_err();
    let told = a.echo(b.id, b"hello").await.unwrap_err();
    assert!(told.contains("not the node that was called"), "{told}");
    assert_eq!(c.served.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_closes_live_connections_in_both_directions() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    // Long calls and streams, opened by each side.
    let mut calls = Vec::new();
    let mut streams = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let mut client = RaftClient::new(from.endpoint.channel(to.id));
        let requests = stream::iter([AppendRequest::default()]).chain(stream::pending());
        let mut answers = client.append(requests).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        calls.push(answers);
        let (mut send, mut recv) = from.endpoint.open(to.id, Class::Foreground).await.unwrap();
        send.write_all(b"x").await.unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        streams.push((send, recv));
    }
    let kept = b.endpoint.channel(a.id);
    let gone = cluster.members.0.lock().remove(&a.id).unwrap();
    b.endpoint.review();
    for mut call in calls {
        let end = timeout(SOON, call.message()).await.expect("calls end");
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    }
    for (_send, mut recv) in streams {
        timeout(SOON, recv.read_exact(&mut [0])).await.expect("streams end").unwrap_err();
    }
    // Neither side gets back in, not by a channel kept from before either.
    a.ask(b.id).await.unwrap_err();
    b.ask(a.id).await.unwrap_err();
    RaftClient::new(kept).read_index(clawhub_wire::peer::ReadIndexRequest::default()).await.unwrap_err();
    a.echo(b.id, b"x").await.unwrap_err();
    // And all is well again if it was not meant so.
    cluster.members.0.lock().insert(a.id, gone);
    assert_eq!(a.ask(b.id).await.unwrap(), 1);
    assert_eq!(b.ask(a.id).await.unwrap(), 2);
    assert_eq!(a.echo(b.id, b"x").await.unwrap(), b"x");
}

/// Runs a node in a runtime of its own, so that it can die without a goodbye.
fn mortal(start: impl Future<Output = Node> + Send + 'static) -> (tokio::runtime::Runtime, Node) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let handle = runtime.spawn(start);
    let node = futures::executor::block_on(handle).unwrap();
    (runtime, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_is_noticed_and_its_next_start_is_reached() {
    let cluster = Arc::new(Cluster::new(1));
    let a = cluster.start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let key = move || NodeKey::load_or_create(&dir.path().join("node.key")).unwrap();
    let identity = cluster.identity(2, 1, key());
    let (runtime, b) = mortal({
        let cluster = cluster.clone();
        async move { cluster.start_as(identity, any()).await }
    });
    let (id, addr) = (b.id, b.endpoint.local_addr());
    assert_eq!(a.ask(id).await.unwrap(), 1);
    let (mut send, mut recv) = a.endpoint.open(id, Class::Foreground).await.unwrap();
    send.write_all(b"x").await.unwrap();
    recv.read_exact(&mut [0]).await.unwrap();

    let died = Instant::now();
    runtime.shutdown_background();
    drop(b);
    timeout(SOON, recv.read_exact(&mut [0])).await.expect("the stream ends").unwrap_err();
    assert!(died.elapsed() < Duration::from_secs(3), "noticed after {:?}", died.elapsed());
    assert_eq!(a.endpoint.standing(id), Standing::Down);
    a.ask(id).await.unwrap_err();

    free(addr).await;
    let restarted = Instant::now();
    let b = cluster.start_as(cluster.identity(2, 2, key()), addr).await;
    eventually("the channel connects again", || async { a.ask(id).await.is_ok() }).await;
    assert_eq!(a.echo(id, b"again").await.unwrap(), b"again");
    assert_eq!(b.ask(a.id).await.unwrap(), 2);
    assert!(restarted.elapsed() < Duration::from_secs(3), "reached after {:?}", restarted.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_only_peer_that_restarts_is_reached_without_waiting_for_silence() {
    let cluster = Arc::new(Cluster::new(1));
    let a = cluster.start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let key = move || NodeKey::load_or_create(&dir.path().join("node.key")).unwrap();
    let identity = cluster.identity(2, 1, key());
    let (runtime, b) = mortal({
        let cluster = cluster.clone();
        async move { cluster.start_as(identity, any()).await }
    });
    let (id, addr) = (b.id, b.endpoint.local_addr());
    assert_eq!(a.echo(id, b"x").await.unwrap(), b"x");
    runtime.shutdown_background();
    drop(b);
    let restarted = Instant::now();
    free(addr).await;
    let _b = cluster.start_as(cluster.identity(2, 2, key()), addr).await;
    eventually("streams open again", || async { a.echo(id, b"again").await.is_ok() }).await;
    assert!(restarted.elapsed() < Duration::from_secs(6), "reached after {:?}", restarted.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_start_of_a_member_is_refused_once_a_later_one_was_seen() {
    let cluster = Cluster::new(1);
    let a = cluster.start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let key = || NodeKey::load_or_create(&dir.path().join("node.key")).unwrap();
    let old = cluster.start_as(cluster.identity(2, 4, key()), any()).await;
    assert_eq!(old.ask(a.id).await.unwrap(), 2);
    let new = cluster.start_as(cluster.identity(2, 5, key()), any()).await;
    assert_eq!(new.ask(a.id).await.unwrap(), 2);
    // The old one's connection was closed, and it does not get another.
    eventually("the twin is out", || async { old.ask(a.id).await.is_err() }).await;
    let told = old.echo(a.id, b"x").await.unwrap_err();
    assert!(told.contains("a later start of it is here"), "{told}");
    assert_eq!(new.ask(a.id).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    let mut client = RaftClient::new(a.endpoint.channel(b.id));
    let propose = |n: usize| ProposeRequest { entry: vec![7; n].into(), ttl_ms: 1 };
    client.propose(propose(3 << 20)).await.unwrap();
    let refused = client.propose(propose(clawhub_peer::limits::MESSAGE + 1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert_eq!(a.ask(b.id).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_everything_and_frees_the_port() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(2).await);
    assert_eq!(a.ask(b.id).await.unwrap(), 1);
    assert_eq!(a.echo(b.id, b"x").await.unwrap(), b"x");
    let (id, addr, endpoint) = (b.id, b.endpoint.local_addr(), b.endpoint.clone());
    timeout(SOON, b.stop()).await.expect("stops");
    assert!(matches!(endpoint.open(a.id, Class::Control).await, Err(PeerError::Closed)));
    a.ask(id).await.unwrap_err();
    drop(endpoint);
    free(addr).await;
    let again = cluster.identity(2, 2, NodeKey::generate().unwrap());
    let _b = cluster.start_as(again, addr).await;
    assert_eq!(a.ask(id).await.unwrap(), 1);
}

#[tokio::test]
async fn an_identity_that_does_not_fit_together_is_refused_at_once() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(2));
    let fresh = || cluster.identity(1, 1, NodeKey::generate().unwrap());
    let mut wrong_key = fresh();
    wrong_key.key = NodeKey::generate().unwrap();
    let mut wrong_node = fresh();
    wrong_node.hello.node = NodeId(2);
    let mut wrong_cluster = fresh();
    wrong_cluster.hello.cluster = other.id;
    let mut wrong_ca = fresh();
    wrong_ca.ca_cert = Cluster::new(1).ca.cert_der().to_vec();
    let mut garbage = fresh();
    garbage.cert = vec![0x30, 0x03];
    for identity in [wrong_key, wrong_node, wrong_cluster, wrong_ca, garbage] {
        let refused = Endpoint::bind(any(), identity, cluster.members.clone()).await;
        assert!(matches!(refused, Err(PeerError::Identity(_) | PeerError::Certificate(_))));
    }
    Endpoint::bind(any(), fresh(), cluster.members.clone()).await.unwrap();
}
