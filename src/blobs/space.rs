//! How much room the device has, asked for at most every [`AGE`].
//!
//! A file system may take long to answer, or never do. Then one caller waits for it, and the others make do
//! with the last reading: whether the device can be relied on at all is the owner's to find out, who holds
//! the store back then.

use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a reading is good for.
const AGE: Duration = Duration::from_millis(100);

pub(crate) struct Space {
    last: Mutex<(Instant, u64)>,
    asking: Mutex<()>,
}

impl Space {
    /// Begins with a reading of `free` bytes, made just now.
    pub(crate) fn new(free: u64) -> Space {
        Space { last: Mutex::new((Instant::now(), free)), asking: Mutex::new(()) }
    }

    /// Makes the next caller ask: much has changed since the last reading.
    pub(crate) fn forget(&self) {
        self.last.lock().0 -= AGE;
    }

    /// Bytes that the device offers, by a reading that is at most [`AGE`] old, or the last one if somebody is
    /// asking already. May block in `ask`.
    ///
    /// # Errors
    /// What `ask` says.
    pub(crate) fn free(&self, ask: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
        let (at, free) = *self.last.lock();
        if at.elapsed() < AGE {
            return Ok(free);
        }
        let Some(_asking) = self.asking.try_lock() else { return Ok(free) };
        let free = ask()?;
        *self.last.lock() = (Instant::now(), free);
        Ok(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_device_that_does_not_answer_holds_up_one_caller() {
        let space = Space::new(5);
        assert_eq!(space.free(|| panic!("asked too soon")).unwrap(), 5);
        std::thread::sleep(AGE);
        std::thread::scope(|scope| {
            let (begin, begun) = mpsc::channel();
            let (answer, answered) = mpsc::channel();
            let space = &space;
            let slow = scope.spawn(move || {
                space.free(|| {
                    begin.send(()).unwrap();
                    Ok(answered.recv().unwrap())
                })
            });
            begun.recv().unwrap();
            assert_eq!(space.free(|| panic!("two ask")).unwrap(), 5, "the last reading");
            answer.send(7).unwrap();
            assert_eq!(slow.join().unwrap().unwrap(), 7);
        });
        assert_eq!(space.free(|| panic!("asked too soon")).unwrap(), 7);
        std::thread::sleep(AGE);
        assert!(space.free(|| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(space.free(|| Ok(9)).unwrap(), 9, "a failure is no reading");
    }
}
