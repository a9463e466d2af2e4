//! How many of a node's places one address may have, for connections and handshakes of whoever comes.

use std::net::{IpAddr, Ipv6Addr};

/// Whose a connection is, as far as an address tells: one address of IPv4, or a /64 of IPv6, since whoever has one
/// address of that has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Network {
        Network(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }
}

/// So many times as many places as are free may one network have, so that a share shrinks only as places become
/// scarce (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998). A proxy that is alone in front of a node
/// gets four fifths of all; whoever comes then gets four fifths of the rest.
const SHARE: usize = 4;

/// Whether a network that has so many places may have one more, while so many are free.
pub fn may_have_more(has: usize, free: usize) -> bool {
    has < SHARE * free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        let of = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn one_network_gets_most_and_leaves_some() {
        let mut free = 1024;
        let mut take_all = || {
            let mut has = 0;
            while may_have_more(has, free) {
                has += 1;
                free -= 1;
            }
            has
        };
        let had: Vec<_> = (0..6).map(|_| take_all()).collect();
        assert_eq!(had, [820, 164, 32, 7, 1, 0]);
    }
}
