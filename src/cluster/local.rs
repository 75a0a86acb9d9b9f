//! The cluster within one process: ranks are tasks or threads, messages are moved, not copied.

use std::sync::Arc;

use super::endpoint::{self, Delivery};
use super::{ClusterOptions, Endpoint, Outbox};
use crate::model::Rank;

/// The endpoints of a cluster of `size` ranks (at least 1), in the order of rank, with default limits.
#[must_use]
pub fn endpoints(size: u32) -> Vec<Endpoint> {
    endpoints_with(size, &ClusterOptions::default())
}

/// As [`endpoints`], with the limits of `options`.
#[must_use]
pub fn endpoints_with(size: u32, options: &ClusterOptions) -> Vec<Endpoint> {
    let size = size.max(1);
    let (deliveries, inboxes): (Vec<Delivery>, Vec<_>) =
        (0..size).map(|_| endpoint::inbox(options.max_queued_bytes)).unzip();
    let deliveries: Arc<[Delivery]> = deliveries.into();
    (0..size as Rank)
        .zip(inboxes)
        .map(|(rank, inbox)| Endpoint { rank, size, outbox: Outbox::local(rank, deliveries.clone()), inbox })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::try_join_all;
    use tokio::time::timeout;

    use super::*;
    use crate::cluster::conformance::Suite;
    use crate::cluster::{ClusterError, Envelope};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        for size in [1, 2, 5] {
            let ranks: Vec<_> = endpoints(size)
                .into_iter()
                .map(|endpoint| {
                    let mut suite = Suite::new(endpoint);
                    tokio::spawn(async move {
                        suite.run().await?;
                        suite.say_goodbye().await.map(drop)
                    })
                })
                .collect();
            // All at once: when one rank fails, the others wait for it in vain.
            let all = try_join_all(ranks.into_iter().map(|rank| async { rank.await.unwrap() }));
            timeout(Duration::from_secs(60), all).await.expect("an end").unwrap();
        }
    }

    #[tokio::test]
    async fn an_inbox_ends_when_nobody_is_left_to_send() {
        let mut ranks = endpoints(2);
        let Endpoint { outbox: last, inbox: gone, .. } = ranks.pop().unwrap();
        let Endpoint { outbox, mut inbox, .. } = ranks.pop().unwrap();
        drop(gone);
        outbox.send(1, b"to nobody".to_vec()).expect("a lost rank goes unnoticed");
        drop(outbox);
        last.send(0, b"last".to_vec()).unwrap();
        drop(last);
        assert_eq!(inbox.recv().await, Some(Envelope { from: 1, payload: b"last".to_vec() }));
        assert_eq!(inbox.recv().await, None);
    }

    #[tokio::test]
    async fn a_receiver_that_stopped_reading_congests_only_its_own_queue() {
        let options = ClusterOptions { max_queued_bytes: 1_000, ..ClusterOptions::default() };
        let mut ranks = endpoints_with(2, &options);
        let outbox = ranks[0].outbox.clone();
        outbox.send(1, vec![0; 900]).unwrap();
        assert!(matches!(outbox.send(1, vec![0; 900]), Err(ClusterError::Congested { to: 1, .. })));
        outbox.send(0, vec![0; 900]).unwrap();
        ranks[1].inbox.recv().await.unwrap();
        outbox.send(1, vec![0; 900]).unwrap();
    }
}
