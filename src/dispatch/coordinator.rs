//! Rank 0's decisions: who works on what. A state machine without I/O: events in, actions out, time passed in.
//!
//! Invariants, checked by the property test below:
//! - a partition has at most one live claim, and its epoch is the newest ever given for it;
//! - a server is held by no more ranks than it has slots, and each holds `1 / slots` of its limits, so the
//!   shares of a server never sum to more than one;
//! - the run ends only when every partition is finished or every rank has said goodbye.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use super::DispatchOptions;
use super::protocol::RankProgress;
use crate::model::{Epoch, PartitionKey, Rank, RunId, ServerId};

/// Claims that one rank may hold on one server: a second one starts while the last records of the first are
/// still being retried.
const MAX_CLAIMS_PER_RANK_AND_SERVER: usize = 2;

#[derive(Clone, Debug)]
pub enum CoordinatorEvent {
    Hello,
    Ready {
        max_open_partitions: u32,
    },
    Alive(RankProgress),
    Release {
        partition: PartitionKey,
        epoch: Epoch,
    },
    /// The rank cannot do this partition (a manifest file is unreadable, say): no one tries again in this run.
    SetAside {
        partition: PartitionKey,
        epoch: Epoch,
    },
    /// The catalog has committed that the partition is finished.
    Finished {
        partition: PartitionKey,
    },
    StopAsked,
    Bye,
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Grant {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
        share: f64,
    },
    /// Tell the rank to stop.
    Stop {
        rank: Rank,
    },
    /// Tell the rank that nothing is left.
    Done {
        rank: Rank,
    },
    /// The rank has fallen silent; its claims are void.
    Lost {
        rank: Rank,
        claims: usize,
    },
}

#[derive(Debug, Default)]
struct Server {
    ready: VecDeque<u32>,
    /// Partitions of this run that are not finished, claimed or not.
    remaining: u32,
    /// Ranks that may hold claims here; fixed at the first claim, so shares never change under way.
    slots: Option<u32>,
    holders: BTreeMap<Rank, usize>,
}

#[derive(Debug)]
struct RankState {
    last_heard: Instant,
    max_open: u32,
    num_open: u32,
    state: Presence,
    progress: RankProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Lost,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct LiveClaim {
    rank: Rank,
    epoch: Epoch,
}

#[derive(Debug)]
pub struct Coordinator {
    options: DispatchOptions,
    run_id: RunId,
    num_granted: u32,
    servers: BTreeMap<ServerId, Server>,
    /// Servers with ready partitions, most remaining first: the longest job must start first.
    queue: BTreeSet<(std::cmp::Reverse<u32>, ServerId)>,
    claims: HashMap<PartitionKey, LiveClaim>,
    ranks: BTreeMap<Rank, RankState>,
    num_ranks: u32,
    stopping: bool,
    unfinished: u64,
    set_aside: u64,
}

impl Coordinator {
    /// `work` lists the partitions that are not finished.
    #[must_use]
    pub fn new(
        options: DispatchOptions,
        run_id: RunId,
        num_ranks: u32,
        work: impl IntoIterator<Item = PartitionKey>,
    ) -> Self {
        let mut servers: BTreeMap<ServerId, Server> = BTreeMap::new();
        let mut unfinished = 0;
        for partition in work {
            let server = servers.entry(partition.server_id).or_default();
            server.ready.push_back(partition.partition_id);
            server.remaining += 1;
            unfinished += 1;
        }
        let queue = servers.iter().map(|(&id, server)| (std::cmp::Reverse(server.remaining), id)).collect();
        Self {
            options,
            run_id,
            num_granted: 0,
            servers,
            queue,
            claims: HashMap::new(),
            ranks: BTreeMap::new(),
            num_ranks,
            stopping: false,
            unfinished,
            set_aside: 0,
        }
    }

    /// Whether every rank that ever spoke has left, and all have spoken or there is nothing to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ranks.len() == self.num_ranks as usize
            && self.ranks.values().all(|rank| rank.state != Presence::Here)
    }

    /// Whether every partition is finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    /// Partitions that are not finished.
    #[must_use]
    pub fn num_unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Ranks that fell silent and did not come back.
    #[must_use]
    pub fn num_lost(&self) -> usize {
        self.ranks.values().filter(|rank| rank.state == Presence::Lost).count()
    }

