//! Rank 0's decisions: who works on what. A state machine without I/O: events in, actions out.
//!
//! Time comes in as [`CoordinatorEvent::Tick`], every [`TICK`] while rank 0 runs. Silence is counted in ticks
//! and not read from a clock, so a rank 0 that was itself asleep (stopped, swapped out, behind a stalled
//! filesystem) judges nobody by its own absence.
//!
//! Invariants, checked by the property test below:
//! - a partition has at most one live claim, and its epoch is the newest ever given for it;
//! - a server's partitions are held by no more ranks than it has slots. Slots are settled when the first rank comes
//!   and hold until the last one leaves (how hard each of them may ask is `landlord.rs`'s affair);
//! - the run ends only when every partition is finished or set aside, or every rank has said goodbye.
//!
//! # Cost
//! With `n` servers, granting a partition costs O(log n): servers that nobody holds are a set of their own, and
//! so are, for each rank, those where it may have a second claim. Only a rank that wants more while every
//! server is held looks further, past the servers that it holds itself (at most its open partitions). Nothing
//! is looked for after an event that frees nothing, such as a sign of life.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::DispatchOptions;
use super::landlord::num_seats;
use super::protocol::RankProgress;
use crate::model::{Epoch, PartitionKey, Rank, RunId, ServerBudget, ServerId};

