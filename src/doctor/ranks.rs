//! All ranks together: who asks whom for what.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

use super::clock::Offset;
use super::{
    Check, DoctorOptions, DoctorReport, Finding, Level, NodeFindings, clock, filesystem, machine, network,
};
use crate::cluster::{ClusterError, Endpoint, Inbox, Outbox, wire};
use crate::model::Rank;

/// Rank 0 to another.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Time,
    /// What do you see of the locks that I hold here?
    Locks {
        path: String,
    },
    /// What names resolve, and what answers one of these URLs?
    Network {
        urls: Vec<String>,
        ask: bool,
    },
    Leave,
}

/// And back.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Unasked, as the first word.
    Found(NodeFindings),
    /// Microseconds since 1970.
    Time(u64),
    More(Vec<Finding>),
}

/// How it ended on this rank.
#[derive(Debug)]
pub struct Examined {
    /// On rank 0.
    pub report: Option<DoctorReport>,
    /// Whether a rank was lost.
    pub lost_ranks: bool,
}

/// Times that a clock is asked; the quickest answer counts.
const CLOCK_ROUNDS: u32 = 5;
/// Nodes that come to no answer before no further one is asked.
const MAX_EGRESS_FAILURES: u32 = 4;
/// Between two requests of different nodes to the same server.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);
/// URLs that one node tries.
const URLS_PER_NODE: usize = 3;

/// Looks at everything, as this rank of the cluster.
///
/// # Errors
/// When messages cannot be sent, on ranks but the first.
pub async fn examine(endpoint: Endpoint, options: DoctorOptions) -> Result<Examined, ClusterError> {
    let Endpoint { rank, size, outbox, inbox } = endpoint;
    let own = NodeFindings { node: options.node.clone(), rank, findings: look_around(&options).await };
    if rank == 0 {
        Ok(Gathering { options, outbox, inbox, size, early: BTreeMap::new(), lost: Vec::new() }
            .gather(own)
            .await)
    } else {
        answer(&options, &outbox, inbox, own).await
    }
}

/// What a rank finds by itself, without the network.
async fn look_around(options: &DoctorOptions) -> Vec<Finding> {
    let mut findings = options.known.clone();
    findings.extend(machine::look(options));
    let folders = [&options.output].into_iter().chain(&options.scratch);
    for (at, folder) in folders.enumerate() {
        let (owned, catalog) = (folder.clone(), (at == 0).then(|| options.catalog.clone()));
        let looking = tokio::task::spawn_blocking(move || filesystem::look(&owned, catalog.as_ref()));
        findings.extend(in_time(looking, options.patience).await.unwrap_or_else(|| {
            let message = format!("`{}` does not answer", folder.path.display());
            vec![Finding::failure(
                Check::Writing,
                message,
                "its server is away: ask who looks after this filesystem",
            )]
        }));
    }
    findings
}

/// A filesystem that hangs must not hold up the rest.
async fn in_time<T>(looking: tokio::task::JoinHandle<T>, patience: Duration) -> Option<T> {
    tokio::time::timeout(patience, looking).await.ok()?.ok()
}

async fn answer(
    options: &DoctorOptions,
    outbox: &Outbox,
    mut inbox: Inbox,
    own: NodeFindings,
) -> Result<Examined, ClusterError> {
    let tell = |answer: &Answer| outbox.send(0, wire::encode(answer)?);
    tell(&Answer::Found(own))?;
    while let Some(letter) = inbox.recv().await {
        match wire::decode::<Question>(&letter.payload)? {
            Question::Time => tell(&Answer::Time(micros(SystemTime::now())))?,
            Question::Locks { path } => tell(&Answer::More(look_at_held(options, path.into()).await))?,
            Question::Network { urls, ask } => {
                let urls: Vec<Url> = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
                tell(&Answer::More(look_at_network(options, &urls, ask).await))?;
            }
            Question::Leave => return Ok(Examined { report: None, lost_ranks: false }),
        }
    }
    Ok(Examined { report: None, lost_ranks: true })
}

async fn look_at_held(options: &DoctorOptions, path: PathBuf) -> Vec<Finding> {
    let (catalog, patience) = (options.catalog.clone(), options.patience);
    let looking = tokio::task::spawn_blocking(move || filesystem::look_at_held(&path, &catalog, patience));
    in_time(looking, options.patience * 2).await.unwrap_or_else(|| {
        let message = "the output folder does not answer";
        vec![Finding::failure(
            Check::SharedFolder,
            message,
            "its server is away: ask who looks after this filesystem",
        )]
    })
}

