//! Failures set back to pending, and complete partitions that are opened again for it.
//!
//! ```text
//! Finished --> Compacted            then the marker goes, and the files get second names, as one part
//!              Compacted --> Open   records are pending, the part is named; then the final files go
//! ```
//! After the first step the partition is as a download leaves it that is killed before its last one: whatever
//! becomes of the second, the next download finishes it. Each call is one transaction for many partitions.

use super::encoding::RecordStatus;
use super::report::{read_partition, read_states, write_partition, write_states};
use super::{Catalog, CatalogError, DispositionCounts, PartitionStage};
use crate::model::{DataFile, Disposition, PartRow, PartitionKey, RecordIndex, RecordState};

/// Records of one partition that are to be tried again.
#[derive(Clone, Debug)]
pub struct SetBack {
    pub partition: PartitionKey,
    /// All of them failed.
    pub records: Vec<RecordIndex>,
    /// The final files of a compacted partition, under their second names.
    pub part: Option<PartRow>,
}

impl Catalog {
    /// Takes finished partitions one step back. Others stay as they are.
    ///
    /// # Errors
    /// When the storage fails: then none is changed.
    pub fn unfinish(&self, partitions: &[PartitionKey]) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        for &partition in partitions {
            let mut row = read_partition(&txn, partition)?;
            if row.stage == PartitionStage::Finished {
                row.stage = PartitionStage::Compacted;
                write_partition(&txn, partition, &row)?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Sets records back to pending, and opens their partitions where they are compacted.
    ///
    /// # Errors
    /// `Inconsistent` when a record is no failure, or a part has other rows than the partition; nothing is
    /// changed then, nor when the storage fails.
    pub fn set_back(&self, batch: &[SetBack]) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        for partition in batch {
            set_back(&txn, partition)?;
        }
        txn.commit()?;
        Ok(())
    }
}

fn set_back(txn: &redb::WriteTransaction, set_back: &SetBack) -> Result<(), CatalogError> {
    let partition = set_back.partition;
    let refuse = |what: &str| Err(CatalogError::inconsistent(format!("{partition:?}: {what}")));
    let mut row = read_partition(txn, partition)?;
    let mut states = read_states(txn, partition)?;
    for &record in &set_back.records {
        match states.get_mut(record as usize) {
            Some(status) if status.state.disposition() == Disposition::Failed => {
                *status = RecordStatus::new(RecordState::Pending);
            }
            _ => return refuse("a record is set back that is no failure"),
        }
    }
    match (row.stage, set_back.part) {
        (PartitionStage::Open, None) => {}
        (PartitionStage::Compacted, Some(part)) if part.successes.num_rows == row.counts.success => {
            row.stage = PartitionStage::Open;
            row.parts = vec![part];
            row.successes = DataFile::default();
            row.errors = DataFile::default();
        }
        _ => return refuse("it cannot be opened again in its stage, or from this part"),
    }
    row.counts = DispositionCounts::of(states.iter().map(|status| status.state));
    write_partition(txn, partition, &row)?;
    write_states(txn, partition, &states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        CatalogOptions, CompactionReport, ManifestFile, NewPartition, PartReport, RecordOutcome, Report,
    };
    use crate::model::{Epoch, FailureCause, PartId, ServerName, UrlKey};

    fn part(epoch: Epoch, rows: u64) -> PartRow {
        let file = |num_rows| DataFile { num_rows, bytes: 9, crc32: 0 };
        PartRow { part: PartId { epoch, sequence: 0 }, successes: file(rows), errors: file(2) }
    }

    /// A success, two failures and a skipped record, compacted and finished.
    fn finished() -> (tempfile::TempDir, Catalog, PartitionKey) {
        let folder = tempfile::tempdir().unwrap();
        let catalog =
            Catalog::create(&folder.path().join("catalog.redb"), &CatalogOptions::default()).unwrap();
        let skipped = RecordState::Skipped(crate::model::SkipReason::IgnoredServer);
        let mut states = vec![RecordState::Pending; 3];
        states.push(skipped);
        catalog
            .add_partitions(&[NewPartition {
                folder: ServerName::from_catalog("s"),
                members: Vec::new(),
                partition_id: 0,
                manifest_files: vec![ManifestFile { name: "m".into(), num_records: 4, bytes: 1, crc32: 0 }],
                states,
                url_keys: (0..4).map(UrlKey).collect(),
            }])
            .unwrap();
        let server_id = catalog.view().unwrap().servers().unwrap()[0].id;
        let partition = PartitionKey { server_id, partition_id: 0 };
        let outcome = |record, state: RecordState| RecordOutcome {
            record,
            state: state.to_byte(),
            http_status: 503,
            retry_count: 4,
        };
        let failed = RecordState::Failed(FailureCause::HttpStatus);
        let epoch = Epoch::new(1, 1);
        let part = part(epoch, 1);
        let reports = [
            Report::Part(PartReport {
                partition,
                part,
                outcomes: vec![outcome(0, failed), outcome(1, RecordState::Success), outcome(2, failed)],
                digests: vec![7; 32],
                digest_bytes: 32,
                image_bytes: 5,
            }),
            Report::Compacted(CompactionReport {
                partition,
                epoch,
                parts: vec![part.part],
                successes: part.successes,
                errors: part.errors,
            }),
            Report::Finished(partition),
        ];
        assert!(catalog.commit_reports(&reports).unwrap().into_iter().all(|answer| answer.is_ok()));
        (folder, catalog, partition)
    }

    #[test]
    fn a_finished_partition_is_opened_again_in_two_steps() {
        let (_folder, catalog, partition) = finished();
        let row = || catalog.view().unwrap().partition(partition).unwrap().unwrap();
        let before = row();
        let again = part(Epoch::new(2, 0), 1);
        let back = |records: &[u32], part| SetBack { partition, records: records.into(), part };
        assert!(catalog.set_back(&[back(&[0], Some(again))]).is_err(), "it is finished");

        catalog.unfinish(&[partition]).unwrap();
        assert_eq!(row().stage, PartitionStage::Compacted);
        for refused in [
            back(&[0], None),
            back(&[0], Some(part(Epoch::new(2, 0), 3))),
            back(&[1], Some(again)),
            back(&[3], Some(again)),
            back(&[4], Some(again)),
        ] {
            assert!(catalog.set_back(std::slice::from_ref(&refused)).is_err(), "{refused:?}");
        }
        catalog.set_back(&[back(&[2], Some(again))]).unwrap();
        let opened = row();
        assert_eq!(opened.stage, PartitionStage::Open);
        assert_eq!((opened.parts.as_slice(), opened.image_bytes), (&[again][..], 5));
        assert_eq!(opened.counts, DispositionCounts { pending: 1, success: 1, failed: 1, skipped: 1 });
        assert_eq!(opened.counts.total(), before.counts.total());
        let states = catalog.view().unwrap().states(partition).unwrap();
        assert_eq!(states[2], RecordStatus::new(RecordState::Pending));
        assert_eq!((states[0].http_status, states[0].retry_count), (503, 4), "the other failure stays");
        assert_eq!(catalog.view().unwrap().digests(partition).unwrap().len(), 1);

        // Open already: no files change their names.
        catalog.set_back(&[back(&[0], None)]).unwrap();
        assert_eq!(row().counts.pending, 2);
        assert!(catalog.set_back(&[back(&[0], None)]).is_err(), "it is pending");
    }
}
