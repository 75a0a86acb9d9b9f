//! How a server refuses: a token bucket, and the delays and queues around it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::options::ServerBehaviour;

/// One server's behaviour and what it has to remember.
#[derive(Debug)]
pub(super) struct ServerGate {
    pub(super) behaviour: ServerBehaviour,
    bucket: Option<Mutex<TokenBucket>>,
    workers: Option<Semaphore>,
}

impl ServerGate {
    pub(super) fn new(behaviour: ServerBehaviour) -> Self {
        let bucket = behaviour
            .requests_per_second
            .map(|rate| Mutex::new(TokenBucket::new(rate, behaviour.burst, Instant::now())));
        let workers = behaviour.num_workers.map(|count| Semaphore::new(count.max(1) as usize));
        Self { behaviour, bucket, workers }
    }

    /// Whether a request is answered at all, `in_flight` counting itself.
    pub(super) fn admits(&self, in_flight: u32, now: Instant) -> bool {
        let has_room = self.behaviour.max_in_flight.is_none_or(|max| in_flight <= max);
        has_room
            && self
                .bucket
                .as_ref()
                .is_none_or(|bucket| bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now))
    }

    /// Waits as long as the server works on one request.
    pub(super) async fn work(&self) {
        let permit = match &self.workers {
            Some(workers) => workers.acquire().await.ok(),
            None => None,
        };
        if !self.behaviour.latency.is_zero() {
            tokio::time::sleep(self.behaviour.latency).await;
        }
        drop(permit);
    }

    /// The `Retry-After` header of a refusal, in whole seconds.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.behaviour.retry_after;
        (!wait.is_zero()).then(|| wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }
}

/// Lets `rate` requests per second pass, `burst` of them at once after a pause.
#[derive(Debug)]
struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    fn new(rate: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { rate: rate.max(0.0), burst, tokens: burst, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let waited: Duration = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + waited.as_secs_f64() * self.rate).min(self.burst);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10.0, 3, start);
        let granted = (0..5).filter(|_| bucket.take(start)).count();
        assert_eq!(granted, 3);
        // 1,000 requests in 10 s, one each 10 ms: 10 per second pass.
        let granted = (1..=1_000).filter(|n| bucket.take(start + Duration::from_millis(10 * n))).count();
        assert!((99..=100).contains(&granted), "{granted}");
        // An hour of quiet saves up no more than the burst.
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 3);
        assert!(!bucket.take(start), "an earlier time grants nothing");
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let seconds = |retry_after| {
            ServerGate::new(ServerBehaviour { retry_after, ..ServerBehaviour::default() })
                .retry_after_seconds()
        };
        assert_eq!(seconds(Duration::ZERO), None);
        assert_eq!(seconds(Duration::from_millis(1_200)), Some(2));
        assert_eq!(seconds(Duration::from_secs(3)), Some(3));
    }

    #[test]
    fn a_server_with_a_bound_refuses_beyond_it() {
        let gate = ServerGate::new(ServerBehaviour { max_in_flight: Some(4), ..ServerBehaviour::default() });
        assert!(gate.admits(4, Instant::now()));
        assert!(!gate.admits(5, Instant::now()));
    }
}