async fn look_at_network(options: &DoctorOptions, urls: &[Url], ask: bool) -> Vec<Finding> {
    let mut findings = network::look(options, urls).await;
    if ask {
        findings.push(network::ask(options, &urls[..urls.len().min(URLS_PER_NODE)]).await);
    }
    findings
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Rank 0's side.
struct Gathering {
    options: DoctorOptions,
    outbox: Outbox,
    inbox: Inbox,
    size: u32,
    /// First words that came while another rank was asked.
    early: BTreeMap<Rank, NodeFindings>,
    lost: Vec<Rank>,
}

impl Gathering {
    async fn gather(mut self, own: NodeFindings) -> Examined {
        let mut ranks = BTreeMap::from([(0, own)]);
        let deadline = Instant::now() + self.options.patience * 3;
        for rank in 1..self.size {
            if let Some(found) = self.first_word(rank, deadline).await {
                ranks.insert(rank, found);
            }
        }
        let mut first_of_node: BTreeMap<String, Rank> = BTreeMap::new();
        for (&rank, found) in &ranks {
            first_of_node.entry(found.node.clone()).or_insert(rank);
        }
        let firsts: Vec<Rank> = {
            let mut firsts: Vec<_> = first_of_node.values().copied().collect();
            firsts.sort_unstable();
            firsts
        };
        self.compare_clocks(&mut ranks).await;
        self.compare_locks(&mut ranks).await;
        self.look_at_network(&mut ranks, &firsts).await;
        for rank in 1..self.size {
            let _ = self.send(rank, &Question::Leave);
        }
        let lost = std::mem::take(&mut self.lost);
        let run = lost.iter().map(|rank| {
            Finding::failure(
                Check::Launch,
                format!("rank {rank} does not answer"),
                "is its node alive? Start again without it (Slurm: `--exclude`)",
            )
        });
        let report = DoctorReport::new(self.size, run.collect(), ranks.into_values().collect());
        Examined { report: Some(report), lost_ranks: !lost.is_empty() }
    }

    fn send(&self, rank: Rank, question: &Question) -> Result<(), ClusterError> {
        self.outbox.send(rank, wire::encode(question)?)
    }

    /// The next answer of a rank; what others say meanwhile is kept if it is their first word.
    async fn answer_of(&mut self, rank: Rank, deadline: Instant) -> Option<Answer> {
        loop {
            let letter = timeout_at(deadline, self.inbox.recv()).await.ok()??;
            let Ok(answer) = wire::decode::<Answer>(&letter.payload) else { continue };
            if letter.from == rank {
                return Some(answer);
            }
            if let Answer::Found(found) = answer {
                self.early.insert(letter.from, found);
            }
        }
    }

    async fn first_word(&mut self, rank: Rank, deadline: Instant) -> Option<NodeFindings> {
        if let Some(found) = self.early.remove(&rank) {
            return Some(found);
        }
        match self.answer_of(rank, deadline).await {
            Some(Answer::Found(found)) => Some(found),
            _ => {
                self.lost.push(rank);
                None
            }
        }
    }

    /// Asks one rank; `None` when it is or gets lost.
    async fn ask(&mut self, rank: Rank, question: &Question) -> Option<Answer> {
        if self.lost.contains(&rank) {
            return None;
        }
        let deadline = Instant::now() + self.options.patience * 3;
        let answer = match self.send(rank, question) {
            Ok(()) => self.answer_of(rank, deadline).await,
            Err(_) => None,
        };
        if answer.is_none() {
            self.lost.push(rank);
        }
        answer
    }

    async fn compare_clocks(&mut self, ranks: &mut BTreeMap<Rank, NodeFindings>) {
        let node = self.options.node.clone();
        for (&rank, found) in ranks.iter_mut().skip(1) {
            let mut best: Option<Offset> = None;
            for _ in 0..CLOCK_ROUNDS {
                let before = SystemTime::now();
                let Some(Answer::Time(there)) = self.ask(rank, &Question::Time).await else { break };
                let there = UNIX_EPOCH + Duration::from_micros(there);
                let offset = Offset::between(before, there, SystemTime::now());
                best = Some(best.map_or(offset, |best| best.better(offset)));
            }
            if let Some(offset) = best.filter(|_| found.node != node) {
                found.findings.push(clock::of_rank(offset, self.options.catalog.lock_timeout));
            }
        }
    }

    /// Holds locks while the others look at them.
    async fn compare_locks(&mut self, ranks: &mut BTreeMap<Rank, NodeFindings>) {
        // What is wrong with them here has been told.
        let Ok(held) = filesystem::hold_for_others(&self.options.output, &self.options.catalog) else {
            return;
        };
        let path = held.path().display().to_string();
        for (&rank, found) in ranks.iter_mut().skip(1) {
            if let Some(Answer::More(more)) = self.ask(rank, &Question::Locks { path: path.clone() }).await {
                found.findings.extend(more);
            }
        }
    }

    /// One node after another, each with another server first.
    async fn look_at_network(&mut self, ranks: &mut BTreeMap<Rank, NodeFindings>, firsts: &[Rank]) {
        let mut failures = 0;
        for (at, &rank) in firsts.iter().enumerate() {
            let mut urls = self.options.urls.clone();
            if !urls.is_empty() {
                let turn = at % urls.len();
                urls.rotate_left(turn);
            }
            let may_ask = self.options.no_requests.is_none() && failures < MAX_EGRESS_FAILURES;
            if at > 0 && may_ask && !urls.is_empty() {
                sleep(BETWEEN_REQUESTS).await;
            }
            let more = if rank == 0 {
                Some(look_at_network(&self.options, &urls, may_ask).await)
            } else {
                let urls = urls.iter().map(ToString::to_string).collect();
                match self.ask(rank, &Question::Network { urls, ask: may_ask }).await {
                    Some(Answer::More(more)) => Some(more),
                    _ => None,
                }
            };
            let Some(mut more) = more else { continue };
            failures +=
                more.iter().filter(|f| f.check == Check::Egress && f.level == Level::Failure).count() as u32;
            if !may_ask {
                let why = self.options.no_requests.clone();
                let why = why.unwrap_or_else(|| format!("{failures} nodes have come to no answer already"));
                more.push(Finding::skipped(Check::Egress, why));
            }
            if let Some(found) = ranks.get_mut(&rank) {
                found.findings.extend(more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogOptions;
    use crate::cluster::{ClusterOptions, local};
    use crate::doctor::Folder;
    use crate::fetch::{FetchOptions, ServerRules};

    fn options(node: &str, output: PathBuf) -> DoctorOptions {
        DoctorOptions {
            node: node.into(),
            is_launched: true,
            known: Vec::new(),
            output: Folder { key: "path_to_output_folder", path: output, needed_bytes: None },
            scratch: Vec::new(),
            least_open_files: 10,
            enough_open_files: 20,
            catalog: CatalogOptions::default(),
            fetch: FetchOptions::default(),
            rules: ServerRules::default(),
            proxies: Vec::new(),
            no_requests: Some("not now".into()),
            urls: Vec::new(),
            patience: Duration::from_secs(20),
        }
    }

    fn of(report: &DoctorReport, rank: Rank, check: Check) -> Vec<Level> {
        let found = report.nodes.iter().find(|found| found.rank == rank);
        let findings = found.into_iter().flat_map(|found| &found.findings);
        findings.filter(|finding| finding.check == check).map(|finding| finding.level).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_node_is_told_of_and_nothing_stays_behind() {
        let (shared, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut endpoints = local::endpoints_with(3, &ClusterOptions::default());
        let mut rank = |node, folder: &tempfile::TempDir| {
            examine(endpoints.remove(0), options(node, folder.path().into()))
        };
        let (first, second, third) = tokio::join!(rank("a", &shared), rank("b", &shared), rank("c", &own));
        let first = first.unwrap();
        assert!(!first.lost_ranks && second.unwrap().report.is_none() && third.unwrap().report.is_none());
        let report = first.report.unwrap();
        assert_eq!((report.num_ranks, report.num_nodes), (3, 3));
        for rank in [1, 2] {
            assert_eq!(of(&report, rank, Check::Clock), [Level::Ok]);
            // Within one process the path of rank 0 is seen by all.
            assert_eq!(of(&report, rank, Check::SharedFolder), [Level::Ok]);
            assert_eq!(of(&report, rank, Check::Egress), [Level::Skipped]);
        }
        assert_eq!(of(&report, 1, Check::Locks), [Level::Ok, Level::Ok], "its own, and rank 0's");
        assert_eq!(std::fs::read_dir(shared.path()).unwrap().count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_rank_that_says_nothing_is_a_failure() {
        let shared = tempfile::tempdir().unwrap();
        let mut endpoints = local::endpoints_with(2, &ClusterOptions::default());
        let _silent = endpoints.pop().unwrap();
        let patience = Duration::from_millis(300);
        let options = DoctorOptions { patience, ..options("a", shared.path().into()) };
        let examined = examine(endpoints.pop().unwrap(), options).await.unwrap();
        assert!(examined.lost_ranks);
        let report = examined.report.unwrap();
        assert!(report.run[0].message.contains("rank 1 does not answer"), "{report:?}");
    }
}
