//! Read buffers that are used again. A fresh buffer of half a MiB costs its page faults or a memset
//! with every read; a returned one is warm.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

/// Largest read; the size of every pooled buffer.
pub(crate) const READ_BYTES: usize = 512 << 10;
/// Reads below this are not worth a pooled buffer.
const SMALL: usize = 32 << 10;
/// Most buffers kept idle: 16 MiB.
const IDLE: usize = 32;
/// The same in bytes.
pub(crate) const IDLE_BYTES: usize = IDLE * READ_BYTES;

/// Idle buffers. Buffers on loan belong to whoever holds the [`Bytes`].
#[derive(Default)]
pub(crate) struct Buffers {
    idle: Mutex<Vec<Box<[u8]>>>,
}

impl Buffers {
    /// A buffer of `len` bytes, at most [`READ_BYTES`], with anything in it.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        debug_assert!(len <= READ_BYTES);
        if len < SMALL {
            return Buffer { bytes: vec![0; len].into(), len, home: Weak::new() };
        }
        let idle = self.idle.lock().pop();
        let bytes = idle.unwrap_or_else(|| vec![0; READ_BYTES].into());
        Buffer { bytes, len, home: Arc::downgrade(self) }
    }
}

pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    home: Weak<Buffers>,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The content, unchangeable from here; the buffer goes home with the last clone.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            let mut idle = home.idle.lock();
            if idle.len() < IDLE {
                idle.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_only_when_nobody_reads_them() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(READ_BYTES);
        buffer.as_mut().fill(7);
        let bytes = buffer.freeze();
        let slice = bytes.slice(5..9);
        drop(bytes);
        assert_eq!(buffers.idle.lock().len(), 0);
        assert_eq!(&slice[..], [7; 4]);
        drop(slice);
        assert_eq!(buffers.idle.lock().len(), 1);
        assert_eq!(buffers.take(SMALL).as_mut().len(), SMALL);
        let many: Vec<_> = (0..2 * IDLE).map(|_| buffers.take(READ_BYTES)).collect();
        drop(many);
        assert_eq!(buffers.idle.lock().len(), IDLE);
    }
}
