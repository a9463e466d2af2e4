//! Keys that are replaced while endpoints serve.

use std::sync::Arc;

use crate::common::{Cluster, Members, Node, SOON, eventually};
use clawhub_peer::{
    Admission, Ca, Certified, Class, Csr, Directory, Hello, Identity, Keyring, NodeKey, PeerInfo, Proof,
    Refusal, RefusalCode,
};
use clawhub_types::NodeId;
use parking_lot::Mutex;
use tokio::time::timeout;

/// Members by the keys that count.
#[derive(Default)]
struct Known {
    members: Members,
    keys: Mutex<Vec<[u8; 32]>>,
}

impl Directory for Known {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        self.members.lookup(node)
    }

    fn admit(&self, _: &Hello, proof: &Proof) -> Result<Admission, Refusal> {
        match self.keys.lock().contains(&proof.spki) {
            true => Ok(Admission::Member),
            false => Err(Refusal::new(RefusalCode::WrongIdentity, "a key of nobody")),
        }
    }
}

/// A node with a certificate of each of two CAs.
struct Both {
    node: Node,
    old: Certified,
    new: Certified,
}

fn certified(ca: &Ca, node: u64) -> Certified {
    let key = NodeKey::generate().unwrap();
    let cert = ca.issue(Csr::parse(&key.csr().unwrap()).unwrap(), NodeId(node)).unwrap();
    Certified { key, cert, ca_cert: ca.cert_der().to_vec() }
}

async fn start(cluster: &Cluster, new: &Ca, known: &Arc<Known>, id: u64) -> Both {
    let (old, new) = (certified(&cluster.ca, id), certified(new, id));
    let hello = Hello { cluster: cluster.id, epoch: 1, node: NodeId(id), boot: 1, nonce: 0 };
    let Certified { key, cert, ca_cert } = old.clone();
    let identity = Identity { key, cert, ca_cert, hello };
    let node = Node::start(identity, "127.0.0.1:0".parse().unwrap(), known.clone()).await;
    let info = PeerInfo { addr: node.endpoint.local_addr().to_string(), spki: old.key.spki_sha256() };
    known.members.0.lock().insert(NodeId(id), info);
    known.keys.lock().extend([old.key.spki_sha256(), new.key.spki_sha256()]);
    Both { node, old, new }
}

impl Both {
    /// Both CAs are believed; the new certificate is preferred, or not.
    fn both(&self, prefer_next: bool) {
        let keyring = Keyring {
            present: self.old.clone(),
            next: Some(self.new.clone()),
            next_ca: Some(self.new.ca_cert.clone()),
            prefer_next,
        };
        self.node.endpoint.renew(&keyring, prefer_next).unwrap();
    }

    /// The old CA is believed no more.
    fn only_new(&self) {
        self.node.endpoint.renew(&Keyring::of(self.new.clone()), false).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_understand_each_other_at_every_pair_of_steps() {
    let cluster = Cluster::new(1);
    let new_ca = Ca::create(cluster.id).unwrap();
    let known = Arc::<Known>::default();
    let a = start(&cluster, &new_ca, &known, 1).await;
    let b = start(&cluster, &new_ca, &known, 2).await;
    let talk = async |at: &str| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_eq!(from.node.ask(to.node.id).await.unwrap(), from.node.id.0, "{at}");
            assert_eq!(from.node.echo(to.node.id, b"bytes").await.unwrap(), b"bytes", "{at}");
        }
    };
    talk("before").await;
    let (mut send, mut recv) = a.node.endpoint.open(b.node.id, Class::Foreground).await.unwrap();
    let steps: [(&str, &dyn Fn()); 6] = [
        ("one believes both", &|| a.both(false)),
        ("both believe both", &|| b.both(false)),
        ("one shows the new", &|| a.both(true)),
        ("one believes only the new", &|| a.only_new()),
        ("both show the new", &|| b.both(true)),
        ("both believe only the new", &|| b.only_new()),
    ];
    for (at, step) in steps {
        step();
        talk(at).await;
        // What is under way goes on where it is, and new connections can be made, too.
        send.write_all(b"x").await.unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        let fresh = start(&cluster, &new_ca, &known, 3).await;
        fresh.both(false);
        assert_eq!(fresh.node.ask(a.node.id).await.unwrap(), 3, "{at}");
        assert_eq!(a.node.echo(fresh.node.id, b"bytes").await.unwrap(), b"bytes", "{at}");
        fresh.node.stop().await;
    }
    // The old keys are nobody's: what runs may end, and nothing begins.
    let old = [a.old.key.spki_sha256(), b.old.key.spki_sha256()];
    known.keys.lock().retain(|key| !old.contains(key));
    a.node.endpoint.review();
    b.node.endpoint.review();
    talk("after").await;
    send.write_all(b"last").await.unwrap();
    recv.read_exact(&mut [0; 4]).await.unwrap();
    send.finish().unwrap();
    timeout(SOON, recv.read_to_end(0)).await.expect("the stream ends").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_from_before_is_refused_whatever_it_has() {
    let cluster = Cluster::new(1);
    let new_ca = Ca::create(cluster.id).unwrap();
    let known = Arc::<Known>::default();
    let node = start(&cluster, &new_ca, &known, 1).await;
    let copied = start(&cluster, &new_ca, &known, 2).await;
    assert_eq!(copied.node.ask(node.node.id).await.unwrap(), 2);
    let (mut send, mut recv) = copied.node.endpoint.open(node.node.id, Class::Foreground).await.unwrap();
    send.write_all(b"x").await.unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
    node.both(true);
    node.only_new();
    known.keys.lock().retain(|key| *key != copied.old.key.spki_sha256());
    node.node.endpoint.review();
    eventually("the old connection is closed", || async { copied.node.ask(node.node.id).await.is_err() })
        .await;
    let told = copied.node.echo(node.node.id, b"x").await;
    told.unwrap_err();
    // Even if its key were a member's: the CA is believed no more.
    known.keys.lock().push(copied.old.key.spki_sha256());
    copied.node.ask(node.node.id).await.unwrap_err();
    node.node.ask(copied.node.id).await.unwrap_err();
}
