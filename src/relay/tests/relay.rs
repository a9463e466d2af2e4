//! What the relay does, measured from outside: real sockets before it and behind it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clawhub_relay::{Place, Relay, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// After so much of it nothing more comes.
const SILENCE: Duration = Duration::from_millis(700);

/// Two nodes behind a relay, and their sockets.
struct Pair {
    relay: Relay,
    places: [Place; 2],
    tcp: [TcpListener; 2],
    udp: [UdpSocket; 2],
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn pair(shape: Shape) -> Pair {
    // Each test has a network of its own: they run at the same time.
    let net: u8 = std::process::id() as u8;
    let [a, b] = [1, 2].map(|last| SocketAddr::from((Ipv4Addr::new(127, 88, net, last), 0)));
    let (first, second) = (TcpListener::bind(a).await.unwrap(), TcpListener::bind(b).await.unwrap());
    let tcp = [first, second];
    let mut places = Vec::new();
    let mut udp = Vec::new();
    for listener in &tcp {
        let node = listener.local_addr().unwrap();
        udp.push(UdpSocket::bind(node).await.unwrap());
        // Nobody else has this one.
        let advertised = (Ipv4Addr::new(127, 89, net, 1), node.port()).into();
        places.push(Place { advertised, node });
    }
    let places = <[Place; 2]>::try_from(places).unwrap();
    let udp = <[UdpSocket; 2]>::try_from(udp).unwrap();
    let relay = Relay::start(&places, |_, _| shape).unwrap();
    Pair { relay, places, tcp, udp }
}

impl Pair {
    /// A connection from the first node to the second, and that one's end of it.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.places[0].node.ip(), 0).into()).unwrap();
        let (here, there) = tokio::join!(socket.connect(self.places[1].advertised), self.tcp[1].accept());
        (here.unwrap(), there.unwrap().0)
    }

    /// Numbered datagrams from the first node to the second, so many a millisecond; what came, in order.
    async fn volley(&self, count: u32, burst: u32, size: usize) -> Vec<u32> {
        let send = async {
            for number in 0..count {
                let mut datagram = vec![0; size];
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                self.udp[0].send_to(&datagram, self.places[1].advertised).await.unwrap();
                if number % burst == burst - 1 {
                    tokio::time::sleep(ms(1)).await;
                }
            }
        };
        let receive = async {
            let (mut came, mut buffer) = (Vec::new(), vec![0; 65_536]);
            while let Ok(read) = timeout(SILENCE, self.udp[1].recv(&mut buffer)).await {
                assert_eq!(read.unwrap(), size);
                came.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
                if came.len() == count as usize {
                    break;
                }
            }
            came
        };
        tokio::join!(send, receive).1
    }
}

