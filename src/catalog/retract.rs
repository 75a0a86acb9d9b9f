//! Records taken down: skipped, `retracted`, whatever they were.
//!
//! The partition's files are written anew before, without them, and the old ones are deleted after. A partition that
//! is complete is opened again for it, as for a retry:
//!
//! ```text
//! Finished --> Compacted            then the marker goes, and what is left is written, as one part
//!              Compacted --> Open   records are retracted, the part is named; then the final files go
//! ```
//! Digests stay: by them the same bytes are found under other URLs, also later. What tools have made of an image that
//! goes is forgotten in the same commit.

use super::encoding::RecordStatus;
use super::report::{read_partition, read_states, write_partition, write_states};
use super::tools::forget_pieces;
use super::{Catalog, CatalogError, DispositionCounts, PartitionStage};
use crate::model::{DataFile, Epoch, PartRow, PartitionKey, RecordIndex, RecordState, SkipReason};

/// Records of one partition that are taken down.
#[derive(Clone, Debug)]
pub struct Retraction {
    pub partition: PartitionKey,
    pub records: Vec<RecordIndex>,
    /// `None` when no file holds any of them.
    pub files: Option<RetractedFiles>,
}

/// A partition's files without the retracted records.
#[derive(Clone, Debug)]
pub struct RetractedFiles {
    /// All parts from now on, in order.
    pub parts: Vec<PartRow>,
    /// Sum of the stored images' bytes that are left.
    pub image_bytes: u64,
    /// Under which they were written.
    pub epoch: Epoch,
}

impl Catalog {
    /// Makes records skipped, `retracted`, and has their partition go by its new files, where there are some.
    ///
    /// # Errors
    /// `Inconsistent` when a record is none of the partition's, the files have other rows than it then has successes,
    /// or it is finished; nothing is changed then, nor when the storage fails.
    pub fn retract(&self, retraction: &Retraction) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        retract(&txn, retraction)?;
        self.commit(txn)
    }
}

