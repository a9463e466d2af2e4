//! Members that are far from each other.

use std::time::{Duration, Instant};

use clawhub_peer::{Class, NodeKey, PeerInfo};
use clawhub_relay::{Place, Relay, Shape};
use clawhub_types::NodeId;
use tokio::time::{sleep, timeout};

use crate::common::{Cluster, Node};

/// There and back.
const WAY: Duration = Duration::from_millis(200);

/// Two members, each known by an address of the relay between them.
async fn far(cluster: &Cluster) -> (Node, Node, Relay) {
    let mut nodes = Vec::new();
    let mut places = Vec::new();
    for id in [1, 2] {
        let identity = cluster.identity(id, 1, NodeKey::generate().unwrap());
        let node = cluster.start_as(identity, format!("127.77.0.{id}:0").parse().unwrap()).await;
        let at = node.endpoint.local_addr();
        let advertised = format!("127.78.0.{id}:{}", at.port()).parse().unwrap();
        let mut members = cluster.members.0.lock();
        let info = members.get_mut(&NodeId(id)).unwrap();
        *info = PeerInfo { addr: format!("{advertised}"), spki: info.spki };
        places.push(Place { advertised, node: at });
        nodes.push(node);
    }
    let shape = Shape { delay: WAY / 2, ..Shape::default() };
    let relay = Relay::start(&places, |_, _| shape).unwrap();
    let [one, other] = <[Node; 2]>::try_from(nodes).ok().unwrap();
    (one, other, relay)
}

/// Calls, streams, and that both sides are told apart by their addresses: what is counted is between these two.
#[tokio::test(flavor = "multi_thread")]
async fn everything_takes_the_way_and_the_way_is_measured() {
    let cluster = Cluster::new(1);
    let (a, b, relay) = far(&cluster).await;
    let start = Instant::now();
    assert_eq!(a.ask(b.id).await.unwrap(), a.id.0);
    assert!(start.elapsed() >= 3 * WAY, "TCP, TLS, Hello and the call: {:?}", start.elapsed());
    assert_eq!(b.ask(a.id).await.unwrap(), b.id.0);
    assert!(b.echo(a.id, b"hello").await.unwrap() == b"hello");
    assert!(relay.counted(0, 1).bytes > 0 && relay.counted(1, 0).datagrams > 0);
    assert_eq!(a.endpoint.round_trip(b.id), None, "no connection for control by QUIC yet");
    drop(a.endpoint.open(b.id, Class::Control).await.unwrap());
    let measured = a.endpoint.round_trip(b.id).unwrap();
    assert!(measured >= WAY && measured < 2 * WAY, "{measured:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_goes_on_when_its_caller_gives_up() {
    let cluster = Cluster::new(1);
    let (a, b, _relay) = far(&cluster).await;
    assert!(timeout(WAY / 2, a.endpoint.open(b.id, Class::Foreground)).await.is_err(), "that was too soon");
    // QUIC, then Hello; and what a busy machine adds.
    sleep(5 * WAY).await;
    let opened = timeout(WAY / 2, a.endpoint.open(b.id, Class::Foreground)).await;
    opened.expect("the connection is there").unwrap();
}
