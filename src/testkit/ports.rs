//! Ports for configurations that must name one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::content::Rng;

/// Below it live services that a machine may have.
const FIRST_PORT: u16 = 10_240;
/// Where Linux begins to take ports for outgoing connections, unless told otherwise.
const OUTGOING: u16 = 32_768;

/// A port of this machine that nobody listens on, on TCP and UDP, for configurations that must name one. It lies
/// below the range from which the kernel takes the ports of outgoing connections, and is given out once: its
/// node may be down for a while and find it again.
///
/// # Errors
/// If none is found.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut rng = Rng::new(u64::from(now.subsec_nanos()) ^ (u64::from(std::process::id()) << 32));
    for _ in 0..500 {
        let port = FIRST_PORT + u16::try_from(rng.below(usize::from(OUTGOING - FIRST_PORT)))?;
        let local = (Ipv4Addr::LOCALHOST, port);
        let free = TcpListener::bind(local).is_ok() && UdpSocket::bind(local).is_ok();
        if free && given.insert(port) {
            return Ok(port);
        }
    }
    bail!("no port free on both TCP and UDP")
}
