//! Bytes of the catalog's values.
//!
//! A value of ours starts with a version byte and goes on as postcard. A reader refuses a version that
//! it does not know instead of guessing.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::CatalogError;
use crate::model::{ContentDigest, FailureCause, RecordIndex, RecordState, UrlKey};

/// Version byte of every value below.
const VERSION: u8 = 1;

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("plain data always encodes into memory")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, CatalogError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest)
            .map_err(|error| CatalogError::inconsistent(format!("{what} does not decode: {error}"))),
        Some((version, _)) => {
            Err(CatalogError::inconsistent(format!("{what} has the unknown version {version}")))
        }
        None => Err(CatalogError::inconsistent(format!("{what} is empty"))),
    }
}

/// A record's state and, for failures, what the server said and how often it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordStatus {
    pub state: RecordState,
    /// The true HTTP status where a response came, else 0. Failures only.
    pub http_status: u16,
    /// Attempts beyond the first. Failures only.
    pub retry_count: u8,
}

impl RecordStatus {
    #[must_use]
    pub fn new(state: RecordState) -> Self {
        Self { state, http_status: 0, retry_count: 0 }
    }

    /// DD's `error_code`: the HTTP status of an error status, else -1 (network) or -2 (all else).
    #[must_use]
    pub fn error_code(&self) -> Option<i32> {
        match self.state {
            RecordState::Failed(FailureCause::HttpStatus) => Some(i32::from(self.http_status)),
            RecordState::Failed(cause) => Some(cause.error_code()),
            _ => None,
        }
    }
}

/// States of a partition's records as runs of equal state, with details of the failures beside.
///
/// A partition of one state costs a few bytes. The worst mixture costs two bytes a record for the runs, and up
/// to four more for each failure (status and attempts).
#[derive(Serialize, Deserialize)]
pub(super) struct PackedStates {
    runs: Vec<(u8, u32)>,
    failures: Vec<(u16, u8)>,
}

impl PackedStates {
    pub(super) fn pack(records: &[RecordStatus]) -> Self {
        let mut runs: Vec<(u8, u32)> = Vec::new();
        let mut failures = Vec::new();
        for record in records {
            let byte = record.state.to_byte();
            match runs.last_mut() {
                Some((last, count)) if *last == byte => *count += 1,
                _ => runs.push((byte, 1)),
            }
            if matches!(record.state, RecordState::Failed(_)) {
                failures.push((record.http_status, record.retry_count));
            }
        }
        Self { runs, failures }
    }

    pub(super) fn unpack(&self) -> Result<Vec<RecordStatus>, CatalogError> {
        let num_records: u64 = self.runs.iter().map(|&(_, count)| u64::from(count)).sum();
        if num_records > MAX_RECORDS {
            return Err(CatalogError::inconsistent(format!("{num_records} records in one partition")));
        }
        let mut records = Vec::with_capacity(num_records as usize);
        let mut failures = self.failures.iter();
        for &(byte, count) in &self.runs {
            let state = RecordState::from_byte(byte)
                .ok_or_else(|| CatalogError::inconsistent(format!("unknown state {byte}")))?;
            for _ in 0..count {
                let (http_status, retry_count) = match state {
                    RecordState::Failed(_) => *failures
                        .next()
                        .ok_or_else(|| CatalogError::inconsistent("a failure without its details"))?,
                    _ => (0, 0),
                };
                records.push(RecordStatus { state, http_status, retry_count });
            }
        }
        Ok(records)
    }
}

/// Records of a partition at most: the largest `batch_size` that the configuration takes.
pub const MAX_RECORDS: u64 = 1_000_000;

/// URL keys per value: 65,280 bytes, just under redb's 64 KiB page.
pub(super) const URL_KEYS_PER_CHUNK: usize = 4080;

pub(super) fn encode_url_keys(keys: &[UrlKey]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.0.to_le_bytes()).collect()
}

pub(super) fn decode_url_keys(bytes: &[u8]) -> Result<impl Iterator<Item = UrlKey> + '_, CatalogError> {
    let (keys, []) = bytes.as_chunks::<16>() else {
        return Err(CatalogError::inconsistent(format!("{} bytes of URL keys", bytes.len())));
    };
    Ok(keys.iter().map(|&key| UrlKey(u128::from_le_bytes(key))))
}

/// Rows of a digest value, so that it stays just under a 32 KiB page.
pub(super) fn digests_per_chunk(digest_bytes: usize) -> usize {
    (32 * 1024 - 160) / (4 + digest_bytes)
}

/// Length of a digest, then the records, then the digests.
pub(super) fn encode_digests(rows: &[(RecordIndex, ContentDigest)]) -> Vec<u8> {
    let digest_bytes = rows.first().map_or(0, |(_, digest)| digest.as_bytes().len());
    let mut bytes = Vec::with_capacity(1 + rows.len() * (4 + digest_bytes));
    bytes.push(digest_bytes as u8);
    for (record, _) in rows {
        bytes.extend_from_slice(&record.to_le_bytes());
    }
    for (_, digest) in rows {
        bytes.extend_from_slice(digest.as_bytes());
    }
    bytes
}

