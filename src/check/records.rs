//! The records of one partition: what the catalog and the manifest say of each, and which rows were met.

use std::collections::HashSet;

use arrow::array::{Array as _, Int64Array, RecordBatch, StringArray};

use super::data_file::{Flaw, number, record_at, text, text_at};
use super::report::{BreachKind, Offences};
use crate::catalog::RecordStatus;
use crate::model::{
    ContentDigest, Disposition, FailureCause, PartId, RecordIndex, RecordState, SkipReason, UrlKey,
};

/// Columns that tell whose row it is.
pub(super) const IDENTITY_COLUMNS: [&str; 3] = ["record", "uuid", "identifier"];

/// Digests of a partition as the catalog has them, by part.
pub(super) type PartDigests = Vec<(PartId, Vec<(RecordIndex, ContentDigest)>)>;

/// Whose row it is, as 128 bits each of uuid and identifier: a URL may have thousands of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    uuid: UrlKey,
    identifier: UrlKey,
}

impl Identity {
    fn new(uuid: &str, identifier: &str) -> Self {
        Self { uuid: UrlKey::of_bytes(uuid.as_bytes()), identifier: UrlKey::of_bytes(identifier.as_bytes()) }
    }
}

pub(super) struct Records<'a> {
    states: &'a [RecordStatus],
    /// By record; shorter or empty when the manifest cannot be relied on.
    manifest: Vec<Identity>,
    /// By record; `None` when the catalog's digests do not decode.
    digests: Option<Vec<Option<ContentDigest>>>,
    successes: Vec<bool>,
    /// The last word on each.
    errors: Vec<Option<ErrorWord>>,
    /// Sum of the column `image_bytes`.
    image_bytes: u64,
}

impl<'a> Records<'a> {
    pub(super) fn new(states: &'a [RecordStatus]) -> Self {
        Self {
            states,
            manifest: Vec::new(),
            digests: None,
            successes: vec![false; states.len()],
            errors: vec![None; states.len()],
            image_bytes: 0,
        }
    }

    fn state(&self, record: RecordIndex) -> Option<RecordState> {
        self.states.get(record as usize).map(|status| status.state)
    }

    /// Takes in the catalog's digests: one for each success, which it keeps when that is retracted; none for any
    /// other record.
    pub(super) fn set_digests(&mut self, parts: &PartDigests, offences: &mut Offences) {
        let mut digests = vec![None; self.states.len()];
        for &(record, digest) in parts.iter().flat_map(|(_, rows)| rows) {
            const RETRACTED: RecordState = RecordState::Skipped(SkipReason::Retracted);
            if !matches!(self.state(record), Some(RecordState::Success | RETRACTED)) {
                offences.add(BreachKind::Digest, || {
                    format!("the catalog has a digest of record {record}, which is no success")
                });
            } else if digests[record as usize].replace(digest).is_some() {
                offences.add(BreachKind::Digest, || {
                    format!("the catalog has several digests of record {record}")
                });
            }
        }
        self.digests = Some(digests);
    }

    /// Takes in rows of the manifest, which continue those before. `url_keys` are the catalog's, if usable.
    pub(super) fn manifest_rows(
        &mut self,
        batch: &RecordBatch,
        url_keys: Option<&[UrlKey]>,
        offences: &mut Offences,
    ) -> Result<(), Flaw> {
        let rows = IdentityRows::new(batch)?;
        for row in 0..batch.num_rows() {
            let expect = self.manifest.len();
            match rows.record(row) {
                Some(record) if record as usize == expect => {}
                found => offences.add(BreachKind::RecordOrder, || {
                    let found = found.map_or("no record".into(), |record| format!("record {record}"));
                    format!("{found} where record {expect} belongs")
                }),
            }
            let identity = rows.identity(row);
            // The key of a skipped record may be made from its whole row: it has no usable URL.
            let has_url =
                self.states.get(expect).is_some_and(|s| s.state.disposition() != Disposition::Skipped);
            let key = url_keys.and_then(|keys| keys.get(expect));
            if has_url && key.is_some_and(|key| *key != identity.identifier) {
                offences.add(BreachKind::UrlKey, || format!("record {expect}"));
            }
            self.manifest.push(identity);
        }
        Ok(())
    }

