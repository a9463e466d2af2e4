//! Networks whose links can be cut: a Linux network namespace for every host, around a switch that is one
//! too, so that nothing of this machine's own network is touched but one more interface. Through that one
//! a test's own client reaches every host, whatever is cut between them.
//!
//! A cut is a packet filter at the one who shall not hear. It loses packets and tells nobody, as a broken
//! line does. Needs root, `ip` and `iptables`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::tool;

/// Hosts of one network get the addresses from 1 on.
const MACHINE: u8 = 254;

/// Stands for the switch where a host is named.
const SWITCH: usize = usize::MAX;

/// Hosts and the links between them. Everything is deleted when it is dropped; drop the processes first.
#[derive(Debug)]
pub struct Net {
    /// Names and addresses of one network differ from those of another by it.
    number: u8,
    hosts: usize,
}

impl Net {
    /// Why this machine cannot have such a network; `None` if it can.
    pub fn refused() -> Option<String> {
        let tried = Net::claim().and_then(|net| run(&net.within(SWITCH, "iptables -w -S INPUT")));
        tried.err().map(|error| format!("{error:#}"))
    }

    /// A network of hosts 0, 1, … that all reach each other.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn new(hosts: usize) -> Result<Net> {
        ensure!(hosts < usize::from(MACHINE), "one network has no room for {hosts} hosts");
        let mut net = Net::claim()?;
        let (switch, here) = (net.name(SWITCH), net.here());
        run(&format!("ip -n {switch} link add bridge type bridge"))?;
        run(&format!("ip -n {switch} link set bridge up"))?;
        run(&format!("ip link add {here} type veth peer name machine netns {switch}"))?;
        run(&format!("ip -n {switch} link set machine master bridge up"))?;
        run(&format!("ip address add {}/24 dev {here}", net.address(MACHINE)))?;
        run(&format!("ip link set {here} up"))?;
        for host in 0..hosts {
            let name = net.name(host);
            run(&format!("ip netns add {name}"))?;
            net.hosts = host + 1;
            run(&format!("ip -n {name} link add eth0 type veth peer name host{host} netns {switch}"))?;
            run(&format!("ip -n {switch} link set host{host} master bridge up"))?;
            run(&format!("ip -n {name} address add {}/24 dev eth0", net.ip(host)))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        Ok(net)
    }

    /// A network without hosts, its number held by its switch.
    fn claim() -> Result<Net> {
        let routes = output("ip -4 route show")?;
        for number in 0..=u8::MAX {
            if routes.contains(&format!("10.213.{number}.")) {
                continue;
            }
            let switch = namespace(number, SWITCH);
            match run(&format!("ip netns add {switch}")) {
                Ok(()) => return Ok(Net { number, hosts: 0 }),
                Err(error) if !exists(&switch) => return Err(error),
                // Another test's.
                Err(_) => {}
            }
        }
        bail!("every network from 10.213.0.0/24 to 10.213.255.0/24 is in use")
    }

    /// The address of a host.
    pub fn ip(&self, host: usize) -> IpAddr {
        self.address(u8::try_from(host + 1).unwrap_or(MACHINE)).into()
    }

    /// What goes before a command so that it runs on a host.
    pub fn prefix(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(host)].map(str::to_owned).to_vec()
    }

    /// From now on `host` hears nothing from `from`; what it says still gets there.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn deafen(&self, host: usize, from: usize) -> Result<()> {
        run(&self.within(host, &format!("iptables -w -A INPUT -s {} -j DROP", self.ip(from))))
    }

    /// Cuts the link between two hosts.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn cut(&self, one: usize, other: usize) -> Result<()> {
        self.deafen(one, other)?;
        self.deafen(other, one)
    }

    /// Cuts a host off from all others.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn isolate(&self, host: usize) -> Result<()> {
        (0..self.hosts).filter(|other| *other != host).try_for_each(|other| self.cut(host, other))
    }

    /// Takes back an [`isolate`](Self::isolate) of this host; another one that is cut off stays so.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn rejoin(&self, host: usize) -> Result<()> {
        let hears = |host: usize, from: usize| {
            run(&self.within(host, &format!("iptables -w -D INPUT -s {} -j DROP", self.ip(from))))
        };
        (0..self.hosts)
            .filter(|other| *other != host)
            .try_for_each(|other| hears(host, other).and(hears(other, host)))
    }

    /// Makes every link whole again.
    ///
    /// # Errors
    /// If a command fails, with what it said.
    pub fn heal(&self) -> Result<()> {
        (0..self.hosts).try_for_each(|host| run(&self.within(host, "iptables -w -F INPUT")))
    }

    fn name(&self, host: usize) -> String {
        namespace(self.number, host)
    }

    /// This machine's interface.
    fn here(&self) -> String {
        format!("clawhub{}", self.number)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, last)
    }

    fn within(&self, host: usize, command: &str) -> String {
        format!("ip netns exec {} {command}", self.name(host))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Its other end goes with it, at once; with the namespace it would go a moment later.
        let _ = run(&format!("ip link delete {}", self.here()));
        for host in (0..self.hosts).chain([SWITCH]) {
            // Nobody is left to be told; the next network takes another number.
            let _ = run(&format!("ip netns delete {}", self.name(host)));
        }
    }
}

fn namespace(number: u8, host: usize) -> String {
    match host {
        SWITCH => format!("clawhub-{number}-switch"),
        host => format!("clawhub-{number}-{host}"),
    }
}

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

fn run(command: &str) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().context("an empty command")?;
    tool(Command::new(program).args(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_network_stays() {
        if Net::refused().is_some() {
            return;
        }
        let net = Net::new(2).unwrap();
        let names = [net.name(SWITCH), net.name(0), net.name(1)];
        assert!(names.iter().all(|name| exists(name)));
        assert!(output("ip -4 route show").unwrap().contains(&net.here()));
        let here = net.here();
        drop(net);
        assert!(!names.iter().any(|name| exists(name)));
        assert!(!output("ip -4 route show").unwrap().contains(&here));
    }
}
