//! The peer port before the endpoint has it: found and held from the first moment, so that a port in use stops the node
//! before it has joined anything, and so that "any free one" is known before a peer is told of it. In memory only.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use parking_lot::Mutex;

/// Attempts at finding a port that is free for both TCP and UDP.
const ATTEMPTS: usize = 64;

/// A port that is held for an [`Endpoint`](crate::Endpoint), for TCP and UDP.
pub struct PeerPort {
    addr: SocketAddr,
    held: Mutex<Option<(TcpListener, UdpSocket)>>,
}

impl PeerPort {
    /// Takes the port, TCP and UDP.
    ///
    /// # Errors
    /// If either is in use, or no port is free for both.
    pub fn hold(listen: SocketAddr) -> io::Result<PeerPort> {
        let mut last = io::Error::other("no port");
        for _ in 0..ATTEMPTS {
            let tcp = TcpListener::bind(listen)?;
            let addr = tcp.local_addr()?;
            match UdpSocket::bind(addr) {
                Ok(udp) => return Ok(PeerPort { addr, held: Mutex::new(Some((tcp, udp))) }),
                Err(e) if listen.port() == 0 => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// The address with its real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets go of it, for the one who binds it next.
    pub fn release(&self) -> SocketAddr {
        self.held.lock().take();
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_taken_until_released() {
        let port = PeerPort::hold(([127, 0, 0, 1], 0).into()).unwrap();
        assert_ne!(port.addr().port(), 0);
        assert!(PeerPort::hold(port.addr()).is_err());
        assert!(UdpSocket::bind(port.addr()).is_err());
        let addr = port.release();
        assert!(PeerPort::hold(addr).is_ok());
    }
}
