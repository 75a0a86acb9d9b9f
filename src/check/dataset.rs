//! The check of a whole dataset: jobs over threads, one report.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::error::CheckError;
use super::folders::KnownFolders;
use super::options::CheckOptions;
use super::partition::{ViewSource, check_partition};
use super::report::{Breach, BreachKind, CheckProgress, CheckReport, Findings};
use super::url_keys::check_url_keys;
use crate::catalog::{CatalogView, ServerRow};
use crate::model::{PartitionKey, ServerId, ServerName};
use crate::storage::DatasetLayout;

/// Compares a dataset's files with its catalog. Changes nothing.
///
/// `views` gives a view of what is committed now. A writer may be at work meanwhile: each partition is checked as
/// one view has it. `progress` is called on the caller's thread, after each partition.
///
/// # Errors
/// When the catalog's storage fails, a folder of servers cannot be listed, or a thread is refused. Files that
/// cannot be read are findings, not errors.
pub fn check_dataset(
    layout: &DatasetLayout,
    views: ViewSource<'_>,
    options: CheckOptions,
    progress: &dyn Fn(CheckProgress),
) -> Result<CheckReport, CheckError> {
    let plan = Plan::new(&views()?)?;
    let jobs = plan.jobs();
    let num_threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
    .min(jobs.len().max(1));
    let mut merged = Merged::new(options.max_breaches);
    let mut done = CheckProgress { partitions_done: 0, num_partitions: plan.partitions.len() as u64 };
    progress(done);

    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::sync_channel(2 * num_threads);
    thread::scope(|scope| {
        // Owned here: a return on an error drops it, and so ends the workers.
        let results = results;
        let (plan, jobs, next, options) = (&plan, &jobs[..], &next, &options);
        for number in 0..num_threads {
            let send = send.clone();
            thread::Builder::new()
                .name(format!("check-{number}"))
                .spawn_scoped(scope, move || work(plan, layout, views, options, jobs, next, &send))
                .map_err(CheckError::Thread)?;
        }
        drop(send);
        for (index, found) in results {
            merged.add(index, found?.report);
            if matches!(jobs[index], Job::Partition(_)) {
                done.partitions_done += 1;
                progress(done);
            }
        }
        Ok::<(), CheckError>(())
    })?;

    plan.compare_totals(jobs.len(), &mut merged, options.max_breaches);
    // What is no server's: orphans, and what the ingests have added.
    let mut rest = Findings::new(ServerName::from_catalog(""), None, options.max_breaches);
    plan.compare_with_ingests(&mut rest);
    KnownFolders::new(layout, &plan.folder_names(), &plan.partitions, &plan.tools)
        .unknown_files(layout, &mut |path, bytes| rest.orphan(path, bytes))?;
    merged.add(jobs.len() + 1, rest.report);
    Ok(merged.finish())
}

#[derive(Clone, Copy)]
enum Job {
    Partition(PartitionKey),
    /// The URL keys of a server.
    UrlKeys(ServerId),
}

/// Does jobs until none is left or nobody listens.
fn work(
    plan: &Plan,
    layout: &DatasetLayout,
    views: ViewSource<'_>,
    options: &CheckOptions,
    jobs: &[Job],
    next: &AtomicUsize,
    send: &SyncSender<(usize, Result<Findings, CheckError>)>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(&job) = jobs.get(index) else { return };
        let found = match job {
            Job::Partition(key) => check_partition(layout, views, options, &plan.name(key.server_id), key),
            Job::UrlKeys(id) => {
                let mut findings = Findings::new(plan.name(id), None, options.max_breaches);
                let num_records = plan.servers.get(&id).map_or(0, |server| server.found.1);
                let partitions = plan.partitions_of(id);
                views()
                    .map_err(CheckError::from)
                    .and_then(|view| check_url_keys(&view, partitions, num_records, &mut findings))
                    .map(|()| findings)
            }
        };
        if send.send((index, found)).is_err() {
            return;
        }
    }
}

struct ServerTotals {
    /// `None` when partitions name a server that the catalog does not have.
    row: Option<ServerRow>,
    /// Partitions and records, by the partitions.
    found: (u32, u64),
}

/// What there is to check.
struct Plan {
    servers: BTreeMap<ServerId, ServerTotals>,
    /// In ascending order.
    partitions: Vec<PartitionKey>,
    /// Records that the ingests say they have added.
    num_ingested: u64,
    /// Names of tools that ran.
    tools: Vec<String>,
}

