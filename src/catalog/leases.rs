//! Leases: partitions that are out in work units, with workers that no rank 0 hears.
//!
//! A lease is a claim that the catalog remembers. As long as it holds nobody else takes the partition, and what was
//! made of it comes in as the report of any claim would, once:
//!
//! | what happens | then |
//! |---|---|
//! | a report under the lease | it is committed as a part, and the lease is settled |
//! | the same report again | nothing; the lease tells that it is settled |
//! | a download or an export begins after its time | the lease is forgotten, and the partition may be taken |
//! | a report under a lease that is over, forgotten, or another's | refused |

use redb::{ReadableTable as _, TableError};
use serde::{Deserialize, Serialize};

use super::report::{commit_part, read_partition};
use super::{Catalog, CatalogError, CatalogView, PartReport, PartitionStage, Refusal, encoding, tables};
use crate::model::{Epoch, PartitionKey, ServerId};

/// The claim of a work unit on one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its run is that of the export.
    pub epoch: Epoch,
    /// Drawn at random for each unit: epochs of two datasets may be the same.
    pub unit: u128,
    /// Milliseconds since 1970.
    pub expires_at: u64,
    /// Whether a report under it was committed.
    pub is_settled: bool,
}

impl Lease {
    /// Whether it keeps others away. `now`: milliseconds since 1970.
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        !self.is_settled && self.expires_at > now
    }
}

/// What became of a report under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Now,
    /// It was committed before.
    Before,
}

impl Catalog {
    /// Leases partitions, all or none.
    ///
    /// # Errors
    /// `Inconsistent` when one of them is complete or not there; or when the storage fails.
    pub fn lease(&self, leases: &[(PartitionKey, Lease)]) -> Result<(), CatalogError> {
        let txn = self.begin()?;
        for (partition, lease) in leases {
            if read_partition(&txn, *partition)?.stage != PartitionStage::Open {
                return Err(CatalogError::inconsistent(format!("{partition:?} is leased and complete")));
            }
            let key = (partition.server_id.0, partition.partition_id);
            txn.open_table(tables::LEASES)?.insert(key, encoding::encode(lease).as_slice())?;
        }
        self.commit(txn)
    }

    /// Forgets leases whose time is over, and returns those that hold: their partitions are not to be taken.
    /// `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn expire_leases(&self, now: u64) -> Result<Vec<(PartitionKey, Lease)>, CatalogError> {
        let leases = self.view()?.leases()?;
        let (held, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|(_, lease)| lease.holds(now));
        let expired: Vec<_> = others.into_iter().filter(|(_, lease)| !lease.is_settled).collect();
        if !expired.is_empty() {
            let txn = self.begin()?;
            for (partition, _) in expired {
                let key = (partition.server_id.0, partition.partition_id);
                txn.open_table(tables::LEASES)?.remove(key)?;
            }
            self.commit(txn)?;
        }
        Ok(held)
    }

    /// Commits the report of a work unit, and settles its lease: one transaction. A report that cannot be committed
    /// ends the lease, too: nothing better will come under it.
    ///
    /// `now`, in milliseconds since 1970, is not to be after the lease; `None` asks only that nobody has taken the
    /// partition since.
    ///
    /// # Errors
    /// When the storage fails: then nothing has changed.
    pub fn commit_leased(
        &self,
        unit: u128,
        report: &PartReport,
        now: Option<u64>,
    ) -> Result<Result<Settled, Refusal>, CatalogError> {
        let partition = report.partition;
        let refuse = |reason| Ok(Err(Refusal { partition, reason }));
        let txn = self.begin()?;
        let key = (partition.server_id.0, partition.partition_id);
        let found = txn.open_table(tables::LEASES)?.get(key)?.map(|value| decode(value.value()));
        let answer = match found.transpose()? {
            None => {
                return refuse("it is not leased: others have taken it, or the unit is of another dataset");
            }
            Some(lease) if lease.unit != unit || lease.epoch != report.part.part.epoch => {
                return refuse("it is leased to another unit");
            }
            Some(lease) if lease.is_settled => return Ok(Ok(Settled::Before)),
            Some(lease) if now.is_some_and(|now| !lease.holds(now)) => {
                return refuse("its lease has expired");
            }
            Some(lease) => {
                let answer = commit_part(&txn, report)?;
                let mut leases = txn.open_table(tables::LEASES)?;
                match answer {
                    Ok(()) => {
                        let settled = encoding::encode(&Lease { is_settled: true, ..lease });
                        leases.insert(key, settled.as_slice())?;
                    }
                    Err(_) => drop(leases.remove(key)?),
                }
                answer
            }
        };
        self.commit(txn)?;
        Ok(answer.map(|()| Settled::Now))
    }
}

impl CatalogView {
    /// All leases, also those that are over or settled.
    ///
    /// # Errors
    /// When the storage fails or a value does not decode.
    pub fn leases(&self) -> Result<Vec<(PartitionKey, Lease)>, CatalogError> {
        self.read(|txn| {
            let table = match txn.open_table(tables::LEASES) {
                // Of an earlier version, and not opened for writing since.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            table
                .iter()?
                .map(|entry| {
                    let (key, value) = entry?;
                    let (server_id, partition_id) = key.value();
                    let partition = PartitionKey { server_id: ServerId(server_id), partition_id };
                    Ok((partition, decode(value.value())?))
                })
                .collect()
        })
    }
}

fn decode(bytes: &[u8]) -> Result<Lease, CatalogError> {
    encoding::decode(bytes, "a lease")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogOptions, ManifestFile, NewPartition, RecordOutcome};
    use crate::model::{DataFile, PartId, PartRow, RecordState, ServerName, SkipReason, UrlKey};