    /// The manifest is not what was ingested: rows cannot be compared with it.
    pub(super) fn forget_manifest(&mut self) {
        self.manifest = Vec::new();
    }

    /// Takes in rows of a file of successes.
    pub(super) fn success_rows(&mut self, batch: &RecordBatch, offences: &mut Offences) -> Result<(), Flaw> {
        let rows = IdentityRows::new(batch)?;
        let hashsums = text(batch, "hashsum_original")?;
        self.image_bytes +=
            number(batch, "image_bytes")?.iter().flatten().map(i64::unsigned_abs).sum::<u64>();
        for row in 0..batch.num_rows() {
            let Some(record) = self.expected(&rows, row, offences, |state| state == RecordState::Success)
            else {
                continue;
            };
            if std::mem::replace(&mut self.successes[record as usize], true) {
                offences.add(BreachKind::RepeatedRecord, || {
                    format!("record {record} is a success several times")
                });
            }
            self.compare_identity(record, &rows, row, offences);
            let Some(digests) = &self.digests else { continue };
            let hashsum = text_at(&hashsums, row);
            match digests[record as usize] {
                Some(digest) if digest.to_string() == hashsum => {}
                Some(digest) => offences.add(BreachKind::Digest, || {
                    format!("record {record} has `hashsum_original` `{hashsum}`, the catalog has `{digest}`")
                }),
                None => offences
                    .add(BreachKind::Digest, || format!("the catalog has no digest of record {record}")),
            }
        }
        Ok(())
    }

    /// Takes in rows of a file of errors. `in_file` knows the records of this file's earlier rows.
    ///
    /// A part keeps the error of a record that was set back to pending later, so a part may hold what is now
    /// pending or a success; but a success is never undone, so no later part may hold an error of it.
    pub(super) fn error_rows(
        &mut self,
        batch: &RecordBatch,
        in_file: &mut HashSet<RecordIndex>,
        is_part: bool,
        offences: &mut Offences,
    ) -> Result<(), Flaw> {
        let rows = IdentityRows::new(batch)?;
        let words = ErrorWords::new(batch)?;
        for row in 0..batch.num_rows() {
            let is_expected = |state| match state {
                RecordState::Failed(_) | RecordState::Skipped(_) => true,
                RecordState::Pending | RecordState::Success => is_part,
            };
            let Some(record) = self.expected(&rows, row, offences, is_expected) else { continue };
            if self.successes[record as usize] {
                offences.add(BreachKind::StrayRecord, || {
                    format!("record {record} failed, but it was a success already")
                });
            }
            if !in_file.insert(record) {
                offences
                    .add(BreachKind::RepeatedRecord, || format!("record {record} failed several times here"));
            }
            self.errors[record as usize] = Some(words.at(row));
            self.compare_identity(record, &rows, row, offences);
        }
        Ok(())
    }

    /// What only shows when every file was read: successes and failures without a row, the last word on each
    /// failure, the bytes of all images. Records that are skipped need no row: most were never asked for.
    pub(super) fn compare_outcomes(&self, image_bytes: u64, offences: &mut Offences) {
        for (record, status) in self.states.iter().enumerate() {
            let error = self.errors[record];
            let is_lost = match status.state {
                RecordState::Success => !self.successes[record],
                RecordState::Failed(_) => error.is_none(),
                RecordState::Pending | RecordState::Skipped(_) => false,
            };
            if is_lost {
                let disposition = status.state.disposition();
                offences.add(BreachKind::LostRecord, || format!("record {record} ({disposition})"));
            }
            if error.is_some_and(|error| !error.agrees_with(status)) {
                offences.add(BreachKind::WrongError, || {
                    let cause = status.state.cause().unwrap_or_default();
                    format!("record {record} is {} `{cause}`", status.state.disposition())
                });
            }
        }
        if self.image_bytes != image_bytes {
            offences.add(BreachKind::ImageBytes, || {
                format!("{} in the files, {image_bytes} in the catalog", self.image_bytes)
            });
        }
    }

