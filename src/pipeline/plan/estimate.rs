//! How many bytes a download would bring: sizes of a sample, asked for by HEAD or for the first byte.
//!
//! Requests go through [`fetch`](crate::fetch) as those of a download do: robots.txt, limits, pauses, the contact. No
//! server is asked for the size of more than the sample has of it, and none is waited for longer than
//! [`LONGEST_WAIT`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde::Serialize;
use url::Url;

use super::sample::{Group, SampledUrl, choose};
use super::statistics::{Interval, Stratum, total};
use super::{Pending, ServerPlan};
use crate::catalog::{CatalogError, CatalogView, ServerFact};
use crate::config::contact_of;
use crate::fetch::{Attempts, FetchFailure, FetchOptions, Fetcher, Next, SizeOutcome};
use crate::model::{Complaints, Embargo, FailureCause, ServerName};
use crate::pipeline::download::{fetch_settings, renditions};
use crate::pipeline::ingest::now_ms;
use crate::pipeline::{Dataset, PipelineError};

/// Attempts at one URL: an estimate can do without it.
const MAX_ATTEMPTS: u32 = 2;
/// A server that asks for a longer pause is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What an image takes beside its own bytes: in the demo's dataset 140 in other columns and 55 in footers, and some 60 in
/// the catalog.
const ROW_BYTES: f64 = 255.0;

/// What the user may set about an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EstimateOptions {
    /// About how many URLs are asked for; each server with pending records has at least two of them, as long as
    /// that suffices.
    pub sample: u64,
}

impl Default for EstimateOptions {
    /// Sizes of photos differ about as much as they are large: a thousand give the total to some 6 %.
    fn default() -> Self {
        Self { sample: 1000 }
    }
}

/// What a download would bring.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// URLs asked for.
    pub asked: u64,
    /// Their images' sizes are known.
    pub sized: u64,
    /// No image will come: their servers do not have it, or do not want it to be taken.
    pub absent: u64,
    /// No answer, or none that tells the size.
    pub unresolved: u64,
    /// Bytes of all pending images whose size would be known, before any resizing.
    pub bytes: Interval,
    /// Mean bytes of an image.
    pub bytes_per_image: Option<f64>,
    /// Pending records whose size would not be known; they are not in `bytes`.
    pub unresolved_records: u64,
    /// Their bytes, if they are like the others.
    pub unresolved_bytes: f64,
    /// Images that will come, unresolved ones aside.
    pub images: u64,
    /// Bytes on disk, Parquet's own included, unresolved ones aside.
    pub disk_bytes: f64,
    /// Why sizes are not known, and images will not come: causes of those that were asked for.
    pub causes: Vec<(String, u64)>,
}

/// The same of one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerEstimate {
    pub asked: u64,
    pub sized: u64,
    pub absent: u64,
    pub unresolved: u64,
    /// `None` where no size is known.
    pub bytes: Option<Interval>,
    /// Median time to an answer.
    pub answer_seconds: Option<f64>,
}

/// What became of one URL.
enum Found {
    Sized { bytes: u64, took: Duration },
    Absent(String),
    Unresolved(String),
}