/// How often the coordinator must be told that time passes.
pub const TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub enum CoordinatorEvent {
    /// Any word that asks for nothing: a sign of life.
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
    /// Nothing can be committed any more: what is under way is worth nothing.
    CatalogFailed,
    Bye,
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Grant {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
    },
    /// Tell the rank that its claim is void.
    Revoke {
        rank: Rank,
        partition: PartitionKey,
        epoch: Epoch,
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
    /// A rank that was lost has said something.
    Back {
        rank: Rank,
    },
}

/// A server's place among others: most remaining partitions first, for the longest job must start first.
type Place = (Reverse<u32>, ServerId);

#[derive(Debug)]
struct Server {
    ready: VecDeque<u32>,
    /// Partitions of this run that are neither finished nor set aside, claimed or not.
    remaining: u32,
    /// Ranks that may hold claims here; settled while any does.
    slots: u32,
    /// Ranks that its limits can be dealt to.
    max_slots: u32,
    holders: BTreeMap<Rank, usize>,
}

#[derive(Debug)]
struct RankState {
    /// Ticks since its last word.
    silent_ticks: u32,
    max_open: u32,
    num_open: u32,
    presence: Presence,
    progress: RankProgress,
    /// Servers with ready partitions on which this rank may have a second claim.
    seconds: BTreeSet<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Lost,
    Gone,
}

/// Why nothing more is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Stop,
    Done,
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
    /// Servers with ready partitions that nobody holds.
    unheld: BTreeSet<Place>,
    /// Servers with ready partitions that some hold, but fewer ranks than they have slots.
    roomy: BTreeSet<Place>,
    claims: HashMap<PartitionKey, LiveClaim>,
    /// Every rank from the start: one that never says a word is lost like any other.
    ranks: BTreeMap<Rank, RankState>,
    /// Whether something has happened since the last grant that makes another possible.
    may_grant: bool,
    ending: Option<Ending>,
    /// Those that are set aside are among them.
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
            let server = servers.entry(partition.server_id).or_insert_with(Server::new);
            server.ready.push_back(partition.partition_id);
            server.remaining += 1;
            unfinished += 1;
        }
        let unheld = servers.iter().map(|(&id, server)| server.place(id)).collect();
        Self {
            options,
            run_id,
            num_granted: 0,
            servers,
            unheld,
            roomy: BTreeSet::new(),
            claims: HashMap::new(),
            ranks: (0..num_ranks).map(|rank| (rank, RankState::new())).collect(),
            may_grant: false,
            ending: None,
            unfinished,
            set_aside: 0,
        }
    }

    /// Heeds the limits of servers: no more ranks work on one than can ask it at the same time, the others would only
    /// have their turns. `budget_of` knows nothing of a folder that many servers share.
    #[must_use]
    pub fn with_budgets(mut self, budget_of: impl Fn(ServerId) -> Option<ServerBudget>) -> Self {
        for (&id, server) in &mut self.servers {
            if let Some(budget) = budget_of(id) {
                server.max_slots = num_seats(&budget);
            }
        }
        self
    }

    /// Whether every rank has left or is lost.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ranks.values().all(|rank| rank.presence != Presence::Here)
    }

    /// Whether nothing more is given out.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether nothing is left that can be done: every partition is finished, or set aside as damaged.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.unfinished == self.set_aside
    }

    /// Partitions that are not finished; those that are set aside are among them.
    #[must_use]
    pub fn num_unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Ranks that fell silent and did not come back.
    #[must_use]
    pub fn num_lost(&self) -> usize {
        self.num_ranks_in(Presence::Lost)
    }

    /// Ranks that have not said goodbye.
    #[must_use]
    pub fn num_not_gone(&self) -> usize {
        self.ranks.len() - self.num_ranks_in(Presence::Gone)
    }

    fn num_ranks_in(&self, presence: Presence) -> usize {
        self.ranks.values().filter(|rank| rank.presence == presence).count()
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
            if rank.presence == Presence::Here {
                sum.in_flight += one.in_flight;
                sum.open_partitions += one.open_partitions;
            }
        }
        sum
    }

    /// Takes in one event and says what follows.
    pub fn on_event(&mut self, from: Rank, event: CoordinatorEvent) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(event, CoordinatorEvent::Tick | CoordinatorEvent::Finished { .. }) {
            self.hear(from, &mut actions);
        }
        match event {
            CoordinatorEvent::Hello => {}
            CoordinatorEvent::Ready { max_open_partitions } => {
                if let Some(rank) = self.ranks.get_mut(&from) {
                    rank.max_open = max_open_partitions;
                    self.may_grant = true;
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
            CoordinatorEvent::StopAsked => self.end(Ending::Stop, &mut actions),
            CoordinatorEvent::CatalogFailed => {
                self.revoke(|_| true, &mut actions);
                self.end(Ending::Stop, &mut actions);
            }
            CoordinatorEvent::Bye => {
                self.revoke(|claim| claim.rank == from, &mut Vec::new());
                if let Some(rank) = self.ranks.get_mut(&from) {
                    rank.presence = Presence::Gone;
                }
            }
            CoordinatorEvent::Tick => self.expire_leases(&mut actions),
        }
        if self.ending.is_none() {
            if self.may_grant {
                self.grant(&mut actions);
                self.may_grant = false;
            }
            if self.unfinished == self.set_aside {
                self.end(Ending::Done, &mut actions);
            }
        }
        actions
    }

    /// Tells every rank once that nothing more is given out.
    fn end(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            let here = self.ranks.iter().filter(|(_, rank)| rank.presence == Presence::Here);
            actions.extend(here.map(|(&rank, _)| ending.tell(rank)));
        }
    }

    /// Notes a sign of life. A rank that was lost holds nothing any more, and has missed what it was told.
    fn hear(&mut self, from: Rank, actions: &mut Vec<Action>) {
        let Some(rank) = self.ranks.get_mut(&from) else { return };
        rank.silent_ticks = 0;
        if rank.presence == Presence::Lost {
            rank.presence = Presence::Here;
            self.may_grant = true;
            actions.push(Action::Back { rank: from });
            actions.extend(self.ending.map(|ending| ending.tell(from)));
        }
    }

    fn expire_leases(&mut self, actions: &mut Vec<Action>) {
        let lease_ticks = num_ticks(self.options.lease_timeout);
        let mut silent = Vec::new();
        for (&id, rank) in &mut self.ranks {
            rank.silent_ticks += 1;
            if rank.presence == Presence::Here && rank.silent_ticks > lease_ticks {
                rank.presence = Presence::Lost;
                silent.push(id);
            }
        }
        for rank in silent {
            let claims = self.revoke(|claim| claim.rank == rank, actions);
            actions.push(Action::Lost { rank, claims });
        }
    }

    /// Ends the claims that `which` names; their partitions are ready for others.
    fn revoke(&mut self, which: impl Fn(&LiveClaim) -> bool, actions: &mut Vec<Action>) -> usize {
        let held: Vec<(PartitionKey, LiveClaim)> =
            self.claims.iter().filter(|(_, claim)| which(claim)).map(|(&key, &claim)| (key, claim)).collect();
        for &(partition, LiveClaim { rank, epoch }) in &held {
            self.release(partition);
            actions.push(Action::Revoke { rank, partition, epoch });
        }
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
        self.change_server(partition.server_id, |server| {
            server.leave(claim.rank);
            server.ready.push_front(partition.partition_id);
        });
    }

    /// Ends a claim; the partition is not given out again. False when there was no claim.
    fn take_out(&mut self, partition: PartitionKey) -> bool {
        let Some(claim) = self.end_claim(partition) else { return false };
        self.change_server(partition.server_id, |server| {
            server.leave(claim.rank);
            server.remaining -= 1;
        });
        true
    }

    /// Changes a server and keeps its places right: no set is changed elsewhere.
    fn change_server<T>(&mut self, id: ServerId, change: impl FnOnce(&mut Server) -> T) -> Option<T> {
        let max_claims = self.options.claims_per_rank_and_server;
        let server = self.servers.get_mut(&id)?;
        let place = server.place(id);
        self.unheld.remove(&place);
        self.roomy.remove(&place);
        for rank in server.holders.keys() {
            self.ranks.get_mut(rank)?.seconds.remove(&place);
        }
        let changed = change(server);
        self.may_grant = true;
        let place = server.place(id);
        if server.ready.is_empty() {
            return Some(changed);
        }
        if server.holders.is_empty() {
            self.unheld.insert(place);
        } else if server.holders.len() < server.slots as usize {
            self.roomy.insert(place);
        }
        for (rank, &claims) in &server.holders {
            if claims < max_claims {
                self.ranks.get_mut(rank)?.seconds.insert(place);
            }
        }
        Some(changed)
    }

    /// Hands out what can be handed out, one partition to each wanting rank in turn.
    fn grant(&mut self, actions: &mut Vec<Action>) {
        loop {
            let wanting: Vec<Rank> = self
                .ranks
                .iter()
                .filter(|(_, rank)| rank.presence == Presence::Here && rank.num_open < rank.max_open)
                .map(|(&rank, _)| rank)
                .collect();
            let before = actions.len();
            actions.extend(wanting.into_iter().filter_map(|rank| self.grant_one(rank)));
            if actions.len() == before {
                return;
            }
        }
    }

    fn grant_one(&mut self, rank: Rank) -> Option<Action> {
        let id = self.best_server(rank)?;
        let server = self.servers.get(&id)?;
        let slots = self.options.max_ranks_on_server(server.remaining);
        let slots = slots.min(server.max_slots).min(self.ranks.len() as u32);
        let partition_id = self.change_server(id, |server| {
            if server.holders.is_empty() {
                server.slots = slots;
            }
            *server.holders.entry(rank).or_default() += 1;
            server.ready.pop_front()
        })??;
        self.num_granted += 1;
        let epoch = Epoch::new(self.run_id, self.num_granted);
        let partition = PartitionKey { server_id: id, partition_id };
        self.claims.insert(partition, LiveClaim { rank, epoch });
        self.ranks.get_mut(&rank)?.num_open += 1;
        Some(Action::Grant { rank, partition, epoch })
    }

    /// A server nobody works on comes first; then one with a free slot; then a second claim of the rank's own.
    fn best_server(&self, rank: Rank) -> Option<ServerId> {
        let holds = |id: &ServerId| self.servers[id].holders.contains_key(&rank);
        let mut with_room = self.roomy.iter().filter(|(_, id)| !holds(id));
        let place =
            self.unheld.first().or_else(|| with_room.next()).or_else(|| self.ranks[&rank].seconds.first());
        place.map(|&(_, id)| id)
    }
}

impl Server {
    fn new() -> Self {
        Self { ready: VecDeque::new(), remaining: 0, slots: 0, max_slots: u32::MAX, holders: BTreeMap::new() }
    }

    fn place(&self, id: ServerId) -> Place {
        (Reverse(self.remaining), id)
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

impl RankState {
    fn new() -> Self {
        Self {
            silent_ticks: 0,
            max_open: 0,
            num_open: 0,
            presence: Presence::Here,
            progress: RankProgress::default(),
            seconds: BTreeSet::new(),
        }
    }
}

impl Ending {
    fn tell(self, rank: Rank) -> Action {
        match self {
            Self::Stop => Action::Stop { rank },
            Self::Done => Action::Done { rank },
        }
    }
}

/// Ticks in so much time, at least one.
pub(super) fn num_ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
