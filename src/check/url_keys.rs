//! Every URL of a server is one record.

use super::error::CheckError;
use super::report::{BreachKind, Findings, Offences};
use crate::catalog::{CatalogError, CatalogView, MAX_RECORDS};
use crate::model::{PartitionKey, UrlKey};

/// Keys held at a time, of 32 bytes with their places: 64 MiB when their vector has just doubled.
/// A larger server takes several passes, each over its share of the key space.
const MAX_KEYS: u64 = 1 << 20;

/// Looks for URL keys that stand twice in the partitions of one server. `num_records` are as many as they say, which
/// a damaged catalog may overstate.
pub(super) fn check_url_keys(
    view: &CatalogView,
    partitions: &[PartitionKey],
    num_records: u64,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let mut offences = Offences::default();
    find_duplicates(view, partitions, num_passes(partitions, num_records), &mut offences)?;
    findings.offences(None, offences);
    Ok(())
}

fn num_passes(partitions: &[PartitionKey], num_records: u64) -> u64 {
    let possible = MAX_RECORDS.saturating_mul(partitions.len() as u64);
    num_records.min(possible).div_ceil(MAX_KEYS).max(1)
}

pub(super) fn find_duplicates(
    view: &CatalogView,
    partitions: &[PartitionKey],
    num_passes: u64,
    offences: &mut Offences,
) -> Result<(), CheckError> {
    for pass in 0..num_passes {
        let mut found = Vec::new();
        for &partition in partitions {
            let keys = match view.url_keys(partition) {
                Ok(keys) => keys,
                // Reported with its partition.
                Err(CatalogError::Inconsistent(_) | CatalogError::Corrupted(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let places = keys.into_iter().zip(0_u32..).filter(|(key, _)| pass_of(*key, num_passes) == pass);
            found.extend(places.map(|(key, record)| (key, partition.partition_id, record)));
        }
        found.sort_unstable();
        for pair in found.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            offences.add(BreachKind::DuplicateUrl, || {
                let [(_, first, first_record), (_, second, second_record)] = [pair[0], pair[1]];
                format!(
                    "record {first_record} of partition {first} and record {second_record} of partition {second}"
                )
            });
        }
    }
    Ok(())
}

/// Keys are digests, so their upper half spreads evenly over the passes.
fn pass_of(key: UrlKey, num_passes: u64) -> u64 {
    (((key.0 >> 64) * u128::from(num_passes)) >> 64) as u64
}
