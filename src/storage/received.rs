//! Files of parts that were written elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use arrow::array::AsArray as _;
use arrow::datatypes::Int32Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{AtomicFile, Checksum, Checksummed, StorageError};
use crate::model::{DataFile, PartId, RecordIndex};

/// Writes a file of a part from bytes that come from elsewhere, and gives it its name if it is what is stated of it, and
/// `holds` of its records, in its order.
///
/// # Errors
/// `Unexpected` when it is something else; or when it cannot be read or written. Then nothing stands under its name that did
/// not before.
pub fn receive_part_file(
    path: &Path,
    part: PartId,
    stated: DataFile,
    holds: &dyn Fn(&[RecordIndex]) -> bool,
    bytes: &mut dyn Read,
) -> Result<(), StorageError> {
    let unexpected = |detail: String| StorageError::Unexpected { path: path.to_owned(), detail };
    let file = AtomicFile::create(path, &part.epoch.to_string())?;
    let mut target = Checksummed::new(file.handle()?);
    // One byte more tells what is too long.
    io::copy(&mut bytes.take(stated.bytes.saturating_add(1)), &mut target)
        .map_err(StorageError::io("write", file.temporary()))?;
    if target.checksum() != Checksum::stated(stated) {
        return Err(unexpected("its checksum is another than its report says".into()));
    }
    if !holds(&read_records(file.temporary())?) {
        return Err(unexpected("its rows are not those of its report".into()));
    }
    file.commit().map(drop)
}

/// The column `record`.
fn read_records(path: &Path) -> Result<Vec<RecordIndex>, StorageError> {
    let read = StorageError::parquet("read", path);
    let unexpected =
        || StorageError::Unexpected { path: path.to_owned(), detail: "column `record` is missing".into() };
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(&read)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["record"]);
    let mut records = Vec::new();
    for batch in builder.with_projection(columns).build().map_err(&read)? {
        let batch = batch.map_err(|error| read(error.into()))?;
        let column = batch.column_by_name("record").ok_or_else(unexpected)?;
        let column = column.as_primitive_opt::<Int32Type>().ok_or_else(unexpected)?;
        records.extend(column.values().iter().map(|record| record.cast_unsigned()));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Epoch;
    use crate::storage::{ErrorRow, ManifestRecord, StorageOptions, write_error_part};

    fn error_row(record: RecordIndex) -> ErrorRow {
        ErrorRow {
            record: Arc::new(ManifestRecord {
                record,
                uuid: "u".into(),
                source_id: None,
                identifier: "http://a.example/".into(),
                license: None,
                source: None,
                title: None,
                label: None,
                shared_server_name: None,
            }),
            retry_count: 0,
            error_code: -1,
            error_msg: String::new(),
            cause: "dns",
            http_status: None,
            fetched_at: 0,
            rendition_url: None,
        }
    }

    #[test]
    fn only_what_is_stated_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        let stated =
            write_error_part(&made, &[error_row(4), error_row(2)], StorageOptions::default()).unwrap();
        let bytes = std::fs::read(&made).unwrap();
        let path = folder.path().join("errors-1-2-0.parquet");
        let part = PartId { epoch: Epoch::new(1, 2), sequence: 0 };
        let receive = |bytes: &[u8], records: &[RecordIndex]| {
            receive_part_file(&path, part, stated, &|found| found == records, &mut &*bytes)
        };
        let mut flipped = bytes.clone();
        flipped[10] ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for (bytes, records, expect) in [
            (&flipped[..], &[4, 2][..], "checksum"),
            (&longer, &[4, 2], "checksum"),
            (&bytes[..bytes.len() - 1], &[4, 2], "checksum"),
            (&bytes, &[2, 4], "rows"),
        ] {
            let error = receive(bytes, records).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert!(!path.exists());
        }
        receive(&bytes, &[4, 2]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