impl Plan {
    fn new(view: &CatalogView) -> Result<Self, CheckError> {
        let servers =
            view.servers()?.into_iter().map(|row| (row.id, ServerTotals { row: Some(row), found: (0, 0) }));
        let num_ingested = view.ingests()?.iter().map(|ingest| ingest.new).sum();
        let tools = view.tools()?.into_iter().map(|(name, _)| name).collect();
        let mut plan = Self { servers: servers.collect(), partitions: Vec::new(), num_ingested, tools };
        view.for_each_partition(|key, row| {
            plan.partitions.push(key);
            let totals =
                plan.servers.entry(key.server_id).or_insert(ServerTotals { row: None, found: (0, 0) });
            totals.found.0 += 1;
            totals.found.1 = totals.found.1.saturating_add(row.counts.total());
        })?;
        Ok(plan)
    }

    fn jobs(&self) -> Vec<Job> {
        let partitions = self.partitions.iter().map(|&key| Job::Partition(key));
        partitions.chain(self.servers.keys().map(|&id| Job::UrlKeys(id))).collect()
    }

    fn name(&self, id: ServerId) -> ServerName {
        match self.servers.get(&id).and_then(|server| server.row.as_ref()) {
            Some(row) => row.folder.clone(),
            None => ServerName::from_catalog(&format!("unknown server {}", id.0)),
        }
    }

    fn folder_names(&self) -> HashMap<ServerId, ServerName> {
        self.servers.keys().map(|&id| (id, self.name(id))).collect()
    }

    fn partitions_of(&self, id: ServerId) -> &[PartitionKey] {
        let start = self.partitions.partition_point(|key| key.server_id < id);
        let end = self.partitions.partition_point(|key| key.server_id <= id);
        &self.partitions[start..end]
    }

    /// There may be more records than ingests have told of: one that was killed has told nothing.
    fn compare_with_ingests(&self, findings: &mut Findings) {
        let found = self.servers.values().fold(0_u64, |sum, server| sum.saturating_add(server.found.1));
        if found < self.num_ingested {
            let detail = format!("{found} records, but the ingests have added {}", self.num_ingested);
            findings.breach(BreachKind::IngestTotals, None, detail);
        }
    }

    /// Compares each server's totals with its partitions.
    fn compare_totals(&self, index: usize, merged: &mut Merged, max_listed: usize) {
        for (&id, server) in &self.servers {
            let stated = server.row.as_ref().map(|row| (row.num_partitions, row.num_records));
            if stated != Some(server.found) {
                let mut findings = Findings::new(self.name(id), None, max_listed);
                let (partitions, records) = server.found;
                let found = format!("{partitions} partitions with {records} records");
                let detail = match stated {
                    Some((partitions, records)) => {
                        format!("{found}, but {partitions} partitions with {records} records are stated")
                    }
                    None => format!("{found} of a server that the catalog does not have"),
                };
                findings.breach(BreachKind::ServerTotals, None, detail);
                merged.add(index, findings.report);
            }
        }
    }
}

/// The report in the making. Jobs end in any order, so what is listed carries the number of its job.
struct Merged {
    report: CheckReport,
    breaches: Vec<(usize, Breach)>,
    orphans: Vec<(usize, PathBuf)>,
    max_listed: usize,
}

impl Merged {
    fn new(max_listed: usize) -> Self {
        Self { report: CheckReport::default(), breaches: Vec::new(), orphans: Vec::new(), max_listed }
    }

    fn add(&mut self, index: usize, found: CheckReport) {
        let report = &mut self.report;
        report.counts += found.counts;
        report.num_records = report.num_records.saturating_add(found.num_records);
        report.partitions.open += found.partitions.open;
        report.partitions.compacted += found.partitions.compacted;
        report.partitions.finished += found.partitions.finished;
        report.num_files += found.num_files;
        report.file_bytes += found.file_bytes;
        report.num_images += found.num_images;
        report.num_tool_images += found.num_tool_images;
        report.hashed_bytes += found.hashed_bytes;
        report.num_breaches += found.num_breaches;
        report.num_orphans += found.num_orphans;
        report.orphan_bytes += found.orphan_bytes;
        self.breaches.extend(found.breaches.into_iter().map(|breach| (index, breach)));
        self.orphans.extend(found.orphans.into_iter().map(|orphan| (index, orphan)));
        keep_first(&mut self.breaches, self.max_listed);
        keep_first(&mut self.orphans, self.max_listed);
    }

    fn finish(mut self) -> CheckReport {
        self.report.breaches = self.breaches.into_iter().map(|(_, breach)| breach).collect();
        self.report.orphans = self.orphans.into_iter().map(|(_, orphan)| orphan).collect();
        self.report
    }
}

/// Sorts by job, keeping the order within one, and drops what is not listed.
fn keep_first<T>(listed: &mut Vec<(usize, T)>, max_listed: usize) {
    listed.sort_by_key(|(index, _)| *index);
    listed.truncate(max_listed);
}
