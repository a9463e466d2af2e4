//! Ports that nobody else uses.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use rand::RngExt;

use crate::Failure;

/// Attempts at finding a port before giving up.
const ATTEMPTS: usize = 500;

/// A port that this process holds until it is dropped, so that no two searches find the same one.
pub(super) struct Port {
    pub(super) number: u16,
    _tcp: TcpListener,
    _udp: UdpSocket,
}

impl Port {
    /// Holds `number`, for TCP and UDP, if it is free on loopback.
    pub(super) fn hold(number: u16) -> Option<Port> {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Port { number, _tcp: tcp, _udp: udp })
    }
}

/// `count` consecutive free ports. They lie below the range from which the kernel takes the ports of
/// outgoing connections: none of those can grab one between its release here and its use by a node.
pub(super) fn free(count: u16) -> Result<Vec<Port>, Failure> {
    let low = 10_240;
    let high = ephemeral_start().saturating_sub(count);
    if low < high {
        for _ in 0..ATTEMPTS {
            let first = rand::rng().random_range(low..high);
            let held: Option<Vec<_>> = (first..first + count).map(Port::hold).collect();
            if let Some(held) = held {
                return Ok(held);
            }
        }
    }
    Err(Failure::failed(format!("found no {count} consecutive free ports on loopback")))
}

/// The first port of the kernel's range for outgoing connections.
fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_ports_are_consecutive_and_not_found_twice() {
        let first = free(3).unwrap();
        let numbers: Vec<_> = first.iter().map(|port| port.number).collect();
        assert_eq!(numbers, [numbers[0], numbers[0] + 1, numbers[0] + 2]);
        assert!(numbers.iter().all(|number| Port::hold(*number).is_none()));
        drop(first);
        assert!(Port::hold(numbers[0]).is_some());
    }
}
