//! `ddl doctor`: whether this machine, or all nodes of a job, can run a download.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use arrow::array::{Array as _, AsArray as _};
use url::Url;

use super::download::download_settings;
use super::{Dataset, PipelineError};
use crate::catalog::{CatalogError, DispositionCounts};
use crate::cluster::{
    Cluster, ClusterError, ClusterOptions, Ending, TransportChoice, launch, launched_rank, launcher,
};
use crate::doctor::{Check, DoctorOptions, DoctorReport, Finding, Folder, examine};
use crate::fetch::{FetchOptions, ProxyUrl, ServerRules};
use crate::query::QuerySession;
use crate::slurm::{Allocation, JobEnvironment};

/// How long a server, a filesystem or a rank may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time for one connection, and for an answer to come: nobody wants to wait for a dead server here.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A robots.txt, or what stands in its place, is no larger.
const MAX_ROBOTS_BYTES: u64 = 1 << 20;
/// Servers of the list that may be asked.
const MAX_SERVERS: usize = 8;
/// Files that a process has open before it downloads: the catalog, logs, the ledger, MPI's sockets.
const FILES_AT_REST: u64 = 64;
/// A job that ends sooner gets nowhere.
const SHORT_TIME_LEFT: Duration = Duration::from_secs(300);

/// Looks at everything that a download needs, alone or as one rank of many. The report is rank 0's; the second value says
/// how the process must end.
///
/// A launcher that does not go with this build is a finding as well: of such processes the one that the launcher calls the
/// first goes on alone, the others return nothing.
///
/// # Errors
/// When the process cannot even do that: no runtime, or an `url` that is none.
pub fn doctor(dataset: &Dataset, url: Option<&str>) -> Result<(Option<DoctorReport>, Ending), PipelineError> {
    let mut known = Vec::new();
    let cluster = match launch(&ClusterOptions::default()) {
        Ok(cluster) => cluster,
        Err(_) if launched_rank().is_some_and(|rank| rank > 0) => return Ok((None, Ending::Finished)),
        Err(error) => {
            known.push(wrong_launcher(&error));
            let alone = ClusterOptions { transport: TransportChoice::Local, ..ClusterOptions::default() };
            launch(&alone)?
        }
    };
    let Cluster { endpoint, membership } = cluster;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| PipelineError::Io { action: "start the runtime".into(), source })?;
    let (rank, size) = (endpoint.rank, endpoint.size);
    let examined = runtime.block_on(async {
        let options = options(dataset, rank, size, url, known).await?;
        Ok::<_, PipelineError>(examine(endpoint, options).await?)
    });
    // A filesystem that hangs holds a thread for ever.
    runtime.shutdown_background();
    let mut examined = examined?;
    if let Some(report) = &mut examined.report {
        judge_nodes(report, &Allocation::read());
    }
    Ok((examined.report, membership.finish(examined.lost_ranks)))
}

fn wrong_launcher(error: &ClusterError) -> Finding {
    let advice = match error {
        ClusterError::BuiltWithoutMpi { .. } | ClusterError::NoMpi => {
            "`make build` builds ddl with MPI; without, start one process".into()
        }
        _ => error.hint().unwrap_or_else(|| {
            "OpenMPI: its own `mpirun`, or `srun --mpi=pmix`; MPICH: its own `mpiexec`, or `srun --mpi=pmi2`; \
             `srun --mpi=list` says what Slurm has"
                .into()
        }),
    };
    Finding::failure(Check::Launch, error.to_string(), advice)
}

/// Ranks that a job has nodes for, and does not run on.
fn judge_nodes(report: &mut DoctorReport, allocation: &Allocation) {
    let Some(granted) = allocation.num_nodes.filter(|&granted| granted > report.num_nodes) else { return };
    report.warnings += 1;
    report.run.push(Finding::warning(
        Check::Launch,
        format!("the job has {granted} nodes, ranks run on {}", report.num_nodes),
        "`srun ddl ...` starts ranks on all of them; nodes without ranks are not looked at",
    ));
}

