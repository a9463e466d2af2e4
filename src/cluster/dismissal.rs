//! How the node is told that its cluster has no place for it any more. Several parts may notice it; the first
//! reason counts.

use std::sync::Arc;

use tokio::sync::watch;

/// Why the node must stop for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dismissed {
    /// The cluster removed it.
    Removed,
    /// The others know of a later start of the node: what it runs on is an old copy of its data, or a second
    /// process has the same. It must never start with this data again.
    Refused(String),
}

/// Told once, heard by the node. Cheap to clone.
#[derive(Clone)]
pub struct Dismissal(Arc<watch::Sender<Option<Dismissed>>>);

impl Default for Dismissal {
    fn default() -> Dismissal {
        Dismissal(Arc::new(watch::Sender::new(None)))
    }
}

impl Dismissal {
    /// Tells the node. Only the first reason counts.
    pub fn tell(&self, why: Dismissed) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(why);
            first
        });
    }

    /// Why the node must stop, if it must.
    pub fn reason(&self) -> Option<Dismissed> {
        self.0.borrow().clone()
    }

    /// Completes when the node must stop, with the reason.
    pub async fn told(&self) -> Dismissed {
        let mut told = self.0.subscribe();
        loop {
            if let Some(why) = told.borrow_and_update().clone() {
                return why;
            }
            if told.changed().await.is_err() {
                // Not while `self` holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts() {
        let dismissal = Dismissal::default();
        let heard = dismissal.clone();
        let heard = tokio::spawn(async move { heard.told().await });
        dismissal.tell(Dismissed::Refused("old".into()));
        dismissal.tell(Dismissed::Removed);
        assert_eq!(heard.await.unwrap(), Dismissed::Refused("old".into()));
        assert_eq!(dismissal.told().await, Dismissed::Refused("old".into()));
    }
}
