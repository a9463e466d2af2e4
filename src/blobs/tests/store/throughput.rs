//! How fast one upload becomes a replica, beside the two passes it cannot do without. A measurement:
//! `cargo test --release -p clawhub-blobs --test store throughput -- --ignored --nocapture`

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

const SIZE: usize = 1 << 30;
const STEP: usize = 256 << 10;

/// A point in wall time and in this process' CPU time, which tells apart a busy machine from a slow pass.
struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now(), Clock::cpu())
    }

    fn cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    fn stop(&self) -> String {
        let (wall, cpu) = (self.0.elapsed().as_secs_f64(), Clock::cpu() - self.1);
        let rate = SIZE as f64 / f64::from(1 << 20) / wall;
        format!("{wall:5.2} s {rate:5.0} MiB/s, {:5.2} s of CPU", cpu.as_secs_f64())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of a minute, not a check"]
async fn append_seal_keep_against_one_hash_and_one_write() {
    let bytes = content(SIZE);
    for round in 0..3 {
        let start = Clock::start();
        let digest = sha256_of(&bytes);
        println!("{round}: one SHA-256 pass        {}", start.stop());

        let home = Home::new();
        let start = Clock::start();
        let mut file = File::create(home.dir.path().join("plain")).unwrap();
        bytes.chunks(1 << 20).for_each(|piece| file.write_all(piece).unwrap());
        file.sync_all().unwrap();
        println!("{round}: one write and fsync     {}", start.stop());
        std::fs::remove_file(home.dir.path().join("plain")).unwrap();

        let store = home.open().await;
        let start = Clock::start();
        store.uploads().begin(id(1), &repo(), false).await.unwrap();
        append(&store, id(1), &bytes, STEP).await;
        println!("{round}: append                  {}", start.stop());
        let sealed = store.uploads().seal(id(1), &digest).await.unwrap();
        store.uploads().keep(id(1), &sealed, 1).await.unwrap();
        println!("{round}: append, seal and keep   {}", start.stop());

        for pass in ["first, checking", "again, checked "] {
            let start = Clock::start();
            let blob = store.open_blob(&sealed.root).await.unwrap().unwrap();
            let mut stream = std::pin::pin!(blob.read(0..blob.size()));
            let mut total = 0;
            while let Some(piece) = stream.next().await {
                total += piece.unwrap().len();
            }
            assert_eq!(total, SIZE);
            println!("{round}: read {pass}    {}", start.stop());
        }
    }
}
