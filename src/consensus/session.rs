//! Request identities of this boot.
//!
//! A session is opened by a log entry, once per boot, and numbers its requests. Requests under way hold a
//! [`Ticket`]; what lies below all tickets will never be asked for again, and every so often a floor says
//! so to the state, which then forgets those answers. All of this is lost in a crash, and with it the
//! session: the next boot opens another.

use std::collections::BTreeSet;
use std::sync::Arc;

use clawhub_types::{RequestId, SessionId};
use parking_lot::Mutex;

/// Finished requests after which the floor is raised.
const FLOOR_EVERY: u64 = 256;

/// The session of this boot, if it is open.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<Option<Open>>,
    /// Held while a session is being opened.
    pub(crate) opening: Arc<futures::lock::Mutex<()>>,
}

struct Open {
    id: SessionId,
    /// The state did not know it any more. Its numbering is kept: should the same session come back, no
    /// number may be given out twice.
    gone: bool,
    next: u64,
    under_way: BTreeSet<u64>,
    /// The floor the state has been told, or is being told.
    floor: u64,
}

impl Open {
    fn lowest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(self.next)
    }
}

/// A request identity in use.
pub(crate) struct Ticket {
    pub(crate) id: RequestId,
    sessions: Arc<Sessions>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(open) = self.sessions.open.lock().as_mut().filter(|open| open.id == self.id.session) {
            open.under_way.remove(&self.id.seq);
        }
    }
}

impl Sessions {
    /// A fresh identity, if a session is open.
    pub(crate) fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        let mut open = self.open.lock();
        let open = open.as_mut().filter(|open| !open.gone)?;
        let seq = open.next;
        open.next += 1;
        open.under_way.insert(seq);
        let id = RequestId { session: open.id, seq };
        Some(Ticket { id, sessions: Arc::clone(self) })
    }

    /// A session was opened. Sequences begin at 1.
    pub(crate) fn opened(&self, id: SessionId) {
        let mut open = self.open.lock();
        match open.as_mut().filter(|open| open.id == id) {
            Some(same) => same.gone = false,
            None => *open = Some(Open { id, gone: false, next: 1, under_way: BTreeSet::new(), floor: 1 }),
        }
    }

    /// The state does not know this session any more.
    pub(crate) fn gone(&self, id: SessionId) {
        if let Some(open) = self.open.lock().as_mut().filter(|open| open.id == id) {
            open.gone = true;
        }
    }

    /// A floor worth telling the state about; it counts as told from here on.
    pub(crate) fn floor(&self) -> Option<(SessionId, u64)> {
        let mut open = self.open.lock();
        let open = open.as_mut().filter(|open| !open.gone)?;
        let lowest = open.lowest();
        (lowest - open.floor >= FLOOR_EVERY).then(|| {
            open.floor = lowest;
            (open.id, lowest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_never_passes_a_request_under_way() {
        let sessions = Arc::new(Sessions::default());
        assert!(sessions.ticket().is_none());
        sessions.opened(SessionId(5));
        let slow = sessions.ticket().unwrap();
        assert_eq!(slow.id, RequestId { session: SessionId(5), seq: 1 });
        for _ in 0..2 * FLOOR_EVERY {
            drop(sessions.ticket().unwrap());
        }
        assert_eq!(sessions.floor(), None);
        drop(slow);
        assert_eq!(sessions.floor(), Some((SessionId(5), 2 * FLOOR_EVERY + 2)));
        assert_eq!(sessions.floor(), None, "told once");
    }

    #[test]
    fn a_late_ticket_of_a_session_that_is_gone_does_no_harm() {
        let sessions = Arc::new(Sessions::default());
        sessions.opened(SessionId(5));
        let late = sessions.ticket().unwrap();
        sessions.gone(SessionId(5));
        assert!(sessions.ticket().is_none());
        sessions.opened(SessionId(9));
        let fresh = sessions.ticket().unwrap();
        drop(late);
        sessions.gone(SessionId(5));
        assert_eq!(sessions.ticket().unwrap().id.seq, fresh.id.seq + 1);
    }

    #[test]
    fn a_session_that_comes_back_gives_no_number_out_twice() {
        let sessions = Arc::new(Sessions::default());
        sessions.opened(SessionId(5));
        let last = sessions.ticket().unwrap().id.seq;
        sessions.gone(SessionId(5));
        sessions.opened(SessionId(5));
        assert_eq!(sessions.ticket().unwrap().id.seq, last + 1);
    }
}