fn retract(txn: &redb::WriteTransaction, retraction: &Retraction) -> Result<(), CatalogError> {
    let partition = retraction.partition;
    let refuse = |what: &str| Err(CatalogError::inconsistent(format!("{partition:?}: {what}")));
    let mut row = read_partition(txn, partition)?;
    let mut states = read_states(txn, partition)?;
    for &record in &retraction.records {
        match states.get_mut(record as usize) {
            Some(status) => *status = RecordStatus::new(RecordState::Skipped(SkipReason::Retracted)),
            None => return refuse("a record is retracted that it does not have"),
        }
    }
    let success = row.counts.success;
    row.counts = DispositionCounts::of(states.iter().map(|status| status.state));
    match &retraction.files {
        None if row.counts.success == success => {}
        None => return refuse("successes are retracted, and its files stay"),
        Some(_) if row.stage == PartitionStage::Finished => return refuse("it is finished"),
        Some(files) => {
            let in_parts: u64 = files.parts.iter().map(|part| part.successes.num_rows).sum();
            if in_parts != row.counts.success {
                return refuse("the files that are left have other rows than it has successes");
            }
            row.stage = PartitionStage::Open;
            row.parts.clone_from(&files.parts);
            row.successes = DataFile::default();
            row.errors = DataFile::default();
            row.image_bytes = files.image_bytes;
            row.epoch = Some(files.epoch);
        }
    }
    if row.counts.success != success {
        forget_pieces(txn, partition)?;
    }
    write_partition(txn, partition, &row)?;
    write_states(txn, partition, &states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        CatalogOptions, CompactionReport, ManifestFile, NewPartition, PartReport, RecordOutcome, Report,
    };
    use crate::model::{FailureCause, PartId, ServerName, UrlKey};

    const EPOCH: Epoch = Epoch(1 << 32 | 1);

    fn file(num_rows: u64) -> DataFile {
        DataFile { num_rows, bytes: 9, crc32: 0 }
    }

    fn part(epoch: Epoch, successes: u64, errors: u64) -> PartRow {
        PartRow { part: PartId { epoch, sequence: 0 }, successes: file(successes), errors: file(errors) }
    }

    /// Two successes, a failure and a pending record, in one part.
    fn open() -> (tempfile::TempDir, Catalog, PartitionKey) {
        let folder = tempfile::tempdir().unwrap();
        let catalog =
            Catalog::create(&folder.path().join("catalog.redb"), &CatalogOptions::default()).unwrap();
        catalog
            .add_partitions(&[NewPartition {
                folder: ServerName::from_catalog("s"),
                members: Vec::new(),
                partition_id: 0,
                manifest_files: vec![ManifestFile { name: "m".into(), num_records: 4, bytes: 1, crc32: 0 }],
                states: vec![RecordState::Pending; 4],
                url_keys: (0..4).map(UrlKey).collect(),
            }])
            .unwrap();
        let server_id = catalog.view().unwrap().servers().unwrap()[0].id;
        let partition = PartitionKey { server_id, partition_id: 0 };
        let outcome = |record, state: RecordState| RecordOutcome {
            record,
            state: state.to_byte(),
            http_status: 404,
            retry_count: 0,
        };
        let failed = RecordState::Failed(FailureCause::HttpStatus);
        let report = PartReport {
            partition,
            part: part(EPOCH, 2, 1),
            outcomes: vec![
                outcome(0, RecordState::Success),
                outcome(1, RecordState::Success),
                outcome(2, failed),
            ],
            digests: vec![7; 64],
            digest_bytes: 32,
            image_bytes: 10,
        };
        assert!(catalog.commit_reports(&[Report::Part(report)]).unwrap().into_iter().all(|a| a.is_ok()));
        (folder, catalog, partition)
    }

    fn files(parts: Vec<PartRow>, image_bytes: u64) -> Option<RetractedFiles> {
        Some(RetractedFiles { parts, image_bytes, epoch: Epoch::new(2, 0) })
    }

    #[test]
    fn retracted_records_are_skipped_whatever_they_were() {
        let (_folder, catalog, partition) = open();
        let row = || catalog.view().unwrap().partition(partition).unwrap().unwrap();
        let retraction = |records: &[u32], files| Retraction { partition, records: records.into(), files };
        let before = row();
        for refused in [
            retraction(&[4], None),
            retraction(&[0], None),
            retraction(&[0], files(vec![part(Epoch::new(2, 0), 2, 1)], 5)),
            retraction(&[0], files(Vec::new(), 0)),
        ] {
            catalog.retract(&refused).unwrap_err();
            assert_eq!(row(), before, "{refused:?}");
        }
        // Pending: no file holds it.
        catalog.retract(&retraction(&[3], None)).unwrap();
        assert_eq!(row().parts, before.parts);
        let new = part(Epoch::new(2, 0), 1, 0);
        catalog.retract(&retraction(&[0, 2], files(vec![new], 4))).unwrap();
        let after = row();
        assert_eq!(
            after.counts,
            DispositionCounts { success: 1, skipped: 3, ..DispositionCounts::default() }
        );
        assert_eq!((after.parts.as_slice(), after.image_bytes), (&[new][..], 4));
        assert_eq!(after.epoch, Some(Epoch::new(2, 0)));
        let states = catalog.view().unwrap().states(partition).unwrap();
        let retracted = RecordStatus::new(RecordState::Skipped(SkipReason::Retracted));
        assert_eq!(states, [retracted, RecordStatus::new(RecordState::Success), retracted, retracted]);
        assert_eq!(catalog.view().unwrap().digests(partition).unwrap()[0].1.len(), 2, "digests stay");
        // Again: nothing changes.
        catalog.retract(&retraction(&[0, 2, 3], None)).unwrap();
        assert_eq!(row(), after);
    }

    #[test]
    fn a_complete_partition_is_opened_again() {
        let (_folder, catalog, partition) = open();
        let row = || catalog.view().unwrap().partition(partition).unwrap().unwrap();
        catalog.retract(&Retraction { partition, records: vec![3], files: None }).unwrap();
        let compacted = CompactionReport {
            partition,
            epoch: EPOCH,
            parts: vec![part(EPOCH, 2, 1).part],
            successes: file(2),
            errors: file(1),
        };
        let reports = [Report::Compacted(compacted), Report::Finished(partition)];
        assert!(catalog.commit_reports(&reports).unwrap().into_iter().all(|answer| answer.is_ok()));
        let all = Retraction { partition, records: vec![0, 1, 2], files: files(Vec::new(), 0) };
        catalog.retract(&all).unwrap_err();
        catalog.unfinish(&[partition]).unwrap();
        catalog.retract(&all).unwrap();
        let after = row();
        assert_eq!((after.stage, after.counts.skipped, after.parts.len()), (PartitionStage::Open, 4, 0));
        assert_eq!((after.successes, after.errors), (DataFile::default(), DataFile::default()));
    }
}