async fn options(
    dataset: &Dataset,
    rank: u32,
    size: u32,
    url: Option<&str>,
    mut known: Vec<Finding>,
) -> Result<DoctorOptions, PipelineError> {
    let allocation = Allocation::read();
    let catalog = dataset.catalog_options()?;
    let (fetch, rules, no_requests) = match download_settings(dataset, size) {
        Ok(settings) => {
            known.push(Finding::ok(Check::Settings, format!("contact: {}", settings.fetch.user_agent)));
            (settings.fetch, settings.rules, None)
        }
        Err(error) => {
            let advice =
                error.hint().unwrap_or_else(|| "`ddl config show` says where each value comes from".into());
            known.push(Finding::failure(Check::Settings, error.to_string(), advice));
            (
                FetchOptions::default(),
                ServerRules::default(),
                Some("not asked with these settings".to_owned()),
            )
        }
    };
    let mut needed_bytes = None;
    let mut urls = Vec::new();
    if rank == 0 {
        launched(size, &allocation, &mut known);
        slurm(&JobEnvironment::read(), &allocation, &mut known);
        let counts = look_at_catalog(dataset, &mut known);
        needed_bytes = counts.and_then(|(counts, image_bytes)| bytes_of_pending(counts, image_bytes));
        urls = match url {
            Some(text) => vec![parse_url(text)?],
            None if counts.is_some() => match dataset.query_session() {
                Ok(session) => robots_urls(&session).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            },
            None => Vec::new(),
        };
    }
    let scratch = ["ingest_parameters.temp_folder", "query_parameters.temp_folder"]
        .into_iter()
        .filter_map(|key| {
            let path: Option<PathBuf> = dataset.resolved.read(key).ok()?;
            Some(Folder { key, path: path?, needed_bytes: None })
        })
        .collect();
    let proxies = [("http_proxy", &fetch.http_proxy), ("https_proxy", &fetch.https_proxy)]
        .into_iter()
        .filter_map(|(key, proxy): (_, &Option<ProxyUrl>)| Some((key, proxy.clone()?)))
        .collect();
    let max_open_partitions: u64 = dataset.resolved.read("downloader_parameters.max_open_partitions")?;
    let least_open_files = fetch.max_in_flight as u64 + FILES_AT_REST;
    Ok(DoctorOptions {
        node: allocation.node.unwrap_or_else(|| dataset.run_row("doctor", size).node),
        is_launched: size > 1,
        known,
        output: Folder { key: "path_to_output_folder", path: dataset.layout.root().to_owned(), needed_bytes },
        scratch,
        least_open_files,
        // Sockets of name lookups, two each; two files for each partition that is open.
        enough_open_files: least_open_files + 2 * fetch.max_name_lookups as u64 + 2 * max_open_partitions,
        catalog,
        fetch: FetchOptions {
            connect_timeout: fetch.connect_timeout.min(CONNECT_TIMEOUT),
            first_byte_timeout: fetch.first_byte_timeout.min(ANSWER_TIMEOUT),
            request_timeout: fetch.request_timeout.min(ANSWER_TIMEOUT),
            // What is asked for is itself a robots.txt, which anyone may ask for (RFC 9309, 2.2.2).
            respect_robots_txt: fetch.respect_robots_txt && url.is_some(),
            max_body_bytes: if url.is_some() { fetch.max_body_bytes } else { MAX_ROBOTS_BYTES },
            ..fetch
        },
        rules,
        proxies,
        no_requests,
        urls,
        patience: PATIENCE,
    })
}

fn parse_url(text: &str) -> Result<Url, PipelineError> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).ok_or_else(
        || {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no http or https URL");
            PipelineError::Io {
                action: format!("ask for `{}`", crate::model::mask_credentials(text)),
                source,
            }
        },
    )
}

/// Whom a variable gives away.
fn launcher_name(variable: &str) -> &'static str {
    match variable {
        "OMPI_COMM_WORLD_SIZE" => "OpenMPI's `mpirun`",
        "MV2_COMM_WORLD_SIZE" => "MVAPICH's `mpirun_rsh`",
        "PMI_SIZE" => "MPICH's or Intel's `mpiexec`, or `srun --mpi=pmi2`",
        "SLURM_STEP_NUM_TASKS" | "SLURM_NTASKS" => "`srun`",
        _ => "a launcher that speaks PMIx",
    }
}

