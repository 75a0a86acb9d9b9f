//! Which URLs are asked for in place of all: of each group those with the smallest keys, which are hashes of the URLs.
//! The same dataset gives the same sample.

use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use url::Url;

use super::{Pending, PipelineError};
use crate::catalog::CatalogView;
use crate::model::{PartitionKey, RecordIndex, RecordState, ServerId, ServerName, UrlKey};
use crate::pipeline::Dataset;

/// A group with fewer says nothing of how much its records differ.
const LEAST_OF_GROUP: u64 = 2;

/// Records that are sampled together: those of a large server, or of all small ones.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// `None`: small servers.
    pub server: Option<ServerName>,
    pub population: u64,
    /// How many of them are asked for.
    pub size: u64,
    pub urls: Vec<SampledUrl>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SampledUrl {
    pub server: ServerName,
    pub url: Url,
}

/// Cuts what is pending into groups and chooses about `sample` URLs of them, each group's share by its size.
pub(super) fn choose(
    dataset: &Dataset,
    view: &CatalogView,
    pending: &Pending,
    sample: u64,
) -> Result<Vec<Group>, PipelineError> {
    let by_folder = group(pending, sample);
    let mut groups: Vec<Group> = Vec::new();
    let mut numbers: HashMap<ServerId, usize> = HashMap::new();
    for (group, folders) in by_folder {
        numbers.extend(folders.into_iter().map(|folder| (folder, groups.len())));
        groups.push(group);
    }
    // The largest of the smallest keys so far on top.
    let mut chosen: Vec<BinaryHeap<(UrlKey, PartitionKey, RecordIndex)>> =
        groups.iter().map(|_| BinaryHeap::new()).collect();
    for &partition in &pending.partitions {
        let Some(&number) = numbers.get(&partition.server_id) else { continue };
        let (heap, size) = (&mut chosen[number], groups[number].size as usize);
        let states = view.states(partition)?;
        for (record, (key, status)) in view.url_keys(partition)?.into_iter().zip(states).enumerate() {
            if status.state != RecordState::Pending {
                continue;
            }
            if heap.len() < size {
                heap.push((key, partition, record as RecordIndex));
            } else if heap.peek().is_some_and(|(largest, ..)| key < *largest) {
                heap.pop();
                heap.push((key, partition, record as RecordIndex));
            }
        }
    }
    let mut wanted: BTreeMap<PartitionKey, HashMap<RecordIndex, (UrlKey, usize)>> = BTreeMap::new();
    for (number, heap) in chosen.into_iter().enumerate() {
        for (key, partition, record) in heap {
            wanted.entry(partition).or_default().insert(record, (key, number));
        }
    }
    let mut found: Vec<BTreeMap<UrlKey, SampledUrl>> = groups.iter().map(|_| BTreeMap::new()).collect();
    for (partition, records) in wanted {
        read_urls(dataset, view, pending, partition, &records, &mut found)?;
    }
    for (group, urls) in groups.iter_mut().zip(found) {
        group.urls = urls.into_values().collect();
    }
    Ok(groups)
}

/// The largest servers each by itself, as many as the sample has room for, and all others together.
fn group(pending: &Pending, sample: u64) -> Vec<(Group, Vec<ServerId>)> {
    let folders: HashSet<ServerId> = pending.partitions.iter().map(|partition| partition.server_id).collect();
    let mut large: Vec<(u64, ServerId, &ServerName)> = Vec::new();
    let mut small_folders = Vec::new();
    for folder in folders {
        let Some((name, is_shared)) = pending.folders.get(&folder) else { continue };
        match pending.servers.get(name).filter(|_| !is_shared) {
            Some(server) => large.push((server.records, folder, name)),
            None => small_folders.push(folder),
        }
    }
    let shared = pending.servers.values().filter(|server| server.partitions.is_none());
    let mut small: u64 = shared.map(|server| server.records).sum();
    large.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(b.2)));
    let room = (sample / LEAST_OF_GROUP).max(1) as usize;
    for (records, folder, _) in large.drain(large.len().min(room)..) {
        small += records;
        small_folders.push(folder);
    }
    let total = (large.iter().map(|(records, ..)| records).sum::<u64>() + small).max(1);
    let size = |population: u64| {
        let share = u128::from(sample) * u128::from(population) / u128::from(total);
        (share as u64).clamp(LEAST_OF_GROUP, population.max(LEAST_OF_GROUP)).min(population)
    };
    let mut groups: Vec<_> = large
        .into_iter()
        .map(|(population, folder, name)| {
            let server = Some(name.clone());
            (Group { server, population, size: size(population), urls: Vec::new() }, vec![folder])
        })
        .collect();
    if small > 0 {
        let group = Group { server: None, population: small, size: size(small), urls: Vec::new() };
        groups.push((group, small_folders));
    }
    groups
}

/// Reads the URLs of the wanted records of a partition.
fn read_urls(
    dataset: &Dataset,
    view: &CatalogView,
    pending: &Pending,
    partition: PartitionKey,
    records: &HashMap<RecordIndex, (UrlKey, usize)>,
    found: &mut [BTreeMap<UrlKey, SampledUrl>],
) -> Result<(), PipelineError> {
    let Some(mut reader) = pending.manifest(dataset, view, partition)? else { return Ok(()) };
    let Some((folder, _)) = pending.folders.get(&partition.server_id) else { return Ok(()) };
    let mut left = records.len();
    while left > 0
        && let Some(rows) = reader.next_batch()?
    {
        for row in rows {
            let Some(&(key, group)) = records.get(&row.record) else { continue };
            left -= 1;
            let Ok(url) = Url::parse(&row.identifier) else { continue };
            let server =
                row.shared_server_name.as_deref().map_or_else(|| folder.clone(), ServerName::from_catalog);
            if !pending.ignored_servers.contains(&server) {
                found[group].insert(key, SampledUrl { server, url });
            }
        }
    }
    Ok(())
}
