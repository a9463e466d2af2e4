//! How an operator asks a node to become a member, and how the node hears of it.
//!
//! The node takes one wish at a time, and goes on with it whether or not the operator waits for the answer. In
//! memory only: a crash loses the wish, and the node begins or goes on as its data says.

use clawhub_peer::JoinToken;
use clawhub_types::Durability;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use crate::{ClusterError, Owner};

/// Wishes that may wait for the one under way.
const WAITING: usize = 4;

/// What an operator wants the node to become.
#[derive(Debug)]
pub enum Wish {
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

/// A wish, and where its answer goes.
pub struct Request {
    /// What is wanted.
    pub wish: Wish,
    /// An operator who left does not get the answer.
    pub answer: oneshot::Sender<Result<Owner, ClusterError>>,
}

/// The operators' end. Cheap to clone.
#[derive(Clone)]
pub struct Bootstrap {
    owner: Arc<Mutex<Option<Owner>>>,
    wishes: mpsc::Sender<Request>,
}

/// The node's end.
pub struct Requests(mpsc::Receiver<Request>);

impl Bootstrap {
    /// The two ends, for a node whose data is that of `owner`.
    pub fn new(owner: Option<Owner>) -> (Bootstrap, Requests) {
        let (wishes, requests) = mpsc::channel(WAITING);
        (Bootstrap { owner: Arc::new(Mutex::new(owner)), wishes }, Requests(requests))
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
    pub async fn ask(&self, wish: Wish) -> Result<Owner, ClusterError> {
        let stopping = || ClusterError::Unavailable("the node is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        self.wishes.send(Request { wish, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

impl Requests {
    /// The next wish. Never completes once nobody can have one any more.
    pub async fn next(&mut self) -> Request {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::{ClusterId, NodeId};

    use super::*;

    #[tokio::test]
    async fn a_wish_is_answered_by_the_node() {
        let (bootstrap, mut requests) = Bootstrap::new(None);
        assert_eq!(bootstrap.owner(), None);
        let asking = bootstrap.clone();
        let asked = tokio::spawn(async move { asking.ask(Wish::Init(Durability::Zone)).await });
        let request = requests.next().await;
        let owner = Owner { cluster: ClusterId([1; 16]), node: NodeId(1) };
        bootstrap.set_owner(owner);
        request.answer.send(Ok(owner)).unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), owner);
        assert_eq!(bootstrap.owner(), Some(owner));
    }

    #[tokio::test]
    async fn a_node_that_stops_leaves_no_operator_waiting() {
        let (bootstrap, mut requests) = Bootstrap::new(None);
        let asking = bootstrap.clone();
        let asked = tokio::spawn(async move { asking.ask(Wish::Init(Durability::Zone)).await });
        drop(requests.next().await);
        assert!(matches!(asked.await.unwrap(), Err(ClusterError::Unavailable(_))));
        drop(requests);
        assert!(bootstrap.ask(Wish::Init(Durability::Zone)).await.is_err());
    }
}
