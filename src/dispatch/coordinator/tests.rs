use proptest::prelude::*;

use super::*;

fn key(server: u32, partition_id: u32) -> PartitionKey {
    PartitionKey { server_id: ServerId(server), partition_id }
}

fn grants(actions: &[Action]) -> Vec<(Rank, PartitionKey, Epoch)> {
    actions
        .iter()
        .filter_map(|action| match *action {
            Action::Grant { rank, partition, epoch } => Some((rank, partition, epoch)),
            _ => None,
        })
        .collect()
}

fn ready(coordinator: &mut Coordinator, rank: Rank, max_open_partitions: u32) -> Vec<Action> {
    coordinator.on_event(rank, CoordinatorEvent::Ready { max_open_partitions })
}

/// Time enough for the lease of every rank that is not in `alive`.
fn outlast_a_lease(coordinator: &mut Coordinator, alive: &[Rank]) -> Vec<Action> {
    let mut actions = Vec::new();
    for _ in 0..=num_ticks(DispatchOptions::default().lease_timeout) {
        for &rank in alive {
            actions.extend(coordinator.on_event(rank, CoordinatorEvent::Hello));
        }
        actions.extend(coordinator.on_event(0, CoordinatorEvent::Tick));
    }
    actions
}

#[test]
fn every_server_gets_a_claim_before_any_gets_two_and_the_largest_is_first() {
    let work = [key(0, 0), key(1, 0), key(1, 1), key(1, 2), key(2, 0)];
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 1, work);
    let order: Vec<_> = grants(&ready(&mut coordinator, 0, 10)).iter().map(|grant| grant.1).collect();
    assert_eq!(order, [key(1, 0), key(0, 0), key(2, 0), key(1, 1)]);
}

#[test]
fn no_more_ranks_work_on_a_server_than_its_limits_can_be_dealt_to() {
    let options = DispatchOptions {
        schedule_rules: BTreeMap::from([(1, 4)]),
        max_connections_per_server: 4,
        ..DispatchOptions::default()
    };
    let work = (0..4).flat_map(|n| [key(0, n), key(1, n), key(2, n)]);
    let budget =
        |rate, max_connections| ServerBudget { rate, max_connections, bytes_per_hour: 0, bytes_per_day: 0 };
    let mut coordinator = Coordinator::new(options, 1, 2, work).with_budgets(|id| match id {
        ServerId(0) => Some(budget(1.5, 4)),
        ServerId(1) => Some(budget(20.0, 1)),
        _ => None,
    });
    let servers = |actions: &[Action]| -> Vec<u32> {
        grants(actions).iter().map(|(_, partition, _)| partition.server_id.0).collect()
    };
    assert_eq!(servers(&ready(&mut coordinator, 0, 10)), [0, 1, 2, 0, 1, 2]);
    assert_eq!(servers(&ready(&mut coordinator, 1, 10)), [2, 2]);
    let done = CoordinatorEvent::Finished { partition: key(0, 0) };
    let goes_on: Vec<_> =
        grants(&coordinator.on_event(0, done)).iter().map(|grant| (grant.0, grant.1)).collect();
    assert_eq!(goes_on, [(0, key(0, 2))], "to the rank that has it");
}

#[test]
fn a_silent_rank_loses_its_claims_and_its_late_report_is_not_current() {
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 7, 2, [key(0, 0)]);
    let (rank, partition, epoch) = grants(&ready(&mut coordinator, 1, 1))[0];
    ready(&mut coordinator, 0, 1);
    let actions = outlast_a_lease(&mut coordinator, &[0]);
    assert_eq!(
        actions[..2],
        [Action::Revoke { rank, partition, epoch }, Action::Lost { rank, claims: 1 }],
        "it hears of it when it wakes"
    );
    let second = grants(&actions)[0];
    assert_eq!((second.0, second.1), (0, key(0, 0)));
    assert!(second.2 > epoch);
    assert!(!coordinator.is_current(key(0, 0), epoch));
    assert!(coordinator.is_current(key(0, 0), second.2));
}

#[test]
fn a_rank_that_wakes_gets_work_and_at_the_end_its_farewell() {
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 7, 2, [key(0, 0), key(1, 0)]);
    ready(&mut coordinator, 1, 1);
    outlast_a_lease(&mut coordinator, &[0]);
    let woken = coordinator.on_event(1, CoordinatorEvent::Alive(RankProgress::default()));
    assert_eq!(grants(&woken).len(), 1);
    assert_eq!(woken[0], Action::Back { rank: 1 }, "before anything that it is given");
    assert_eq!(coordinator.num_lost(), 0);

    outlast_a_lease(&mut coordinator, &[0]);
    assert_eq!(coordinator.on_event(0, CoordinatorEvent::StopAsked), [Action::Stop { rank: 0 }]);
    let woken = coordinator.on_event(1, CoordinatorEvent::Hello);
    assert_eq!(woken, [Action::Back { rank: 1 }, Action::Stop { rank: 1 }]);
    assert!(coordinator.on_event(1, CoordinatorEvent::Hello).is_empty(), "once is enough");
}

#[test]
fn a_rank_that_never_speaks_is_lost_like_any_other() {
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 2, [key(0, 0)]);
    ready(&mut coordinator, 0, 1);
    let actions = coordinator.on_event(0, CoordinatorEvent::Finished { partition: key(0, 0) });
    assert_eq!(actions, [Action::Done { rank: 0 }, Action::Done { rank: 1 }]);
    coordinator.on_event(0, CoordinatorEvent::Bye);
    assert!(!coordinator.is_over(), "it may still be starting");
    let actions = outlast_a_lease(&mut coordinator, &[]);
    assert_eq!(actions, [Action::Lost { rank: 1, claims: 0 }]);
    assert!(coordinator.is_over());
    assert_eq!((coordinator.num_lost(), coordinator.num_not_gone()), (1, 1));
}