    /// Whether a report under this epoch may be committed.
    #[must_use]
    pub fn is_current(&self, partition: PartitionKey, epoch: Epoch) -> bool {
        self.claims.get(&partition).is_some_and(|claim| claim.epoch == epoch)
    }

    /// Sum of what the ranks say they have done.
    #[must_use]
    pub fn progress(&self) -> RankProgress {
        let mut sum = RankProgress::default();
        for rank in self.ranks.values() {
            let one = &rank.progress;
            sum.success += one.success;
            sum.failed += one.failed;
            sum.skipped += one.skipped;
            sum.received_bytes += one.received_bytes;
            sum.requests += one.requests;
            if rank.state == Presence::Here {
                sum.in_flight += one.in_flight;
                sum.open_partitions += one.open_partitions;
            }
        }
        sum
    }

    /// Takes in one event and says what follows.
    pub fn on_event(&mut self, from: Rank, event: CoordinatorEvent, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(event, CoordinatorEvent::Tick | CoordinatorEvent::Finished { .. }) {
            self.hear(from, now);
        }
        match event {
            CoordinatorEvent::Hello if self.stopping => actions.push(Action::Stop { rank: from }),
            CoordinatorEvent::Hello => {}
            CoordinatorEvent::Ready { max_open_partitions } => {
                if let Some(rank) = self.ranks.get_mut(&from) {
                    rank.max_open = max_open_partitions;
                }
            }
            CoordinatorEvent::Alive(progress) => {
                if let Some(rank) = self.ranks.get_mut(&from) {
                    rank.progress = progress;
                }
            }
            CoordinatorEvent::Release { partition, epoch } => {
                if self.is_current(partition, epoch) {
                    self.release(partition);
                }
            }
            CoordinatorEvent::SetAside { partition, epoch } => {
                if self.is_current(partition, epoch) {
                    self.take_out(partition);
                    self.set_aside += 1;
                }
            }
            CoordinatorEvent::Finished { partition } => {
                if self.take_out(partition) {
                    self.unfinished -= 1;
                }
            }
            CoordinatorEvent::StopAsked => {
                if !self.stopping {
                    self.stopping = true;
                    actions.extend(self.ranks_here().map(|rank| Action::Stop { rank }));
                }
            }
            CoordinatorEvent::Bye => {
                self.drop_claims_of(from);
                if let Some(rank) = self.ranks.get_mut(&from) {
                    rank.state = Presence::Gone;
                    rank.progress.in_flight = 0;
                }
            }
            CoordinatorEvent::Tick => self.expire_leases(now, &mut actions),
        }
        if !self.stopping {
            self.grant(&mut actions);
            if self.unfinished == self.set_aside {
                self.stopping = true;
                actions.extend(self.ranks_here().map(|rank| Action::Done { rank }));
            }
        }
        actions
    }

    fn ranks_here(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks.iter().filter(|(_, rank)| rank.state == Presence::Here).map(|(&rank, _)| rank)
    }

    fn hear(&mut self, from: Rank, now: Instant) {
        let rank = self.ranks.entry(from).or_insert(RankState {
            last_heard: now,
            max_open: 0,
            num_open: 0,
            state: Presence::Here,
            progress: RankProgress::default(),
        });
        rank.last_heard = now;
        // A rank that woke up holds nothing any more; it will be refused, drop its claims and ask anew.
        if rank.state == Presence::Lost {
            rank.state = Presence::Here;
        }
    }

    fn expire_leases(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let silent: Vec<Rank> = self
            .ranks
            .iter()
            .filter(|(_, rank)| {
                rank.state == Presence::Here
                    && now.saturating_duration_since(rank.last_heard) > self.options.lease_timeout
            })
            .map(|(&rank, _)| rank)
            .collect();
        for rank in silent {
            let claims = self.drop_claims_of(rank);
            if let Some(state) = self.ranks.get_mut(&rank) {
                state.state = Presence::Lost;
            }
            actions.push(Action::Lost { rank, claims });
        }
    }

    fn drop_claims_of(&mut self, rank: Rank) -> usize {
        let held: Vec<PartitionKey> = self
            .claims
            .iter()
            .filter(|(_, claim)| claim.rank == rank)
            .map(|(&partition, _)| partition)
            .collect();
        held.iter().for_each(|&partition| self.release(partition));
        held.len()
    }

