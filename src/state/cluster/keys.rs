//! Keys of the cluster domain.

use clawhub_types::{NodeId, SessionId};

use crate::key::Key;

pub(crate) fn cluster() -> Key {
    Key::new(b"cc")
}

pub(crate) fn keys() -> Key {
    Key::new(b"ck")
}

pub(crate) fn ids() -> Key {
    Key::new(b"ci")
}

pub(crate) fn nodes() -> Key {
    Key::new(b"cn")
}

pub(crate) fn node(id: NodeId) -> Key {
    nodes().number(id.0)
}

pub(crate) fn tokens() -> Key {
    Key::new(b"cj")
}

pub(crate) fn token(hash: &[u8; 32]) -> Key {
    tokens().bytes(hash)
}

pub(crate) fn sessions() -> Key {
    Key::new(b"cs")
}

pub(crate) fn session(id: SessionId) -> Key {
    sessions().number(id.0)
}

pub(crate) fn answers(id: SessionId) -> Key {
    Key::new(b"ca").number(id.0)
}

pub(crate) fn answer(id: SessionId, seq: u64) -> Key {
    answers(id).number(seq)
}