    const NOW: u64 = 1_800_000_000_000;

    fn key(partition_id: u32) -> PartitionKey {
        PartitionKey { server_id: ServerId(0), partition_id }
    }

    /// A catalog of two partitions with two pending records each.
    fn catalog() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&folder.path().join("c.redb"), &CatalogOptions::default()).unwrap();
        let partition = |partition_id| NewPartition {
            folder: ServerName::from_catalog("s"),
            members: Vec::new(),
            partition_id,
            manifest_files: vec![ManifestFile { name: "m".into(), num_records: 2, bytes: 1, crc32: 0 }],
            states: vec![RecordState::Pending; 2],
            url_keys: vec![UrlKey(0); 2],
        };
        catalog.add_partitions(&[partition(0), partition(1)]).unwrap();
        (folder, catalog)
    }

    fn lease(counter: u32) -> Lease {
        Lease { epoch: Epoch::new(1, counter), unit: 7, expires_at: NOW + 1000, is_settled: false }
    }

    /// Both records have failed.
    fn report(partition_id: u32, counter: u32) -> PartReport {
        let outcome = |record| RecordOutcome {
            record,
            state: RecordState::Skipped(SkipReason::OptOut).to_byte(),
            http_status: 0,
            retry_count: 0,
        };
        PartReport {
            partition: key(partition_id),
            part: PartRow {
                part: PartId { epoch: Epoch::new(1, counter), sequence: 0 },
                successes: DataFile::default(),
                errors: DataFile { num_rows: 2, bytes: 1, crc32: 1 },
            },
            outcomes: vec![outcome(0), outcome(1)],
            digests: Vec::new(),
            digest_bytes: 0,
            image_bytes: 0,
        }
    }

    fn refusal(catalog: &Catalog, unit: u128, report: &PartReport, now: Option<u64>) -> String {
        catalog.commit_leased(unit, report, now).unwrap().unwrap_err().to_string()
    }

    #[test]
    fn a_report_is_committed_once_and_known_again() {
        let (_folder, catalog) = catalog();
        catalog.lease(&[(key(0), lease(1)), (key(1), lease(2))]).unwrap();
        let commit = |now| catalog.commit_leased(7, &report(0, 1), Some(now)).unwrap().unwrap();
        assert_eq!(commit(NOW), Settled::Now);
        assert_eq!(catalog.view().unwrap().counts().unwrap().skipped, 2);
        assert_eq!(commit(NOW + 5000), Settled::Before, "also when its time would be over");
        assert_eq!(catalog.view().unwrap().counts().unwrap().skipped, 2);
        assert_eq!(
            catalog.expire_leases(NOW).unwrap(),
            [(key(1), lease(2))],
            "the settled one holds nothing"
        );
        assert!(catalog.expire_leases(NOW + 5000).unwrap().is_empty());
        assert_eq!(commit(NOW), Settled::Before, "it is remembered");
    }

    #[test]
    fn what_is_not_leased_is_refused_and_changes_nothing() {
        let (_folder, catalog) = catalog();
        let check = |unit, report: &PartReport, now, expect: &str| {
            let refused = refusal(&catalog, unit, report, now);
            assert!(refused.ends_with(expect), "{refused}");
            assert_eq!(catalog.view().unwrap().counts().unwrap().pending, 4);
        };
        check(7, &report(0, 1), Some(NOW), "of another dataset");
        catalog.lease(&[(key(0), lease(1))]).unwrap();
        check(8, &report(0, 1), Some(NOW), "leased to another unit");
        check(7, &report(0, 2), Some(NOW), "leased to another unit");
        check(7, &report(0, 1), Some(NOW + 1000), "has expired");
        catalog.expire_leases(NOW + 1000).unwrap();
        check(7, &report(0, 1), None, "of another dataset");
    }

    #[test]
    fn a_late_report_is_taken_when_asked_to_and_nobody_was_faster() {
        let (_folder, catalog) = catalog();
        catalog.lease(&[(key(0), lease(1))]).unwrap();
        assert_eq!(catalog.commit_leased(7, &report(0, 1), None).unwrap(), Ok(Settled::Now));
    }

    #[test]
    fn a_report_that_cannot_be_committed_ends_its_lease() {
        let (_folder, catalog) = catalog();
        catalog.lease(&[(key(0), lease(1))]).unwrap();
        let mut wrong = report(0, 1);
        wrong.outcomes[1].record = 99;
        assert!(refusal(&catalog, 7, &wrong, Some(NOW)).contains("does not have"));
        assert!(catalog.view().unwrap().leases().unwrap().is_empty());
    }

    #[test]
    fn complete_partitions_are_not_leased_nor_any_with_them() {
        let (_folder, catalog) = catalog();
        let missing = catalog.lease(&[(key(0), lease(1)), (key(9), lease(2))]).unwrap_err();
        assert!(matches!(missing, CatalogError::Inconsistent(_)), "{missing}");
        assert!(catalog.view().unwrap().leases().unwrap().is_empty());
    }

    #[test]
    fn golden_bytes() {
        let bytes = encoding::encode(&Lease { expires_at: 300, is_settled: true, ..lease(2) });
        // version; epoch 1-2 (2^32 + 2), unit, end as varints; settled
        assert_eq!(bytes, [1, 0x82, 0x80, 0x80, 0x80, 0x10, 7, 0xac, 2, 1]);
    }
}
