//! What every transport has to do, as a program that all ranks run together.
//!
//! Each expectation names its sender and reads that sender's messages in order, so the suite needs no
//! barrier and no tags: if a transport reorders, loses or repeats one, some rank reads the wrong bytes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ClusterError, Endpoint, Envelope, MAX_MESSAGE_BYTES};
use crate::model::Rank;

/// Figures of one run, for whoever measures.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Median time of a small message to rank 0 and back; of rank 0, to itself and back.
    pub round_trip: Duration,
    /// Small messages that rank 0 took in per second while all ranks sent.
    pub messages_per_second: f64,
}

/// Small messages that reach rank 0 in the many-to-one part, all ranks together.
const NUM_SMALL: u32 = 100_000;

/// Around the sizes at which MPI libraries change from sending at once to asking first (4 KiB in shared
/// memory, 64 KiB over TCP), and one as large as a message of ours is likely to get.
const LARGE_BYTES: [usize; 8] = [0, 1, 4_095, 4_097, 65_537, 1 << 20, 0, 20_000_000];

/// The suite on one rank. Every rank of the cluster must run it at the same time.
#[derive(Debug)]
pub struct Suite {
    pub endpoint: Endpoint,
    /// Messages that came while another sender's was awaited, by sender.
    waiting: Vec<VecDeque<Vec<u8>>>,
}

impl Suite {
    /// Prepares the suite on this rank.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { waiting: vec![VecDeque::new(); endpoint.size as usize], endpoint }
    }

    /// Everything but the end.
    ///
    /// # Errors
    /// What was expected and what came.
    pub async fn run(&mut self) -> Result<Measured, String> {
        self.refusals()?;
        self.order_per_pair().await?;
        let messages_per_second = self.many_to_one().await?;
        self.large_messages().await?;
        self.crossing().await?;
        let round_trip = self.round_trips().await?;
        Ok(Measured { round_trip, messages_per_second })
    }

    /// The end: the last words of every rank reach rank 0, though it leaves at once. Gives the endpoint
    /// back, whose inbox must end once the membership is finished.
    ///
    /// # Errors
    /// What was expected and what came.
    pub async fn say_goodbye(mut self) -> Result<Endpoint, String> {
        for word in 0..3 {
            if self.endpoint.rank != 0 {
                self.send(0, number(word))?;
                continue;
            }
            for from in 1..self.endpoint.size {
                self.expect(from, &number(word)).await?;
            }
        }
        Ok(self.endpoint)
    }

    fn refusals(&self) -> Result<(), String> {
        let size = self.endpoint.size;
        match self.endpoint.outbox.send(size, Vec::new()) {
            Err(ClusterError::NoSuchRank { to, .. }) if to == size => {}
            other => return Err(format!("sending to rank {size} of {size} gave {other:?}")),
        }
        // Zeroed memory that nobody touches costs nothing.
        match self.endpoint.outbox.send(0, vec![0; MAX_MESSAGE_BYTES as usize + 1]) {
            Err(ClusterError::MessageTooLarge { .. }) => Ok(()),
            other => Err(format!("sending a message over the limit gave {other:?}")),
        }
    }

    async fn order_per_pair(&mut self) -> Result<(), String> {
        for i in 0..500 {
            for to in 0..self.endpoint.size {
                // Sizes vary, so that a transport with two paths would be caught overtaking itself.
                let mut message = number(i);
                message.resize(if i % 7 == 0 { 9_000 } else { 8 }, 0);
                self.send(to, message)?;
            }
        }
        for from in 0..self.endpoint.size {
            for i in 0..500 {
                let mut message = number(i);
                message.resize(if i % 7 == 0 { 9_000 } else { 8 }, 0);
                self.expect(from, &message).await?;
            }
        }
        Ok(())
    }

    async fn many_to_one(&mut self) -> Result<f64, String> {
        let share = NUM_SMALL.div_ceil(self.endpoint.size);
        let start = Instant::now();
        for i in 0..share {
            self.send(0, number(i))?;
        }
        if self.endpoint.rank == 0 {
            for from in 0..self.endpoint.size {
                for i in 0..share {
                    self.expect(from, &number(i)).await?;
                }
            }
        }
        Ok(f64::from(share * self.endpoint.size) / start.elapsed().as_secs_f64())
    }

    /// Around a ring, several under way at once.
    async fn large_messages(&mut self) -> Result<(), String> {
        let Endpoint { rank, size, .. } = self.endpoint;
        for bytes in LARGE_BYTES {
            self.send((rank + 1) % size, pattern(rank, bytes))?;
        }
        let from = (rank + size - 1) % size;
        for bytes in LARGE_BYTES {
            self.expect(from, &pattern(from, bytes)).await?;
        }
        Ok(())
    }

    /// All to all at once, larger than any buffer: deadlocks a transport that sends before it receives.
    async fn crossing(&mut self) -> Result<(), String> {
        for to in 0..self.endpoint.size {
            self.send(to, pattern(self.endpoint.rank, 3_000_000))?;
        }
        for from in 0..self.endpoint.size {
            self.expect(from, &pattern(from, 3_000_000)).await?;
        }
        Ok(())
    }

    async fn round_trips(&mut self) -> Result<Duration, String> {
        const NUM_TRIPS: u32 = 200;
        let size = self.endpoint.size;
        let mut trips = Vec::with_capacity(NUM_TRIPS as usize);
        if self.endpoint.rank == 0 {
            for i in 0..NUM_TRIPS {
                let start = Instant::now();
                self.send(0, number(i))?;
                self.expect(0, &number(i)).await?;
                trips.push(start.elapsed());
            }
            for from in 1..size {
                self.send(from, number(from))?;
                for i in 0..NUM_TRIPS {
                    self.expect(from, &number(i)).await?;
                    self.send(from, number(i))?;
                }
            }
        } else {
            // One rank at a time: the answer to a lone request is what is measured.
            self.expect(0, &number(self.endpoint.rank)).await?;
            for i in 0..NUM_TRIPS {
                let start = Instant::now();
                self.send(0, number(i))?;
                self.expect(0, &number(i)).await?;
                trips.push(start.elapsed());
            }
        }
        trips.sort_unstable();
        Ok(trips[trips.len() / 2])
    }

    fn send(&self, to: Rank, payload: Vec<u8>) -> Result<(), String> {
        let rank = self.endpoint.rank;
        self.endpoint.outbox.send(to, payload).map_err(|error| format!("rank {rank} to {to}: {error}"))
    }

    /// Reads the next message of `from`, which must be `expected`.
    async fn expect(&mut self, from: Rank, expected: &[u8]) -> Result<(), String> {
        let got = loop {
            if let Some(payload) = self.waiting[from as usize].pop_front() {
                break payload;
            }
            let Envelope { from, payload } = self.endpoint.inbox.recv().await.ok_or("the inbox ended")?;
            self.waiting[from as usize].push_back(payload);
        };
        if got == expected {
            return Ok(());
        }
        let rank = self.endpoint.rank;
        Err(format!("rank {rank} expected {} from rank {from}, got {}", describe(expected), describe(&got)))
    }
}

fn number(i: u32) -> Vec<u8> {
    u64::from(i).to_le_bytes().to_vec()
}

/// Bytes that differ by sender and position, so that mixed-up halves do not pass.
fn pattern(from: Rank, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u32 / 7).wrapping_mul(31).wrapping_add(from) as u8).collect()
}

fn describe(bytes: &[u8]) -> String {
    format!("{} bytes starting {:?}", bytes.len(), &bytes[..bytes.len().min(8)])
}
