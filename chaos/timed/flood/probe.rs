//! What an orchestrator does: a question on a new connection, again and again, and how long the answer takes. On a
//! thread of its own, so that the attackers beside it do not count.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

const EVERY: Duration = Duration::from_millis(25);
/// What orchestrators wait at most, commonly.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Prober {
    over: Arc<AtomicBool>,
    asking: JoinHandle<(Vec<Duration>, usize)>,
}

/// How long answers took.
pub(super) struct Latencies {
    pub(super) p99: Duration,
    pub(super) worst: Duration,
    pub(super) count: usize,
    /// Not answered with 200 within [`PATIENCE`].
    pub(super) failed: usize,
}

impl Prober {
    pub(super) fn start(http: String) -> Prober {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let asking = std::thread::spawn(move || {
            let (mut took, mut failed) = (Vec::new(), 0);
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                match ask(&http) {
                    Ok(()) => took.push(began.elapsed()),
                    Err(error) => {
                        failed += 1;
                        println!("a probe failed after {:?}: {error:?}", began.elapsed());
                    }
                }
                std::thread::sleep(EVERY);
            }
            (took, failed)
        });
        Prober { over, asking }
    }

    pub(super) fn stop(self) -> Result<Latencies> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self.asking.join();
        let (mut took, failed) = joined.map_err(|_| anyhow::anyhow!("the prober panicked"))?;
        took.sort_unstable();
        ensure!(!took.is_empty(), "no probe was answered, {failed} were not");
        let p99 = took[(took.len() * 99 / 100).min(took.len() - 1)];
        Ok(Latencies { p99, worst: took[took.len() - 1], count: took.len(), failed })
    }
}

fn ask(http: &str) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&http.parse()?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}
