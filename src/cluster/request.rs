//! How an operator asks a node to become a member, and how the node hears of it.
//!
//! The node takes one request at a time, and goes on with it whether or not the operator waits for the answer. In
//! memory only: a crash loses the request, and the node begins or goes on as its data says.

use clawhub_peer::JoinToken;
use clawhub_types::Durability;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use crate::{ClusterError, Owner};

/// Requests that may wait for the one under way.
const WAITING: usize = 4;

/// What an operator wants the node to become.
#[derive(Debug)]
pub enum BootstrapRequest {
    /// The first member of a new cluster, with this default policy.
    Init(Durability),
    /// A member of an existing cluster.
    Join {
        /// Members to ask, one after the other, `host:port`.
        addresses: Vec<String>,
        /// What lets the node in.
        token: JoinToken,
    },
}

/// A request, and where its answer goes.
pub struct Pending {
    /// What the node is to become.
    pub request: BootstrapRequest,
    /// An operator who left does not get the answer.
    pub answer: oneshot::Sender<Result<Owner, ClusterError>>,
}

/// The operators' end. Cheap to clone.
#[derive(Clone)]
pub struct Bootstrap {
    owner: Arc<Mutex<Option<Owner>>>,
    requests: mpsc::Sender<Pending>,
}

/// The node's end.
pub struct Requests(mpsc::Receiver<Pending>);

impl Bootstrap {
    /// The two ends, for a node whose data is that of `owner`.
    pub fn new(owner: Option<Owner>) -> (Bootstrap, Requests) {
        let (requests, pending) = mpsc::channel(WAITING);
        (Bootstrap { owner: Arc::new(Mutex::new(owner)), requests }, Requests(pending))
    }

    /// Which member the node is, once it is one. It may not have started as one yet.
    pub fn owner(&self) -> Option<Owner> {
        *self.owner.lock()
    }

    /// Notes which member the node has become.
    pub fn set_owner(&self, owner: Owner) {
        *self.owner.lock() = Some(owner);
    }

    /// Has the node become a member and start as one.
    ///
    /// # Errors
    /// [`ClusterError::Precondition`] if it is one already; else why it could not become one.
    pub async fn ask(&self, request: BootstrapRequest) -> Result<Owner, ClusterError> {
        let stopping = || ClusterError::Unavailable("the node is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        self.requests.send(Pending { request, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

impl Requests {
    /// The next request. Never completes once nobody can make one any more.
    pub async fn next(&mut self) -> Pending {
        match self.0.recv().await {
            Some(pending) => pending,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::{ClusterId, NodeId};

    use super::*;

    #[tokio::test]
    async fn a_request_is_answered_by_the_node() {
        let (bootstrap, mut requests) = Bootstrap::new(None);
        assert_eq!(bootstrap.owner(), None);
        let asking = bootstrap.clone();
        let asked = tokio::spawn(async move { asking.ask(BootstrapRequest::Init(Durability::Zone)).await });
        let pending = requests.next().await;
        let owner = Owner { cluster: ClusterId([1; 16]), node: NodeId(1) };
        bootstrap.set_owner(owner);
        pending.answer.send(Ok(owner)).unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), owner);
        assert_eq!(bootstrap.owner(), Some(owner));
    }

    #[tokio::test]
    async fn a_node_that_stops_leaves_no_operator_waiting() {
        let (bootstrap, mut requests) = Bootstrap::new(None);
        let asking = bootstrap.clone();
        let asked = tokio::spawn(async move { asking.ask(BootstrapRequest::Init(Durability::Zone)).await });
        drop(requests.next().await);
        assert!(matches!(asked.await.unwrap(), Err(ClusterError::Unavailable(_))));
        drop(requests);
        assert!(bootstrap.ask(BootstrapRequest::Init(Durability::Zone)).await.is_err());
    }
}