/// The times that `rounds` questions take, sorted.
async fn udp_round_trips(pair: &Pair, rounds: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut buffer = [0; 100];
    for _ in 0..rounds {
        let start = Instant::now();
        pair.udp[0].send_to(b"there?", pair.places[1].advertised).await.unwrap();
        let (read, from) = pair.udp[1].recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"there?");
        pair.udp[1].send_to(b"here", from).await.unwrap();
        pair.udp[0].recv(&mut buffer).await.unwrap();
        took.push(start.elapsed());
    }
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_takes_what_it_shall() {
    let pair = pair(Shape { delay: ms(20), ..Shape::default() }).await;
    let udp = udp_round_trips(&pair, 15).await;
    assert!(udp[0] >= ms(40) && udp[7] <= ms(52), "UDP: {udp:?}");

    let (mut here, mut there) = pair.connect().await;
    let mut tcp = Vec::new();
    for round in 0..15 {
        let start = Instant::now();
        here.write_all(b"?").await.unwrap();
        there.read_u8().await.unwrap();
        there.write_all(b"!").await.unwrap();
        here.read_u8().await.unwrap();
        // The first one opens the connection.
        if round > 0 {
            tcp.push(start.elapsed());
        }
    }
    tcp.sort_unstable();
    assert!(tcp[0] >= ms(40) && tcp[7] <= ms(52), "TCP: {tcp:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_costs_a_round_trip_before_its_first_byte() {
    let pair = pair(Shape { delay: ms(50), ..Shape::default() }).await;
    let start = Instant::now();
    let (mut here, mut there) = pair.connect().await;
    here.write_all(b"?").await.unwrap();
    there.read_u8().await.unwrap();
    let took = start.elapsed();
    assert!(took >= ms(150) && took <= ms(250), "SYN, its answer, the byte: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jitter_spreads_and_reorders_nothing() {
    let pair = pair(Shape { delay: ms(20), jitter: ms(15), ..Shape::default() }).await;
    let took = udp_round_trips(&pair, 60).await;
    assert!(took[0] >= ms(10) && took[59] <= ms(90), "{took:?}");
    assert!(took[54] - took[5] >= ms(12), "it hardly varies: {took:?}");
    let came = pair.volley(500, 10, 100).await;
    assert!(came.is_sorted() && came.len() == 500, "{} of 500", came.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_are_lost_and_overtaken_as_often_as_asked() {
    let lossy = pair(Shape { loss: 0.1, ..Shape::default() }).await;
    let came = lossy.volley(4000, 20, 100).await;
    assert!((3440..=3760).contains(&came.len()), "of 4000 at 10 % lost came {}", came.len());
    assert!(came.is_sorted());
    let counted = lossy.relay.counted(0, 1);
    assert_eq!((counted.datagrams, counted.lost), (4000, 4000 - came.len() as u64));
    assert_eq!(lossy.relay.counted(1, 0).datagrams, 0, "the other direction");

    let mixed = pair(Shape { delay: ms(5), reorder: 0.1, ..Shape::default() }).await;
    let came = mixed.volley(2000, 20, 100).await;
    assert_eq!(came.len(), 2000);
    let late = came.windows(2).filter(|two| two[0] > two[1]).count();
    assert!((20..=400).contains(&late), "{late} of 2000 were overtaken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_stays_whole_and_waits_for_what_is_lost() {
    let pair = pair(Shape { delay: ms(10), jitter: ms(5), loss: 0.3, ..Shape::default() }).await;
    let (mut here, mut there) = pair.connect().await;
    let sent: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
    let expected = sent.clone();
    let start = Instant::now();
    let send = async {
        for part in sent.chunks(20_000) {
            here.write_all(part).await.unwrap();
            tokio::time::sleep(ms(2)).await;
        }
        here.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(there.read_to_end(&mut got), send);
    read.unwrap();
    assert!(got == expected, "other bytes");
    assert!(pair.relay.counted(0, 1).lost > 0, "nothing was lost");
    assert!(start.elapsed() >= ms(230), "a loss takes 230 ms: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_kept() {
    // 1 MiB at 16 Mbit a second: 0.52 s, less what a router's memory holds.
    let pair = pair(Shape { rate: Some(2_000_000), ..Shape::default() }).await;
    let (mut here, mut there) = pair.connect().await;
    let start = Instant::now();
    let send = async {
        here.write_all(&vec![7; 1 << 20]).await.unwrap();
        here.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(there.read_to_end(&mut got), send);
    assert_eq!(read.unwrap(), 1 << 20);
    let took = start.elapsed();
    assert!(took >= ms(500) && took <= ms(900), "{took:?}");
    // Many times as many datagrams as the wire takes: what comes is what it took by then, and its memory.
    let start = Instant::now();
    let came = pair.volley(3000, 50, 1000).await.len() as f64;
    // The volley ends with that much silence.
    let took = (start.elapsed() - SILENCE).as_secs_f64();
    assert!(came > 150.0 && came <= 2000.0 * (took + 0.1) + 100.0, "{came} of 3000 in {took} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_goes_one_way_and_heals() {
    let pair = pair(Shape { delay: ms(1), ..Shape::default() }).await;
    let (mut here, mut there) = pair.connect().await;
    here.write_all(b"a").await.unwrap();
    there.read_u8().await.unwrap();
    pair.relay.cut(0, 1);
    here.write_all(b"b").await.unwrap();
    assert!(timeout(ms(300), there.read_u8()).await.is_err(), "through a cut");
    assert_eq!(pair.volley(10, 10, 100).await, [], "through a cut");
    there.write_all(b"c").await.unwrap();
    assert_eq!(timeout(ms(300), here.read_u8()).await.unwrap().unwrap(), b'c');
    pair.relay.heal();
    assert_eq!(timeout(ms(2000), there.read_u8()).await.unwrap().unwrap(), b'b');
    assert_eq!(pair.volley(10, 10, 100).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_side_reaches_the_other() {
    let pair = pair(Shape { delay: ms(5), ..Shape::default() }).await;
    let (mut here, there) = pair.connect().await;
    drop(there);
    assert_eq!(timeout(ms(2000), here.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
    // Nobody listens there any more.
    let Pair { relay: _relay, places, tcp, .. } = pair;
    drop(tcp);
    let mut refused = TcpStream::connect(places[1].advertised).await.unwrap();
    assert_eq!(timeout(ms(2000), refused.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
}

/// So many datagrams from one socket to another, at most 64 of them under way; how many a second.
async fn rate(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> f64 {
    const COUNT: usize = 20_000;
    let window = Semaphore::new(64);
    let start = Instant::now();
    let send = async {
        for _ in 0..COUNT {
            window.acquire().await.unwrap().forget();
            from.send_to(&[7; 1200], address).await.unwrap();
        }
    };
    let receive = async {
        let mut buffer = [0; 2000];
        for number in 0..COUNT {
            let read = timeout(ms(5000), to.recv(&mut buffer)).await;
            assert_eq!(read.unwrap_or_else(|_| panic!("{number} of {COUNT} came")).unwrap(), 1200);
            window.add_permits(1);
        }
    };
    tokio::join!(send, receive);
    COUNT as f64 / start.elapsed().as_secs_f64()
}

/// The relay must not be what limits a test: what it passes without any delay, next to what passes without it.
/// `--nocapture` shows the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_datagrams_a_second_pass() {
    let pair = pair(Shape::default()).await;
    let [from, to] = &pair.udp;
    let plain = rate(from, to, pair.places[1].node).await;
    let relayed = rate(from, to, pair.places[1].advertised).await;
    println!("datagrams of 1200 bytes a second: {plain:.0} without the relay, {relayed:.0} through it");
    assert!(relayed >= 5_000.0, "{relayed:.0} a second");
}
