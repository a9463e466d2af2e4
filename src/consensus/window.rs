//! Bounds the bytes that are on their way to one follower and not answered yet, so that a slow follower costs
//! memory for one window and no more.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Bytes of entries sent and not answered, of one stream. One request always fits.
pub const LIMIT: usize = 4 << 20;

/// The requests of one stream that wait for their answers. `I` is an instant.
pub(crate) struct Window<I> {
    state: Mutex<State<I>>,
}

struct State<I> {
    under_way: VecDeque<(I, usize)>,
    bytes: usize,
    /// The sender, while the window is full.
    waiting: Option<Waker>,
}

impl<I: Copy> Window<I> {
    pub(crate) fn new() -> Self {
        Window { state: Mutex::new(State { under_way: VecDeque::new(), bytes: 0, waiting: None }) }
    }

    /// Ready when another request may be sent.
    pub(crate) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.bytes < LIMIT {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A request of so many bytes is sent.
    pub(crate) fn sent(&self, at: I, bytes: usize) {
        let mut state = self.state.lock();
        state.under_way.push_back((at, bytes));
        state.bytes += bytes;
    }

    /// The oldest request was answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock();
        if let Some((_, bytes)) = state.under_way.pop_front() {
            state.bytes -= bytes;
        }
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }

    /// When the oldest unanswered request was sent.
    pub(crate) fn oldest(&self) -> Option<I> {
        self.state.lock().under_way.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_full_window_opens_with_the_answers_oldest_first() {
        let window = Window::new();
        let open = || poll_fn(|cx| window.poll_open(cx)).now_or_never().is_some();
        assert_eq!(window.oldest(), None);
        window.sent(1, LIMIT - 1);
        assert!(open());
        window.sent(2, 1);
        assert!(!open());
        assert_eq!(window.oldest(), Some(1));
        window.answered();
        assert!(open());
        assert_eq!(window.oldest(), Some(2));
        window.sent(3, 2 * LIMIT);
        window.answered();
        assert!(!open());
        window.answered();
        assert!(open());
        window.answered();
    }
}