fn launched(size: u32, allocation: &Allocation, known: &mut Vec<Finding>) {
    if known.iter().any(|finding| finding.check == Check::Launch) {
        return;
    }
    let built = if cfg!(feature = "mpi") { "with MPI" } else { "without MPI: one process is all it can be" };
    known.push(match launcher() {
        Some((variable, _)) if size > 1 => Finding::ok(
            Check::Launch,
            format!("{size} ranks have found each other, started by {}", launcher_name(variable)),
        ),
        Some((variable, _)) => {
            Finding::ok(Check::Launch, format!("one rank, started by {}; built {built}", launcher_name(variable)))
        }
        None if !allocation.is_step && allocation.num_tasks.is_some_and(|tasks| tasks > 1) => Finding::warning(
            Check::Launch,
            format!("alone, in a job with {} tasks; built {built}", allocation.num_tasks.unwrap_or_default()),
            "only this node is looked at: `srun ddl doctor`, or `mpirun ddl doctor`, looks at all of them",
        ),
        None => Finding::ok(Check::Launch, format!("alone; built {built}")),
    });
}

fn slurm(job: &JobEnvironment, allocation: &Allocation, known: &mut Vec<Finding>) {
    let Some(id) = &job.job_id else { return };
    let count =
        |number: Option<u32>, what: &str| number.map_or(String::new(), |number| format!(", {number} {what}"));
    let job_text = format!(
        "job {id}{}{}{}",
        allocation.partition.as_ref().map_or(String::new(), |name| format!(" in partition {name}")),
        count(allocation.num_nodes, "nodes"),
        count(allocation.num_tasks, "tasks"),
    );
    let warn = "`#SBATCH --signal=B:USR2@180` with a trap that forwards USR2 lets ddl seal and commit before the end";
    known.push(match job.time_left(SystemTime::now()) {
        Some(left) if left < SHORT_TIME_LEFT => Finding::warning(
            Check::Slurm,
            format!("{job_text}: it ends in {} s", left.as_secs()),
            "ask for more time (`--time`)",
        ),
        Some(left) => {
            Finding::ok(Check::Slurm, format!("{job_text}; {} minutes are left", left.as_secs() / 60))
        }
        None => Finding::ok(Check::Slurm, format!("{job_text}; it does not say when it ends: {warn}")),
    });
}

/// Says how the catalog stands; its counts and bytes, if it can be read.
fn look_at_catalog(dataset: &Dataset, known: &mut Vec<Finding>) -> Option<(DispositionCounts, u64)> {
    let check = Check::Catalog;
    let read = dataset.open_reader().and_then(|reader| {
        let view = reader.view()?;
        let mut image_bytes = 0;
        view.for_each_partition(|_, row| image_bytes += row.image_bytes)?;
        Ok((view.counts()?, image_bytes))
    });
    let holder = dataset.in_use_by().ok().flatten();
    match read {
        Ok((counts, image_bytes)) => {
            let in_use = holder.map_or(String::new(), |holder| format!("; in use by {holder}"));
            let message = format!("{} records, {} pending{in_use}", counts.total(), counts.pending);
            known.push(Finding::ok(check, message));
            Some((counts, image_bytes))
        }
        Err(PipelineError::Catalog(CatalogError::NotFound { .. })) => {
            known.push(Finding::skipped(check, "there is none yet: `ddl ingest` makes it"));
            None
        }
        Err(PipelineError::Catalog(error @ CatalogError::NoFileLocks { .. })) => {
            known.push(Finding::skipped(check, error.to_string()));
            None
        }
        Err(error) => {
            let advice = error.hint().unwrap_or_else(|| "`ddl catalog check` looks through it".into());
            known.push(Finding::failure(check, error.to_string(), advice));
            None
        }
    }
}

