//! What the MPI thread keeps for each rank: messages that wait to be sent, and those being received.

use std::collections::VecDeque;

/// Sends under way to one rank. Each is taken by its receiver before it counts as done, so this also
/// bounds what an MPI library has to keep for a receiver that is slow to look.
const MAX_SENDING: usize = 32;

/// One rank, as seen from here.
#[derive(Debug, Default)]
pub(super) struct Peer {
    waiting: VecDeque<Vec<u8>>,
    num_sending: usize,
    /// Receives in the order in which the messages were sent; `Some` once all bytes are here.
    ///
    /// A small message may be complete before a large one that was sent earlier; it waits here.
    arriving: VecDeque<Option<Vec<u8>>>,
    /// Number of the first of `arriving`.
    first_arriving: u64,
}

impl Peer {
    pub(super) fn push(&mut self, payload: Vec<u8>) {
        self.waiting.push_back(payload);
    }

    /// The next message to start sending, if one may start now.
    pub(super) fn start_send(&mut self) -> Option<Vec<u8>> {
        if self.num_sending == MAX_SENDING {
            return None;
        }
        let payload = self.waiting.pop_front()?;
        self.num_sending += 1;
        Some(payload)
    }

    pub(super) fn sent(&mut self) {
        self.num_sending -= 1;
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.num_sending > 0 || !self.waiting.is_empty()
    }

    /// Notes that the next message of this rank is on its way; returns its number.
    pub(super) fn start_receive(&mut self) -> u64 {
        self.arriving.push_back(None);
        self.first_arriving + self.arriving.len() as u64 - 1
    }

    pub(super) fn received(&mut self, number: u64, payload: Vec<u8>) {
        let index = (number - self.first_arriving) as usize;
        self.arriving[index] = Some(payload);
    }

    /// The next message, if all of it is here.
    pub(super) fn next_received(&mut self) -> Option<Vec<u8>> {
        let payload = self.arriving.front_mut()?.take()?;
        self.arriving.pop_front();
        self.first_arriving += 1;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receives_come_out_in_the_order_they_were_sent() {
        let mut peer = Peer::default();
        let numbers: Vec<_> = (0..3).map(|_| peer.start_receive()).collect();
        peer.received(numbers[1], vec![1]);
        assert_eq!(peer.next_received(), None, "the first is still on its way");
        peer.received(numbers[0], vec![0]);
        assert_eq!(peer.next_received(), Some(vec![0]));
        assert_eq!(peer.next_received(), Some(vec![1]));
        assert_eq!(peer.next_received(), None);
        let later = peer.start_receive();
        peer.received(later, vec![3]);
        assert_eq!(peer.next_received(), None);
        peer.received(numbers[2], vec![2]);
        assert_eq!(peer.next_received(), Some(vec![2]));
        assert_eq!(peer.next_received(), Some(vec![3]));
    }

    #[test]
    fn a_silent_rank_holds_no_more_than_its_window() {
        let mut peer = Peer::default();
        (0..100).for_each(|i| peer.push(vec![i]));
        assert_eq!(std::iter::from_fn(|| peer.start_send()).count(), MAX_SENDING);
        peer.sent();
        assert_eq!(peer.start_send(), Some(vec![32]));
        assert_eq!(peer.start_send(), None);
        assert!(peer.has_unsent());
    }
}
