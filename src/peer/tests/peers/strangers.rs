//! Those who are not members: who joins, who errs, and who means harm.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{Cluster, Node, SOON};
use clawhub_peer::{Applicant, Hello, JoinSecret, JoinToken, NodeKey, PeerError, join, limits};
use clawhub_types::{ClusterId, Location, NodeId, Roles};
use clawhub_wire::peer::join_client::JoinClient;
use clawhub_wire::peer::raft_client::RaftClient;
use clawhub_wire::peer::{JoinReply, JoinRequest, Peer, ReadIndexRequest};
use hyper_util::rt::TokioIo;
use rand::{Rng, RngExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Believes everything: what matters here is what the other side believes.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

/// A certificate of the cluster and its private key.
type Papers = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn papers(cluster: &Cluster, node: u64) -> Papers {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    let identity = cluster.identity(node, 1, NodeKey::load_or_create(&path).unwrap());
    (identity.cert.into(), PrivateKeyDer::from_pem_file(path).unwrap())
}

fn config(alpn: &[&str], papers: Option<Papers>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match papers {
        Some((cert, key)) => builder.with_client_auth_cert(vec![cert], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn tls(to: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    TlsConnector::from(config).connect(ServerName::try_from("x").unwrap(), tcp).await
}

/// HTTP/2 over a stream that stands already.
async fn http(stream: TlsStream<TcpStream>) -> tonic::transport::Channel {
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = once.take().ok_or(io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    });
    tonic::transport::Endpoint::from_static("http://x").connect_with_connector(connector).await.unwrap()
}

const PEER: &str = "clawhub-peer/1";
const JOIN: &str = "clawhub-join/1";

fn frame(hello: &Hello) -> Vec<u8> {
    let mut frame = vec![1, 1, 0, 48];
    frame.extend(hello.cluster.0);
    for number in [hello.epoch, hello.node.0, hello.boot, hello.nonce] {
        frame.extend(number.to_be_bytes());
    }
    frame
}

/// Everything the other side says until it hangs up.
async fn last_words(stream: &mut TlsStream<TcpStream>) -> String {
    let mut said = Vec::new();
    // How it hangs up does not matter.
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("it hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_the_join_service_is_all_there_is() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let addr = node.endpoint.local_addr();
    let channel = http(tls(addr, config(&[JOIN], None)).await.unwrap()).await;
    let told = RaftClient::new(channel.clone()).read_index(ReadIndexRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::Unimplemented, "{told}");
    let told = JoinClient::new(channel).join(JoinRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::PermissionDenied, "{told}");
    assert_eq!((node.served.calls.load(Ordering::SeqCst), node.served.joins.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_certificate_makes_no_member_of_a_joining_connection() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let config = config(&[JOIN], Some(papers(&cluster, 2)));
    let channel = http(tls(node.endpoint.local_addr(), config).await.unwrap()).await;
    let told = RaftClient::new(channel.clone()).read_index(ReadIndexRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::Unimplemented, "{told}");
    // The service asserts that it sees no proved caller.
    let told = JoinClient::new(channel).join(JoinRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::PermissionDenied, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_protocol_needs_a_certificate_and_a_protocol_must_be_named() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let addr = node.endpoint.local_addr();
    let claims = frame(&Hello { cluster: cluster.id, epoch: 1, node: NodeId(1), boot: 1, nonce: 0 });
    for alpn in [&[PEER][..], &[]] {
        let Ok(mut stream) = tls(addr, config(alpn, None)).await else { continue };
        let _ = stream.write_all(&claims).await;
        let said = last_words(&mut stream).await;
        assert!(!said.contains("clawhub") && !said.starts_with("\u{1}\u{1}"), "{said:?}");
    }
    assert!(tls(addr, config(&["h2"], None)).await.is_err());
    assert_eq!(node.served.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_need_a_certificate_of_this_cluster() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(1));
    let (node, member) = (cluster.start(1).await, cluster.start(2).await);
    let claims = frame(&Hello { cluster: cluster.id, epoch: 1, node: member.id, boot: 1, nonce: 0 });
    for papers in [None, Some(papers(&other, 2)), Some(papers(&cluster, 2))] {
        let config = config(&["clawhub-streams/1"], papers);
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = client.connect_with(config, node.endpoint.local_addr(), "x").unwrap();
        // The client believes that it is connected before the server has seen its certificate.
        let Ok(connection) = connecting.await else { continue };
        let Ok((mut hello, _reply)) = connection.open_bi().await else { continue };
        let _ = hello.write_all(&claims).await;
        if let Ok((mut send, _recv)) = connection.open_bi().await {
            let _ = send.write_all(b"serve me").await;
        }
        timeout(SOON, connection.closed()).await.expect("the server hangs up");
    }
    assert_eq!(node.served.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_differs_from_the_certificate_is_refused_with_its_reason() {
    let cluster = Cluster::new(1);
    let (node, other) = (cluster.start(1).await, cluster.start(2).await);
    let honest = Hello { cluster: cluster.id, epoch: 1, node: NodeId(7), boot: 1, nonce: 0 };
    for (hello, reason) in [
        (Hello { cluster: ClusterId([9; 16]), ..honest }, "another cluster"),
        (Hello { epoch: 2, ..honest }, "another epoch"),
        (Hello { node: other.id, ..honest }, "its certificate is another node's"),
        (Hello { node: node.id, ..honest }, "its certificate is another node's"),
        (honest, "not a member"),
    ] {
        let config = config(&[PEER], Some(papers(&cluster, 7)));
        let mut stream = tls(node.endpoint.local_addr(), config).await.unwrap();
        stream.write_all(&frame(&hello)).await.unwrap();
        let said = last_words(&mut stream).await;
        assert!(said.contains(reason), "{hello:?}: {said:?}");
    }
    // A certificate for a member's id with another key than the member's.
    let config = config(&[PEER], Some(papers(&cluster, other.id.0)));
    let mut stream = tls(node.endpoint.local_addr(), config).await.unwrap();
    stream.write_all(&frame(&Hello { node: other.id, ..honest })).await.unwrap();
    assert!(last_words(&mut stream).await.contains("another key"));
    assert_eq!(other.ask(node.id).await.unwrap(), 2, "the real one is not harmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_hung_up_on() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let addr = node.endpoint.local_addr();
    let started = Instant::now();
    let before_tls = async {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    };
    let before_hello = async {
        let config = config(&[PEER], Some(papers(&cluster, 2)));
        let mut stream = tls(addr, config).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let within_hello = async {
        let config = config(&[PEER], Some(papers(&cluster, 2)));
        let mut stream = tls(addr, config).await.unwrap();
        stream.write_all(&[1, 1, 0]).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    timeout(limits::HANDSHAKE * 2, async { tokio::join!(before_tls, before_hello, within_hello) })
        .await
        .expect("all three end");
    assert!(started.elapsed() >= limits::HANDSHAKE - Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_send_little_and_few_may_be_there() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let addr = node.endpoint.local_addr();
    let channel = http(tls(addr, config(&[JOIN], None)).await.unwrap()).await;
    let name = "x".repeat(2 * limits::STRANGER_BYTES);
    JoinClient::new(channel).join(JoinRequest { name, ..Default::default() }).await.unwrap_err();
    assert_eq!(node.served.joins.load(Ordering::SeqCst), 0);

    let mut held = Vec::new();
    for _ in 0..limits::STRANGERS {
        let mut stream = tls(addr, config(&[JOIN], None)).await.unwrap();
        // The server's first frame shows that it was let in.
        stream.read_exact(&mut [0]).await.unwrap();
        held.push(stream);
    }
    let mut late = tls(addr, config(&[JOIN], None)).await.unwrap();
    assert_eq!(last_words(&mut late).await, "");
    // Members are served all the same.
    let member = cluster.start(2).await;
    assert_eq!(member.ask(node.id).await.unwrap(), 2);
    drop(held);
    crate::common::eventually("places are free again", || async {
        let mut stream = tls(addr, config(&[JOIN], None)).await.unwrap();
        matches!(timeout(SOON, stream.read_exact(&mut [0])).await, Ok(Ok(_)))
    })
    .await;
}

fn applicant() -> Applicant {
    Applicant {
        name: "n2".into(),
        location: Location { region: "eu".into(), zone: "a".into() },
        roles: Roles { voter: true, storage: true },
        peer_addr: "127.0.0.1:7000".into(),
        http_addr: "127.0.0.1:5000".into(),
    }
}

/// What a cluster answers to a node with this key.
fn admitted(cluster: &Cluster, key: &NodeKey, id: u64) -> JoinReply {
    let csr = clawhub_peer::Csr::parse(&key.csr().unwrap()).unwrap();
    let members = cluster.members.0.lock();
    let peers = members.iter().map(|(node, info)| Peer {
        node: node.0,
        addr: info.addr.clone(),
        spki: info.spki.to_vec().into(),
    });
    JoinReply {
        node: id,
        cluster: cluster.id.0.to_vec().into(),
        epoch: 1,
        certificate: cluster.ca.issue(csr, NodeId(id)).unwrap().into(),
        ca_certificate: cluster.ca.cert_der().to_vec().into(),
        cluster_key: cluster.key.expose().to_vec().into(),
        peers: peers.collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_with_a_token_and_is_a_member_with_what_it_got() {
    let cluster = Cluster::new(1);
    let first = cluster.start(1).await;
    let key = NodeKey::generate().unwrap();
    *first.served.join_reply.lock() = Some(admitted(&cluster, &key, 2));
    let token: JoinToken = JoinToken::generate(cluster.ca.spki_sha256()).to_string().parse().unwrap();
    let addr = first.endpoint.local_addr().to_string();
    let joined = join(&addr, &token, &key, applicant()).await.unwrap();
    assert_eq!((joined.node, joined.cluster, joined.epoch), (NodeId(2), cluster.id, 1));
    assert!(joined.cluster_key == cluster.key);
    assert_eq!(joined.peers.len(), 1);

    let hello = Hello { cluster: joined.cluster, epoch: joined.epoch, node: joined.node, boot: 1, nonce: 0 };
    let identity = clawhub_peer::Identity { key, cert: joined.cert, ca_cert: joined.ca_cert, hello };
    let second = cluster.start_as(identity, "127.0.0.1:0".parse().unwrap()).await;
    assert_eq!(second.ask(first.id).await.unwrap(), 2);
    assert_eq!(first.ask(second.id).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_the_token_does_not_pin_is_told_nothing() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(1));
    let (node, key) = (cluster.start(1).await, NodeKey::generate().unwrap());
    *node.served.join_reply.lock() = Some(admitted(&cluster, &key, 2));
    let token = JoinToken::generate(other.ca.spki_sha256());
    let addr = node.endpoint.local_addr().to_string();
    join(&addr, &token, &key, applicant()).await.unwrap_err();
    assert_eq!(node.served.joins.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_does_not_fit_is_not_believed() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(1));
    let (node, key) = (cluster.start(1).await, NodeKey::generate().unwrap());
    let token = JoinToken::generate(cluster.ca.spki_sha256());
    let addr = node.endpoint.local_addr().to_string();
    let good = || admitted(&cluster, &key, 2);
    let ca_certificate = || other.ca.cert_der().to_vec().into();
    for bad in [
        JoinReply::default(),
        JoinReply { node: 3, ..good() },
        JoinReply { cluster: vec![7; 16].into(), ..good() },
        JoinReply { cluster_key: vec![0; 32].into(), ..good() },
        JoinReply { ca_certificate: ca_certificate(), ..good() },
        JoinReply { certificate: admitted(&other, &key, 2).certificate, ..good() },
        admitted(&other, &key, 2),
        admitted(&cluster, &NodeKey::generate().unwrap(), 2),
    ] {
        *node.served.join_reply.lock() = Some(bad);
        let refused = join(&addr, &token, &key, applicant()).await;
        assert!(matches!(refused, Err(PeerError::Certificate(_))), "{refused:?}");
    }
    *node.served.join_reply.lock() = None;
    let refused = join(&addr, &token, &key, applicant()).await.unwrap_err();
    assert!(matches!(&refused, PeerError::Call(s) if s.code() == tonic::Code::PermissionDenied), "{refused}");
    assert_eq!(refused.to_string(), "no such token");
    assert!(JoinSecret::from_bytes(&[]).is_err());
}

/// What a well-meaning client sends first, to be spoilt.
fn client_hello() -> Vec<u8> {
    let name = ServerName::try_from("x").unwrap();
    let mut client = rustls::ClientConnection::new(config(&[PEER], None), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Some bytes: noise, or something real with noise in it.
fn spoilt(rng: &mut impl Rng, real: &[u8]) -> Vec<u8> {
    let mut bytes = real.to_vec();
    match rng.random_range(0..4) {
        0 => bytes = vec![0; rng.random_range(1..3000)],
        1 => bytes.truncate(rng.random_range(0..=real.len())),
        _ => {}
    }
    if bytes.iter().all(|b| *b == 0) {
        rng.fill_bytes(&mut bytes);
    }
    for _ in 0..rng.random_range(0..6) {
        if !bytes.is_empty() {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
    }
    bytes
}

/// A QUIC Initial packet as far as it can be read without keys: flags, version, connection ids, token
/// length, length.
fn initial(rng: &mut impl Rng) -> Vec<u8> {
    let mut packet = vec![0xC0 | rng.random::<u8>() & 0x3F, 0, 0, 0, rng.random_range(0..3)];
    for _ in 0..2 {
        let id = rng.random_range(0..=20u8);
        packet.push(id);
        packet.extend((0..id).map(|_| rng.random::<u8>()));
    }
    packet.push(0);
    packet.extend([0x44, 0xB0]);
    packet.resize(1200, rng.random());
    packet
}

async fn noise_over_tcp(addr: SocketAddr, until: Instant) {
    let (mut rng, real) = (rand::rng(), client_hello());
    while Instant::now() < until {
        let Ok(mut tcp) = TcpStream::connect(addr).await else { continue };
        let _ = tcp.write_all(&spoilt(&mut rng, &real)).await;
        let _ = timeout(Duration::from_millis(5), tcp.read(&mut [0; 512])).await;
    }
}

async fn noise_within_tls(addr: SocketAddr, until: Instant, cluster: &Cluster) {
    let mut rng = rand::rng();
    let hello = frame(&Hello { cluster: cluster.id, epoch: 1, node: NodeId(2), boot: 1, nonce: 0 });
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    while Instant::now() < until {
        let member = rng.random();
        let config = if member { config(&[PEER], Some(papers(cluster, 2))) } else { config(&[JOIN], None) };
        let Ok(mut stream) = tls(addr, config).await else { continue };
        let real = if member { &hello } else { &preface };
        let _ = stream.write_all(&spoilt(&mut rng, real)).await;
        let _ = stream.write_all(&spoilt(&mut rng, &preface)).await;
        let _ = timeout(Duration::from_millis(5), stream.read(&mut [0; 512])).await;
    }
}

async fn noise_over_udp(addr: SocketAddr, until: Instant) {
    let mut rng = rand::rng();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    while Instant::now() < until {
        for _ in 0..50 {
            let real = initial(&mut rng);
            let _ = socket.send_to(&spoilt(&mut rng, &real), addr).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_at_both_ports_does_no_harm() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.start(1).await, cluster.start(3).await);
    let addr = a.endpoint.local_addr();
    let until = Instant::now() + Duration::from_secs(4);
    let good = async {
        let mut rounds = 0;
        while Instant::now() < until {
            assert_eq!(b.ask(a.id).await.unwrap(), 3);
            assert_eq!(b.echo(a.id, b"through the noise").await.unwrap(), b"through the noise");
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rounds
    };
    let (_, _, _, rounds) = tokio::join!(
        noise_over_tcp(addr, until),
        noise_within_tls(addr, until, &cluster),
        noise_over_udp(addr, until),
        good
    );
    assert!(rounds > 10, "{rounds}");
    // New connections are made as well.
    let c = cluster.start(4).await;
    assert_eq!(c.ask(a.id).await.unwrap(), 4);
    assert_eq!(c.echo(a.id, b"new").await.unwrap(), b"new");
    let _: &Node = &a;
}