#[test]
fn a_stop_reaches_every_rank_and_the_run_ends_unfinished() {
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 2, [key(0, 0), key(1, 0)]);
    ready(&mut coordinator, 0, 1);
    ready(&mut coordinator, 1, 1);
    let actions = coordinator.on_event(1, CoordinatorEvent::StopAsked);
    assert_eq!(actions, [Action::Stop { rank: 0 }, Action::Stop { rank: 1 }]);
    coordinator.on_event(0, CoordinatorEvent::Bye);
    assert!(!coordinator.is_over());
    coordinator.on_event(1, CoordinatorEvent::Bye);
    assert!(coordinator.is_over() && !coordinator.is_finished());
}

#[test]
fn without_a_catalog_every_claim_is_void() {
    let mut coordinator = Coordinator::new(DispatchOptions::default(), 1, 1, [key(0, 0), key(1, 0)]);
    let (rank, partition, epoch) = grants(&ready(&mut coordinator, 0, 1))[0];
    let actions = coordinator.on_event(0, CoordinatorEvent::CatalogFailed);
    assert_eq!(actions, [Action::Revoke { rank, partition, epoch }, Action::Stop { rank: 0 }]);
    assert!(!coordinator.is_current(partition, epoch));
}

#[derive(Clone, Debug)]
enum Step {
    Want(Rank, u32),
    Finish(usize),
    Release(usize),
    SetAside(usize),
    Silence(Rank),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..4, 0u32..5).prop_map(|(rank, n)| Step::Want(rank, n)),
        any::<usize>().prop_map(Step::Finish),
        any::<usize>().prop_map(Step::Release),
        any::<usize>().prop_map(Step::SetAside),
        (0u32..4).prop_map(Step::Silence),
    ]
}

proptest! {
    #[test]
    fn no_server_has_too_many_ranks_and_all_work_is_done_in_the_end(
        sizes in proptest::collection::vec(1u32..6, 1..6),
        rule in 1u32..5,
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        let options = DispatchOptions {
            schedule_rules: BTreeMap::from([(1, 1), (2, rule)]),
            max_connections_per_server: 3,
            ..DispatchOptions::default()
        };
        let work: Vec<_> = sizes.iter().enumerate()
            .flat_map(|(server, &n)| (0..n).map(move |p| key(server as u32, p))).collect();
        let mut coordinator = Coordinator::new(options, 1, 4, work.clone());
        let mut live: BTreeMap<PartitionKey, (Rank, Epoch)> = BTreeMap::new();
        let mut newest: HashMap<PartitionKey, Epoch> = HashMap::new();
        let mut finished = BTreeSet::new();
        let mut set_aside = BTreeSet::new();
        // After the random steps, four ranks want everything and finish what they get.
        let tail = std::iter::repeat_n([Step::Want(0, 3), Step::Want(1, 3), Step::Finish(0)], work.len() + 1).flatten();
        for step in steps.into_iter().chain(tail) {
            let actions = match step {
                Step::Want(rank, partitions) => coordinator.on_event(rank, CoordinatorEvent::Ready { max_open_partitions: partitions }),
                Step::Finish(nth) => {
                    let Some(&partition) = live.keys().nth(nth % live.len().max(1)) else { continue };
                    live.remove(&partition);
                    finished.insert(partition);
                    coordinator.on_event(0, CoordinatorEvent::Finished { partition })
                }
                Step::Release(nth) => {
                    let Some((&partition, &(rank, epoch))) = live.iter().nth(nth % live.len().max(1)) else { continue };
                    live.remove(&partition);
                    coordinator.on_event(rank, CoordinatorEvent::Release { partition, epoch })
                }
                Step::SetAside(nth) => {
                    let Some((&partition, &(rank, epoch))) = live.iter().nth(nth % live.len().max(1)) else { continue };
                    live.remove(&partition);
                    set_aside.insert(partition);
                    coordinator.on_event(rank, CoordinatorEvent::SetAside { partition, epoch })
                }
                Step::Silence(silent) => {
                    let alive: Vec<Rank> = (0..4).filter(|&rank| rank != silent).collect();
                    outlast_a_lease(&mut coordinator, &alive)
                }
            };
            for action in actions {
                match action {
                    Action::Grant { rank, partition, epoch } => {
                        prop_assert!(!finished.contains(&partition), "finished work was given out");
                        prop_assert!(!set_aside.contains(&partition), "what is set aside was given out");
                        prop_assert!(newest.insert(partition, epoch).is_none_or(|old| old < epoch));
                        prop_assert!(live.insert(partition, (rank, epoch)).is_none(), "claimed twice");
                    }
                    Action::Revoke { rank, partition, epoch } => {
                        let (holder, held) = live.remove(&partition).expect("only live claims are revoked");
                        prop_assert_eq!((holder, held), (rank, epoch));
                    }
                    _ => {}
                }
            }
            for server in 0..sizes.len() as u32 {
                let on_it = live.iter().filter(|(partition, _)| partition.server_id.0 == server);
                let ranks: BTreeSet<Rank> = on_it.map(|(_, &(rank, _))| rank).collect();
                prop_assert!(ranks.len() as u32 <= rule.min(3), "{ranks:?}");
            }
        }
        prop_assert!(coordinator.is_finished(), "{} of {} left", coordinator.num_unfinished(), work.len());
        prop_assert_eq!(finished.len() + set_aside.len(), work.len());
        prop_assert_eq!(coordinator.num_unfinished(), set_aside.len() as u64);
    }
}