pub(super) fn decode_digests(bytes: &[u8]) -> Result<Vec<(RecordIndex, ContentDigest)>, CatalogError> {
    let damaged = || CatalogError::inconsistent("a digest value of the wrong length");
    let (&digest_bytes, rest) = bytes.split_first().ok_or_else(damaged)?;
    let digest_bytes = usize::from(digest_bytes);
    if !matches!(digest_bytes, 16 | 32) || !rest.len().is_multiple_of(4 + digest_bytes) {
        return Err(damaged());
    }
    let (records, digests) = rest.split_at(rest.len() / (4 + digest_bytes) * 4);
    let (records, _) = records.as_chunks::<4>();
    Ok(records
        .iter()
        .map(|&record| RecordIndex::from_le_bytes(record))
        .zip(digests.chunks_exact(digest_bytes).map(ContentDigest::from_bytes))
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{DispositionCounts, ManifestFile, PartitionRow, PartitionStage};
    use crate::model::{DataFile, Epoch, HashAlgorithm, PartId, PartRow, SkipReason};

    fn any_status() -> impl Strategy<Value = RecordStatus> {
        prop_oneof![
            Just(RecordStatus::new(RecordState::Pending)),
            Just(RecordStatus::new(RecordState::Success)),
            (proptest::sample::select(FailureCause::ALL), any::<u16>(), any::<u8>()).prop_map(
                |(cause, http_status, retry_count)| RecordStatus {
                    state: RecordState::Failed(cause),
                    http_status,
                    retry_count
                }
            ),
            proptest::sample::select(SkipReason::ALL)
                .prop_map(|r| RecordStatus::new(RecordState::Skipped(r))),
        ]
    }

    proptest! {
        #[test]
        fn states_survive_packing(records in proptest::collection::vec(any_status(), 0..300)) {
            let bytes = encode(&PackedStates::pack(&records));
            let packed: PackedStates = decode(&bytes, "states").unwrap();
            prop_assert_eq!(packed.unpack().unwrap(), records);
        }

        #[test]
        fn foreign_bytes_are_refused_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(states) = decode::<PackedStates>(&bytes, "states").and_then(|packed| packed.unpack()) {
                prop_assert!(states.len() as u64 <= MAX_RECORDS);
            }
            if let Ok(rows) = decode_digests(&bytes) {
                prop_assert!(rows.len() * 20 < bytes.len());
            }
            if let Ok(keys) = decode_url_keys(&bytes) {
                prop_assert_eq!(keys.count() * 16, bytes.len());
            }
        }

        #[test]
        fn digests_survive(records in proptest::collection::vec(any::<u32>(), 1..50)) {
            let rows: Vec<_> = records.iter()
                .map(|&r| (r, HashAlgorithm::Blake3.digest(&r.to_le_bytes()))).collect();
            prop_assert_eq!(decode_digests(&encode_digests(&rows)).unwrap(), rows);
        }
    }

    /// A flipped bit in a count made billions of records.
    #[test]
    fn a_count_beyond_all_partitions_is_refused() {
        let packed = PackedStates { runs: vec![(0, u32::MAX), (0, 1)], failures: Vec::new() };
        assert!(packed.unpack().is_err());
    }

    #[test]
    fn golden_bytes() {
        let records = [
            RecordStatus::new(RecordState::Success),
            RecordStatus::new(RecordState::Success),
            RecordStatus {
                state: RecordState::Failed(FailureCause::HttpStatus),
                http_status: 404,
                retry_count: 3,
            },
        ];
        // version, two runs: (1 x 2), (18 x 1); one failure: 404 as a varint, 3
        assert_eq!(encode(&PackedStates::pack(&records)), [1, 2, 1, 2, 18, 1, 1, 0x94, 3, 3]);
    }

    #[test]
    fn golden_bytes_of_a_partition() {
        let epoch = Epoch::new(1, 2);
        let file = |num_rows, bytes, crc32| DataFile { num_rows, bytes, crc32 };
        let row = PartitionRow {
            counts: DispositionCounts { pending: 1, success: 2, failed: 3, skipped: 4 },
            manifest_files: vec![ManifestFile {
                name: "m".into(),
                num_records: 10,
                bytes: 300,
                crc32: 0x1234_5678,
            }],
            stage: PartitionStage::Open,
            parts: vec![PartRow {
                part: PartId { epoch, sequence: 3 },
                successes: file(2, 5, 6),
                errors: file(3, 7, 8),
            }],
            successes: file(0, 0, 0),
            errors: file(0, 0, 0),
            image_bytes: 9,
            epoch: Some(epoch),
        };
        let epoch = [0x82, 0x80, 0x80, 0x80, 0x10];
        let expected = [
            &[1, 1, 2, 3, 4][..],
            &[1, 1, b'm', 10, 0xac, 2, 0xf8, 0xac, 0xd1, 0x91, 1],
            &[0, 1],
            &epoch,
            &[3, 2, 5, 6, 3, 7, 8],
            &[0, 0, 0, 0, 0, 0, 9, 1],
            &epoch,
        ];
        assert_eq!(encode(&row), expected.concat());
    }

    #[test]
    fn ten_thousand_pending_records_cost_a_few_bytes() {
        let records = vec![RecordStatus::new(RecordState::Pending); 10_000];
        assert!(encode(&PackedStates::pack(&records)).len() < 10);
    }
}
