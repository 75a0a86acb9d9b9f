use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(server: u32, partition_id: u32) -> PartitionKey {
    PartitionKey { server_id: ServerId(server), partition_id }
}

fn grants(actions: &[Action]) -> Vec<(Rank, PartitionKey, Epoch, f64)> {
    actions
        .iter()
        .filter_map(|action| match *action {
            Action::Grant { rank, partition, epoch, share } => Some((rank, partition, epoch, share)),
            _ => None,
        })
        .collect()
}

#[test]
fn every_server_gets_a_claim_before_any_gets_two_and_the_largest_is_first() {
    let work = [key(0, 0), key(1, 0), key(1, 1), key(1, 2), key(2, 0)];
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 1, work);
    let actions =
        coordinator.on_event(0, CoordinatorEvent::Ready { max_open_partitions: 10 }, Instant::now());
    let order: Vec<_> = grants(&actions).iter().map(|grant| grant.1).collect();
    assert_eq!(order, [key(1, 0), key(0, 0), key(2, 0), key(1, 1)]);
}

#[test]
fn a_silent_rank_loses_its_claims_and_its_late_report_is_not_current() {
    let start = Instant::now();
    let options = DispatchOptions::default();
    let late = start + options.lease_timeout + Duration::from_secs(1);
    let mut coordinator = Coordinator::new(options, 7, 2, [key(0, 0)]);
    let first =
        grants(&coordinator.on_event(1, CoordinatorEvent::Ready { max_open_partitions: 1 }, start))[0];
    coordinator.on_event(0, CoordinatorEvent::Ready { max_open_partitions: 1 }, late);
    let actions = coordinator.on_event(0, CoordinatorEvent::Tick, late);
    assert_eq!(actions[0], Action::Lost { rank: 1, claims: 1 });
    let second = grants(&actions)[0];
    assert_eq!((second.0, second.1), (0, key(0, 0)));
    assert!(second.2 > first.2);
    assert!(!coordinator.is_current(key(0, 0), first.2));
    assert!(coordinator.is_current(key(0, 0), second.2));
}

#[test]
fn a_stop_reaches_every_rank_and_the_run_ends_unfinished() {
    let now = Instant::now();
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 2, [key(0, 0), key(1, 0)]);
    coordinator.on_event(0, CoordinatorEvent::Ready { max_open_partitions: 1 }, now);
    coordinator.on_event(1, CoordinatorEvent::Ready { max_open_partitions: 1 }, now);
    let actions = coordinator.on_event(1, CoordinatorEvent::StopAsked, now);
    assert_eq!(actions, [Action::Stop { rank: 0 }, Action::Stop { rank: 1 }]);
    coordinator.on_event(0, CoordinatorEvent::Bye, now);
    assert!(!coordinator.is_over());
    coordinator.on_event(1, CoordinatorEvent::Bye, now);
    assert!(coordinator.is_over() && !coordinator.is_finished());
}

#[derive(Clone, Debug)]
enum Step {
    Want(Rank, u32),
    Finish(usize),
    Release(usize),
    Silence(Rank),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..4, 0u32..5).prop_map(|(rank, n)| Step::Want(rank, n)),
        any::<usize>().prop_map(Step::Finish),
        any::<usize>().prop_map(Step::Release),
        (0u32..4).prop_map(Step::Silence),
    ]
}

proptest! {
    #[test]
    fn shares_never_exceed_a_server_and_all_work_is_done_in_the_end(
        sizes in proptest::collection::vec(1u32..6, 1..6),
        rule in 1u32..5,
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        let options = DispatchOptions {
            schedule_rules: BTreeMap::from([(1, 1), (2, rule)]),
            max_connections_per_server: 3,
            ..DispatchOptions::default()
        };
        let timeout = options.lease_timeout;
        let work: Vec<_> = sizes.iter().enumerate()
            .flat_map(|(server, &n)| (0..n).map(move |p| key(server as u32, p))).collect();
        let mut coordinator = Coordinator::new(options, 1, 4, work.clone());
        let mut now = Instant::now();
        let mut live: BTreeMap<PartitionKey, (Rank, Epoch, f64)> = BTreeMap::new();
        let mut newest: HashMap<PartitionKey, Epoch> = HashMap::new();
        let mut finished = BTreeSet::new();
        // After the random steps, four ranks want everything and finish what they get.
        let tail = std::iter::repeat_n([Step::Want(0, 3), Step::Want(1, 3), Step::Finish(0)], work.len() + 1).flatten();
        for step in steps.into_iter().chain(tail) {
            let actions = match step {
                Step::Want(rank, partitions) => coordinator.on_event(rank, CoordinatorEvent::Ready { max_open_partitions: partitions }, now),
                Step::Finish(nth) => {
                    let Some(&partition) = live.keys().nth(nth % live.len().max(1)) else { continue };
                    live.remove(&partition);
                    finished.insert(partition);
                    coordinator.on_event(0, CoordinatorEvent::Finished { partition }, now)
                }
                Step::Release(nth) => {
                    let Some((&partition, &(rank, epoch, _))) = live.iter().nth(nth % live.len().max(1)) else { continue };
                    live.remove(&partition);
                    coordinator.on_event(rank, CoordinatorEvent::Release { partition, epoch }, now)
                }
                Step::Silence(silent) => {
                    now += timeout * 2;
                    let mut actions = Vec::new();
                    for rank in (0..4).filter(|&rank| rank != silent) {
                        let alive = CoordinatorEvent::Alive(RankProgress::default());
                        actions.extend(coordinator.on_event(rank, alive, now));
                    }
                    live.retain(|_, claim| claim.0 != silent);
                    actions.extend(coordinator.on_event(0, CoordinatorEvent::Tick, now));
                    actions
                }
            };
            for (rank, partition, epoch, share) in grants(&actions) {
                prop_assert!(!finished.contains(&partition), "finished work was given out");
                prop_assert!(newest.insert(partition, epoch).is_none_or(|old| old < epoch));
                prop_assert!(live.insert(partition, (rank, epoch, share)).is_none(), "claimed twice");
            }
            for server in 0..sizes.len() as u32 {
                let mut shares: BTreeMap<Rank, f64> = BTreeMap::new();
                for (_, &(rank, _, share)) in live.iter().filter(|(p, _)| p.server_id.0 == server) {
                    shares.insert(rank, share);
                }
                prop_assert!(shares.values().sum::<f64>() <= 1.0 + 1e-9, "{shares:?}");
            }
        }
        prop_assert!(coordinator.is_finished(), "{} of {} left", coordinator.num_unfinished(), work.len());
        prop_assert_eq!(finished.len(), work.len());
    }
}
