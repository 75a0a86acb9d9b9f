//! Rate controllers against servers that have their limits. What counts is what the servers saw.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::*;
use crate::fetch::rate::RateControl;
use crate::fetch::{FetchOptions, FetchOutcome, Fetcher, Retry};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn adaptive(max_connections_per_server: usize) -> FetchOptions {
    FetchOptions { rate_control: RateControl::Adaptive, max_connections_per_server, ..options() }
}

/// Fetches so many images with more tasks than any server should have requests; waits where it is told to.
async fn fetch_images(fetcher: &Arc<Fetcher>, server: &TestServer, images: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (fetcher, next, url) = (Arc::clone(fetcher), Arc::clone(&next), server.url("/"));
            tokio::spawn(async move {
                while next.fetch_add(1, SeqCst) < images {
                    loop {
                        match fetch(&fetcher, &url).await {
                            FetchOutcome::Body(_) => break,
                            FetchOutcome::Skip(skip) => panic!("{skip:?}"),
                            FetchOutcome::Failure(failure) => match failure.retry {
                                Retry::Throttled { until } | Retry::ServerPaused { until } => {
                                    tokio::time::sleep_until(until.into()).await;
                                }
                                _ => panic!("{failure:?}"),
                            },
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Requests that came in the last so long.
fn late(seen: &[Seen], window: Duration) -> &[Seen] {
    let last = seen[seen.len() - 1].at;
    &seen[seen.partition_point(|one| one.at + window <= last)..]
}

/// The most requests that came within a second.
fn most_in_a_second(seen: &[Seen]) -> usize {
    let until = |from: Instant| seen.partition_point(|one| one.at < from + S);
    (0..seen.len()).map(|n| until(seen[n].at) - n).max().unwrap_or(0)
}

/// Works on so many requests at a time, each for `service`; the others stand in line.
async fn server_of_slots(slots: usize, service: Duration) -> TestServer {
    let free_at = Mutex::new(vec![Instant::now(); slots]);
    TestServer::start(move |_, _| {
        let (mut free_at, now) = (free_at.lock().unwrap(), Instant::now());
        let slot = free_at.iter_mut().min().unwrap();
        *slot = now.max(*slot) + service;
        Reply::After(*slot - now, Box::new(ok(b"x")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_few_slots_is_kept_busy_without_a_queue() {
    let server = server_of_slots(4, 40 * MS).await;
    fetch_images(&fetcher(adaptive(64)), &server, 600).await;
    let seen = server.seen();
    assert_eq!(seen.len(), 600);
    let start = seen.iter().filter(|one| one.at < seen[0].at + 500 * MS).count();
    assert!(start <= 20, "it starts with {start}");
    let late = late(&seen, 2 * S);
    assert!(late.len() >= 100, "{} of 200", late.len());
    // 64 could be under way.
    let mut under_way: Vec<usize> = late.iter().map(|one| one.under_way).collect();
    under_way.sort_unstable();
    assert!(under_way[under_way.len() / 2] <= 10, "{under_way:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_is_never_exceeded() {
    let server = server_of_slots(1000, 20 * MS).await;
    let capped = fetcher(FetchOptions { default_rate_limit: 40.0, ..adaptive(64) });
    fetch_images(&capped, &server, 160).await;
    let seen = server.seen();
    assert_eq!(seen.len(), 160);
    // Arrivals jitter with the machine.
    assert!(most_in_a_second(&seen) <= 46, "{}", most_in_a_second(&seen));
    assert!(late(&seen, 2 * S).len() >= 50, "{} of 80", late(&seen, 2 * S).len());

    let server = server_of_slots(1000, 20 * MS).await;
    fetch_images(&fetcher(adaptive(3)), &server, 200).await;
    assert_eq!((server.seen().len(), server.most_under_way()), (200, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limiter_is_hardly_overrun_and_its_retry_after_obeyed() {
    const RATE: f64 = 40.0;
    let refused_at = Arc::new(Mutex::new(Vec::new()));
    let bucket = Mutex::new((10.0, Instant::now()));
    let server = TestServer::start({
        let refused_at = Arc::clone(&refused_at);
        move |_, _| {
            let (mut bucket, now) = (bucket.lock().unwrap(), Instant::now());
            let saved_up = (bucket.0 + RATE * (now - bucket.1).as_secs_f64()).min(10.0);
            if saved_up < 1.0 {
                *bucket = (saved_up, now);
                refused_at.lock().unwrap().push(now);
                return status("429 Too Many Requests", "Retry-After: 1\r\n");
            }
            *bucket = (saved_up - 1.0, now);
            Reply::After(20 * MS, Box::new(ok(b"x")))
        }
    })
    .await;
    fetch_images(&fetcher(adaptive(64)), &server, 300).await;
    let (seen, refused_at) = (server.seen(), refused_at.lock().unwrap().clone());
    assert_eq!(seen.len(), 300 + refused_at.len());
    assert!(refused_at.len() <= 20, "{} refusals", refused_at.len());
    for at in &refused_at {
        // What was under way may still arrive.
        let embargo = *at + 200 * MS..*at + 900 * MS;
        assert!(!seen.iter().any(|one| embargo.contains(&one.at)), "a request within the embargo");
    }
    let late = late(&seen, 3 * S);
    assert!(late.len() >= 48, "{} of 120", late.len());
}
