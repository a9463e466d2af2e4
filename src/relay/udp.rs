//! Datagrams. One socket takes what comes for a node; each peer of it has one of its own, from which that node sees
//! it and to which it answers.
//!
//! The kernel hands over, and takes, many datagrams of one size in one call.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::line::Line;
use crate::link::Link;
use crate::{Links, Place};

/// Peers of one node at once; the one that was silent for longest gives way.
const PEERS: usize = 256;
/// Reads in one call, and bytes of each: what the kernel joins at most.
const READS: usize = 8;
const READ: usize = 64 << 10;
/// Socket buffer asked for, each direction, bytes.
const BUFFER: usize = 8 << 20;

/// Datagrams of one size but for the last, which may be shorter.
struct Packet {
    bytes: Bytes,
    size: usize,
    ecn: Option<EcnCodepoint>,
}

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn bind(address: SocketAddr) -> io::Result<Socket> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // What the kernel does not grant, a fast link loses now and then.
        let _ = state.set_recv_buffer_size((&socket).into(), BUFFER);
        let _ = state.set_send_buffer_size((&socket).into(), BUFFER);
        Ok(Socket { socket, state })
    }

    async fn receive(&self, room: &mut Room) -> io::Result<Vec<(SocketAddr, Packet)>> {
        let Room { buffers, metas } = room;
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let read = || self.state.recv((&self.socket).into(), &mut slices, metas);
        let count = self.socket.async_io(Interest::READABLE, read).await?;
        let packet = |(buffer, meta): (&Vec<u8>, &RecvMeta)| {
            let bytes = Bytes::copy_from_slice(&buffer[..meta.len]);
            (meta.addr, Packet { bytes, size: meta.stride.max(1), ecn: meta.ecn })
        };
        Ok(buffers.iter().zip(metas.iter()).take(count).map(packet).collect())
    }

    async fn send(&self, to: SocketAddr, packet: &Packet) {
        let most = self.state.max_gso_segments().max(1) * packet.size;
        let mut rest = &packet.bytes[..];
        while !rest.is_empty() {
            let (contents, behind) = rest.split_at(rest.len().min(most));
            rest = behind;
            let segment_size = (contents.len() > packet.size).then_some(packet.size);
            let transmit =
                Transmit { destination: to, ecn: packet.ecn, contents, segment_size, src_ip: None };
            let write = || self.state.send((&self.socket).into(), &transmit);
            // A datagram that cannot be sent is lost, as on any network.
            let _ = self.socket.async_io(Interest::WRITABLE, write).await;
        }
    }
}

/// Where the kernel puts what it has.
struct Room {
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; READS],
}

impl Room {
    fn new() -> Room {
        Room { buffers: vec![vec![0; READ]; READS], metas: [RecvMeta::default(); READS] }
    }
}

/// Puts a packet on a link; of one that is rough, datagram by datagram.
fn pass(link: &Link, line: &Line<Packet>, packet: Packet) {
    let now = Instant::now();
    let Packet { bytes, size, ecn } = packet;
    if link.is_even() {
        let count = bytes.len().div_ceil(size);
        if let Some(due) = link.datagrams(count, bytes.len(), now) {
            line.push(due, false, bytes.len(), Packet { bytes, size, ecn });
        }
        return;
    }
    let mut at = 0;
    while at < bytes.len() {
        let one = bytes.slice(at..(at + size).min(bytes.len()));
        at += size;
        if let Some((due, overtaken)) = link.datagram(one.len(), now) {
            line.push(due, overtaken, one.len(), Packet { size: one.len(), bytes: one, ecn });
        }
    }
}

/// Takes what comes for one node.
pub(crate) struct Listener {
    socket: Arc<Socket>,
    place: Place,
    to: usize,
    links: Arc<Links>,
}

/// One who speaks to the node.
struct Peer {
    there: Arc<Line<Packet>>,
    link: Arc<Link>,
    heard: Instant,
    /// Ends its task when it is dropped.
    _task: JoinSet<()>,
}

impl Listener {
    pub(crate) fn bind(place: Place, to: usize, links: Arc<Links>) -> io::Result<Listener> {
        Ok(Listener { socket: Arc::new(Socket::bind(place.advertised)?), place, to, links })
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut room = Room::new();
        let mut peers: HashMap<SocketAddr, Peer> = HashMap::new();
        loop {
            // An error is of an earlier datagram, which is lost.
            let Ok(packets) = self.socket.receive(&mut room).await else { continue };
            for (from, packet) in packets {
                if !peers.contains_key(&from) {
                    make_room(&mut peers);
                    let Ok(peer) = self.peer(from) else { continue };
                    peers.insert(from, peer);
                }
                if let Some(peer) = peers.get_mut(&from) {
                    peer.heard = Instant::now();
                    pass(&peer.link, &peer.there, packet);
                }
            }
        }
    }

    fn peer(&self, from: SocketAddr) -> io::Result<Peer> {
        let who = self.links.who(from);
        let flow = Flow {
            front: self.socket.clone(),
            peer: from,
            back: Socket::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())?,
            node: self.place.node,
            there: Arc::new(Line::new()),
            here: Line::new(),
            answers: self.links.between(Some(self.to), who).clone(),
        };
        let there = flow.there.clone();
        let mut task = JoinSet::new();
        task.spawn(flow.run());
        let link = self.links.between(who, Some(self.to)).clone();
        Ok(Peer { there, link, heard: Instant::now(), _task: task })
    }
}

fn make_room(peers: &mut HashMap<SocketAddr, Peer>) {
    if peers.len() >= PEERS {
        let quietest = peers.iter().min_by_key(|(_, peer)| peer.heard).map(|(address, _)| *address);
        quietest.map(|address| peers.remove(&address));
    }
}

/// What one peer and the node say to each other.
struct Flow {
    front: Arc<Socket>,
    peer: SocketAddr,
    back: Socket,
    node: SocketAddr,
    there: Arc<Line<Packet>>,
    here: Line<Packet>,
    answers: Arc<Link>,
}

impl Flow {
    async fn run(self) {
        tokio::join!(
            deliver(&self.there, &self.back, self.node),
            deliver(&self.here, &self.front, self.peer),
            self.hear(),
        );
    }

    async fn hear(&self) {
        let mut room = Room::new();
        loop {
            let Ok(packets) = self.back.receive(&mut room).await else { continue };
            for (from, packet) in packets {
                if from == self.node {
                    pass(&self.answers, &self.here, packet);
                }
            }
        }
    }
}

async fn deliver(line: &Line<Packet>, socket: &Socket, to: SocketAddr) {
    let mut arrived = Vec::new();
    loop {
        line.arrive(&mut arrived).await;
        for packet in arrived.drain(..) {
            socket.send(to, &packet).await;
        }
    }
}