    /// The record of a row, if such a row may be.
    fn expected(
        &self,
        rows: &IdentityRows,
        row: usize,
        offences: &mut Offences,
        is_expected: impl Fn(RecordState) -> bool,
    ) -> Option<RecordIndex> {
        let record = rows.record(row);
        let state = record.and_then(|record| self.state(record));
        if state.is_some_and(&is_expected) {
            return record;
        }
        offences.add(BreachKind::StrayRecord, || match (record, state) {
            (Some(record), Some(state)) => format!("record {record} is {}", state.disposition()),
            (Some(record), None) => format!("the partition has no record {record}"),
            (None, _) => "a row names no record".into(),
        });
        None
    }

    fn compare_identity(
        &self,
        record: RecordIndex,
        rows: &IdentityRows,
        row: usize,
        offences: &mut Offences,
    ) {
        if self.manifest.get(record as usize).is_some_and(|known| *known != rows.identity(row)) {
            let uuid = text_at(&rows.uuid, row);
            offences.add(BreachKind::WrongRecord, || format!("record {record}, here with uuid `{uuid}`"));
        }
    }
}

/// What a row of a file of errors says of its record.
#[derive(Clone, Copy)]
struct ErrorWord {
    /// `None` when the cause is no known word.
    state: Option<RecordState>,
    error_code: i64,
    /// 0 where no response came.
    http_status: i64,
    retry_count: i64,
}

impl ErrorWord {
    /// Whether the catalog says the same, of a record that still is what the row was written for.
    fn agrees_with(&self, status: &RecordStatus) -> bool {
        match status.state {
            // A part may keep an error that was undone.
            RecordState::Pending | RecordState::Success => true,
            RecordState::Skipped(_) => self.state == Some(status.state),
            RecordState::Failed(_) => {
                self.state == Some(status.state)
                    && status.error_code().map(i64::from) == Some(self.error_code)
                    && i64::from(status.http_status) == self.http_status
                    && i64::from(status.retry_count) == self.retry_count
            }
        }
    }
}

/// The columns that say what became of a batch's records.
pub(super) const OUTCOME_COLUMNS: [&str; 4] = ["cause", "error_code", "http_status", "retry_count"];

struct ErrorWords {
    cause: StringArray,
    numbers: [Int64Array; 3],
}

impl ErrorWords {
    fn new(batch: &RecordBatch) -> Result<Self, Flaw> {
        let [cause, error_code, http_status, retry_count] = OUTCOME_COLUMNS;
        let numbers = [number(batch, error_code)?, number(batch, http_status)?, number(batch, retry_count)?];
        Ok(Self { cause: text(batch, cause)?, numbers })
    }

    fn at(&self, row: usize) -> ErrorWord {
        let cause = text_at(&self.cause, row);
        let failed = FailureCause::ALL.iter().find(|known| known.as_str() == cause);
        let skipped = SkipReason::ALL.iter().find(|known| known.as_str() == cause);
        let number = |column: &Int64Array| if column.is_valid(row) { column.value(row) } else { 0 };
        let [error_code, http_status, retry_count] = self.numbers.each_ref().map(number);
        ErrorWord {
            state: failed
                .map(|&cause| RecordState::Failed(cause))
                .or(skipped.map(|&reason| RecordState::Skipped(reason))),
            error_code,
            http_status,
            retry_count,
        }
    }
}

/// The columns that tell whose rows a batch has.
struct IdentityRows {
    record: Int64Array,
    uuid: StringArray,
    identifier: StringArray,
}

impl IdentityRows {
    fn new(batch: &RecordBatch) -> Result<Self, Flaw> {
        Ok(Self {
            record: number(batch, "record")?,
            uuid: text(batch, "uuid")?,
            identifier: text(batch, "identifier")?,
        })
    }

    fn record(&self, row: usize) -> Option<RecordIndex> {
        record_at(&self.record, row)
    }

    fn identity(&self, row: usize) -> Identity {
        Identity::new(text_at(&self.uuid, row), text_at(&self.identifier, row))
    }
}