/// What the pending records will take if their images are as large as those that are there.
fn bytes_of_pending(counts: DispositionCounts, image_bytes: u64) -> Option<u64> {
    /// Fewer say nothing of the rest.
    const ENOUGH: u64 = 100;
    let mean = (counts.success >= ENOUGH).then(|| image_bytes as f64 / counts.success as f64)?;
    let fails = counts.failed as f64 / (counts.success + counts.failed) as f64;
    Some((mean * counts.pending as f64 * (1.0 - fails)) as u64)
}

/// robots.txt of the servers with most to do: the smallest file that any of them may be asked for.
async fn robots_urls(session: &QuerySession) -> Result<Vec<Url>, PipelineError> {
    let servers = format!(
        "SELECT server_name FROM servers WHERE server_name IS NOT NULL AND NOT shared \
         ORDER BY pending DESC, num_records DESC, server_name LIMIT {MAX_SERVERS}"
    );
    let mut urls = Vec::new();
    for name in texts(session, &servers).await? {
        let name = name.replace('\'', "''");
        let first = format!("SELECT identifier FROM urls WHERE server_name = '{name}' LIMIT 1");
        urls.extend(texts(session, &first).await?);
    }
    if urls.is_empty() {
        let any = format!("SELECT identifier FROM urls WHERE disposition <> 'skipped' LIMIT {MAX_SERVERS}");
        urls = texts(session, &any).await?;
    }
    let robots = urls.iter().filter_map(|text| {
        let mut url = Url::parse(text).ok()?.join("/robots.txt").ok()?;
        // Nobody's business here.
        url.set_username("").and_then(|()| url.set_password(None)).ok()?;
        Some(url)
    });
    let mut urls: Vec<Url> = robots.collect();
    urls.dedup();
    Ok(urls)
}

/// The values of a query's only column.
async fn texts(session: &QuerySession, sql: &str) -> Result<Vec<String>, PipelineError> {
    let mut texts = Vec::new();
    for batch in session.collect(sql).await? {
        let column =
            arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).map_err(|error| {
                PipelineError::Io { action: "read a column".into(), source: std::io::Error::other(error) }
            })?;
        let column = column.as_string::<i32>();
        texts.extend(
            (0..column.len()).filter(|&row| column.is_valid(row)).map(|row| column.value(row).to_owned()),
        );
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::doctor::Level;

    #[test]
    fn what_is_pending_is_estimated_by_what_came() {
        let counts = |success, failed, pending| DispositionCounts { success, failed, pending, skipped: 0 };
        assert_eq!(bytes_of_pending(counts(100, 100, 1000), 100 * 4000), Some(2_000_000));
        assert_eq!(bytes_of_pending(counts(99, 0, 1000), 99 * 4000), None);
    }

    #[test]
    fn a_job_is_told_of_and_a_laptop_has_none() {
        let mut known = Vec::new();
        slurm(&JobEnvironment::default(), &Allocation::default(), &mut known);
        assert!(known.is_empty());
        let job = |end_time| JobEnvironment { job_id: Some("7".into()), end_time };
        let allocation = Allocation { num_nodes: Some(4), num_tasks: Some(8), ..Allocation::default() };
        slurm(&job(None), &allocation, &mut known);
        slurm(&job(Some(UNIX_EPOCH)), &allocation, &mut known);
        assert_eq!(known[0].level, Level::Ok);
        assert!(known[0].message.starts_with("job 7, 4 nodes, 8 tasks; "), "{known:?}");
        assert_eq!(known[1].level, Level::Warning);
    }

    #[test]
    fn a_batch_script_is_told_that_it_looks_at_one_node() {
        let mut known = Vec::new();
        launched(1, &Allocation { num_tasks: Some(8), ..Allocation::default() }, &mut known);
        assert_eq!(known[0].level, Level::Warning);
        let mut report = DoctorReport { num_nodes: 1, ..DoctorReport::default() };
        judge_nodes(&mut report, &Allocation { num_nodes: Some(2), ..Allocation::default() });
        judge_nodes(&mut report, &Allocation { num_nodes: Some(1), ..Allocation::default() });
        assert_eq!((report.warnings, report.run.len()), (1, 1));
    }
}