/// Asks for a sample and works out what it says of all; puts each server's share into `servers`.
pub(super) fn estimate(
    dataset: &Dataset,
    view: &CatalogView,
    pending: &Pending,
    options: &EstimateOptions,
    servers: &mut [ServerPlan],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Estimate, PipelineError> {
    let user_agent = contact_of(&dataset.settings)?;
    // Beside a download, servers would see both.
    if let Some(holder) = dataset.in_use_by()? {
        return Err(CatalogError::InUse { path: dataset.layout.catalog(), holder: Box::new(holder) }.into());
    }
    let (fetch, rules) = fetch_settings(dataset)?;
    let fetch = FetchOptions {
        user_agent: user_agent.as_str().to_owned(),
        max_attempts: fetch.max_attempts.min(MAX_ATTEMPTS),
        ..fetch
    };
    let renditions = renditions(&dataset.resolved)?;
    let groups = choose(dataset, view, pending, options.sample)?;
    let fetcher = Arc::new(Fetcher::new(fetch, rules)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| PipelineError::Io { action: "start the runtime".into(), source })?;
    let urls: Vec<(usize, &SampledUrl)> = groups
        .iter()
        .enumerate()
        .flat_map(|(number, group)| group.urls.iter().map(move |url| (number, url)))
        .collect();
    let embargoes = embargoes(view, &urls)?;
    let num_urls = urls.len() as u64;
    let found: Vec<(usize, ServerName, Found)> = runtime.block_on(async {
        // Held on to, so that what is known of them is not forgotten.
        let known: Vec<_> = embargoes.keys().map(|server| fetcher.server(server)).collect();
        for (server, embargo) in &embargoes {
            fetcher.embargo(server, *embargo);
        }
        let mut asked = futures_util::stream::iter(urls)
            .map(|(number, sampled)| {
                let fetcher = Arc::clone(&fetcher);
                let url = renditions.of(&sampled.url).unwrap_or_else(|| sampled.url.clone());
                async move { (number, sampled.server.clone(), ask(&fetcher, &url).await) }
            })
            .buffer_unordered(fetcher.options().max_in_flight);
        let mut found = Vec::new();
        progress(0, num_urls);
        while let Some(one) = asked.next().await {
            found.push(one);
            progress(found.len() as u64, num_urls);
        }
        drop(known);
        found
    });
    Ok(work_out(&groups, found, servers))
}

/// Pauses that servers have asked for in earlier runs.
fn embargoes(
    view: &CatalogView,
    urls: &[(usize, &SampledUrl)],
) -> Result<HashMap<ServerName, Embargo>, PipelineError> {
    let now = now_ms();
    let mut embargoes = HashMap::new();
    for (_, SampledUrl { server, .. }) in urls {
        for fact in view.server_facts(server, now)? {
            if let ServerFact::Embargo { until, cause, http_status } = fact {
                let left = Duration::from_millis(until.saturating_sub(now));
                embargoes.insert(
                    server.clone(),
                    Embargo { left, cause, http_status, complaints: Complaints::default() },
                );
            }
        }
    }
    Ok(embargoes)
}

/// Asks for one URL, twice at most.
async fn ask(fetcher: &Fetcher, url: &Url) -> Found {
    let (mut attempts, give_up_at) = (Attempts::default(), Instant::now() + LONGEST_WAIT);
    loop {
        let failure = match fetcher.size_of(url).await {
            SizeOutcome::Told { content_type: Some(kind), .. } if kind.trim_start().starts_with("text/") => {
                return Found::Absent(FailureCause::NotAnImage.to_string());
            }
            SizeOutcome::Told { bytes, took, .. } => return Found::Sized { bytes, took },
            SizeOutcome::Untold => return Found::Unresolved("no_length".into()),
            SizeOutcome::Skip(skip) => return Found::Absent(skip.reason.as_str().into()),
            SizeOutcome::Failure(failure) => failure,
        };
        match attempts.after(failure.retry, fetcher.options(), Instant::now(), &mut fastrand::Rng::new()) {
            Next::At(at) if at < give_up_at => tokio::time::sleep_until(at.into()).await,
            _ => return of_failure(&failure),
        }
    }
}

/// A client's error is the URL's, and final; all else may be otherwise another time.
fn of_failure(failure: &FetchFailure) -> Found {
    use FailureCause::{BadRedirect, ForbiddenAddress, TooManyRedirects};
    let is_final = match failure.http_status {
        Some(408 | 425 | 429) => false,
        Some(400..=499) => true,
        _ => matches!(failure.cause, BadRedirect | ForbiddenAddress | TooManyRedirects),
    };
    let cause = match (failure.cause, failure.http_status) {
        (FailureCause::HttpStatus, Some(status)) => format!("{} {status}", failure.cause),
        (cause, _) => cause.to_string(),
    };
    if is_final { Found::Absent(cause) } else { Found::Unresolved(cause) }
}

/// What the answers say of all records.
fn work_out(
    groups: &[Group],
    found: Vec<(usize, ServerName, Found)>,
    servers: &mut [ServerPlan],
) -> Estimate {
    let mut estimate = Estimate::default();
    let mut strata: Vec<Stratum> =
        groups.iter().map(|group| Stratum { population: group.population, ..Stratum::default() }).collect();
    let mut sized = vec![0_u64; groups.len()];
    let mut of_servers: HashMap<String, (ServerEstimate, Vec<Duration>)> = HashMap::new();
    let mut causes: HashMap<String, u64> = HashMap::new();
    for (number, server, found) in found {
        let (of_server, times) = of_servers.entry(server.to_string()).or_default();
        estimate.asked += 1;
        of_server.asked += 1;
        match found {
            Found::Sized { bytes, took } => {
                estimate.sized += 1;
                of_server.sized += 1;
                sized[number] += 1;
                times.push(took);
                strata[number].values.push(bytes as f64);
            }
            Found::Absent(cause) => {
                estimate.absent += 1;
                of_server.absent += 1;
                strata[number].values.push(0.0);
                *causes.entry(cause).or_default() += 1;
            }
            Found::Unresolved(cause) => {
                estimate.unresolved += 1;
                of_server.unresolved += 1;
                strata[number].unresolved += 1;
                *causes.entry(cause).or_default() += 1;
            }
        }
    }
    let (bytes, unknown, like_others) = total(&strata);
    let images: f64 = strata
        .iter()
        .zip(&sized)
        .map(|(stratum, &sized)| {
            let known = stratum.population as f64 - stratum.unknown_population();
            if sized == 0 { 0.0 } else { known * sized as f64 / stratum.values.len() as f64 }
        })
        .sum();
    for (group, stratum) in groups.iter().zip(&strata) {
        if let Some(server) = &group.server {
            of_servers.entry(server.to_string()).or_default().0.bytes = stratum.total();
        }
    }
    for server in servers {
        let Some((mut of_server, mut times)) = of_servers.remove(&server.server_name) else { continue };
        times.sort_unstable();
        of_server.answer_seconds = times.get(times.len() / 2).map(Duration::as_secs_f64);
        server.estimate = Some(of_server);
        server.bound();
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Estimate {
        bytes,
        bytes_per_image: (images > 0.0).then(|| bytes.mean / images),
        unresolved_records: unknown.round() as u64,
        unresolved_bytes: like_others,
        images: images.round() as u64,
        disk_bytes: bytes.mean + images * ROW_BYTES,
        causes,
        ..estimate
    }
}
