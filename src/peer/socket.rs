//! The two sockets of an endpoint. TCP and UDP listen on one port number, so that a member has one address.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Once;

use rustix::net::sockopt;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::PeerError;
use crate::limits::{SOCKET_BUFFER, UNSENT};

/// How often another free port is tried when UDP has the one that TCP was given.
const ATTEMPTS: usize = 64;

/// Binds both, non-blocking. Port 0 finds a number that is free for both.
pub(crate) fn bind(listen: SocketAddr) -> Result<(TcpListener, UdpSocket), PeerError> {
    let mut attempts = if listen.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        match bind_once(listen) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts > 0 => continue,
            Err(source) => return Err(PeerError::Bind { addr: listen, source }),
            Ok(pair) => return Ok(pair),
        }
    }
}

fn bind_once(listen: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let tcp = TcpListener::bind(listen)?;
    let udp = UdpSocket::bind(tcp.local_addr()?)?;
    tcp.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    enlarge(&udp);
    Ok((tcp, udp))
}

/// What every connection wants: nothing waits for more to come, and little lies in the kernel unsent. Over a slow link
/// whatever lies there delays all that follows: a probe of the connection, and a stream that replaces another one.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

/// Asks for large buffers and looks at what it got: too small a receive buffer loses packets where no
/// packet capture shows it.
fn enlarge(udp: &UdpSocket) {
    static WARNED: Once = Once::new();
    let asked = [
        sockopt::set_socket_recv_buffer_size(udp, SOCKET_BUFFER),
        sockopt::set_socket_send_buffer_size(udp, SOCKET_BUFFER),
    ];
    let got = [sockopt::socket_recv_buffer_size(udp), sockopt::socket_send_buffer_size(udp)];
    for (set, got) in asked.into_iter().zip(got) {
        // Linux reports twice what it grants, the other half being for its own bookkeeping.
        let granted = got.unwrap_or(0) / if cfg!(target_os = "linux") { 2 } else { 1 };
        if set.is_err() || granted < SOCKET_BUFFER {
            WARNED.call_once(|| {
                tracing::warn!(
                    asked = SOCKET_BUFFER,
                    granted,
                    "UDP socket buffers are small, so fast transfers between nodes will lose packets; \
                     raise net.core.rmem_max and net.core.wmem_max"
                );
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_free_port_is_the_same_for_both() {
        let (tcp, udp) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        assert_ne!(tcp.local_addr().unwrap().port(), 0);
    }

    #[test]
    fn a_taken_port_is_an_error_that_names_it() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = held.local_addr().unwrap();
        let error = bind(taken).unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