    fn end_claim(&mut self, partition: PartitionKey) -> Option<LiveClaim> {
        let claim = self.claims.remove(&partition)?;
        if let Some(rank) = self.ranks.get_mut(&claim.rank) {
            rank.num_open -= 1;
        }
        Some(claim)
    }

    /// Ends a claim; the partition is ready for another.
    fn release(&mut self, partition: PartitionKey) {
        let Some(claim) = self.end_claim(partition) else { return };
        self.requeue(partition.server_id, |server| {
            server.leave(claim.rank);
            server.ready.push_front(partition.partition_id);
        });
    }

    /// Ends a claim; the partition is not given out again. False when there was no claim.
    fn take_out(&mut self, partition: PartitionKey) -> bool {
        let Some(claim) = self.end_claim(partition) else { return false };
        self.requeue(partition.server_id, |server| {
            server.leave(claim.rank);
            server.remaining -= 1;
        });
        true
    }

    /// Changes a server and keeps its place in the queue right.
    fn requeue(&mut self, id: ServerId, change: impl FnOnce(&mut Server)) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        self.queue.remove(&(std::cmp::Reverse(server.remaining), id));
        change(server);
        if !server.ready.is_empty() {
            self.queue.insert((std::cmp::Reverse(server.remaining), id));
        }
    }

    /// Hands out what can be handed out, one partition to each wanting rank in turn.
    fn grant(&mut self, actions: &mut Vec<Action>) {
        loop {
            let mut granted = false;
            let wanting: Vec<Rank> = self
                .ranks
                .iter()
                .filter(|(_, rank)| rank.state == Presence::Here && rank.num_open < rank.max_open)
                .map(|(&rank, _)| rank)
                .collect();
            for rank in wanting {
                if let Some(action) = self.grant_one(rank) {
                    actions.push(action);
                    granted = true;
                }
            }
            if !granted {
                return;
            }
        }
    }

    fn grant_one(&mut self, rank: Rank) -> Option<Action> {
        let options = &self.options;
        let num_ranks = self.num_ranks;
        // A server nobody works on comes first; then one with a free slot; then a second claim of our own.
        let (_, id) = self
            .queue
            .iter()
            .filter_map(|&(_, id)| {
                let server = &self.servers[&id];
                let slots = server.slots(options, num_ranks) as usize;
                let ours = server.holders.get(&rank).copied().unwrap_or(0);
                let preference = match (server.holders.len(), ours) {
                    (0, _) => 0,
                    (held, 0) if held < slots => 1,
                    (_, 1..MAX_CLAIMS_PER_RANK_AND_SERVER) => 2,
                    _ => return None,
                };
                Some((preference, id))
            })
            // The queue is in order of size, and the first of equals is kept: big servers first. Looking at
            // all servers is at worst a few hundred thousand cheap steps, and only while there is room.
            .min_by_key(|&(preference, _)| preference)?;
        self.num_granted += 1;
        let epoch = Epoch::new(self.run_id, self.num_granted);
        let server = self.servers.get_mut(&id)?;
        let slots = server.slots(&self.options, self.num_ranks);
        server.slots = Some(slots);
        let partition_id = server.ready.pop_front()?;
        *server.holders.entry(rank).or_default() += 1;
        if server.ready.is_empty() {
            self.queue.remove(&(std::cmp::Reverse(server.remaining), id));
        }
        let partition = PartitionKey { server_id: id, partition_id };
        self.claims.insert(partition, LiveClaim { rank, epoch });
        self.ranks.get_mut(&rank)?.num_open += 1;
        Some(Action::Grant { rank, partition, epoch, share: 1.0 / f64::from(slots) })
    }
}

impl Server {
    fn slots(&self, options: &DispatchOptions, num_ranks: u32) -> u32 {
        self.slots.unwrap_or_else(|| options.max_ranks_on_server(self.remaining).min(num_ranks))
    }

    fn leave(&mut self, rank: Rank) {
        if let Some(count) = self.holders.get_mut(&rank) {
            *count -= 1;
            if *count == 0 {
                self.holders.remove(&rank);
            }
        }
    }
}

#[cfg(test)]
mod tests;
