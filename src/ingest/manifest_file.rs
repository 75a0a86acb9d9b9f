//! Files of the manifest and beside it: how they get there whole, and which are left over.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::error::IngestError;
use crate::catalog::ManifestFile;
use crate::model::ServerName;
use crate::storage::{AtomicFile, Checksum, Checksummed, unescape_hive};

/// Ends the names of files that are not whole yet.
const WRITER: &str = "ingest";

/// Writes one file of a partition.
pub(super) fn write_file(folder: &Path, part: u32, rows: &RecordBatch) -> Result<ManifestFile, IngestError> {
    let name = format!("part-{part:04}.parquet");
    let mut output = ParquetOutput::create(&folder.join(&name), rows.schema())?;
    output.push(rows)?;
    let (file, Checksum { crc32, bytes }) = output.close()?;
    file.commit()?;
    Ok(ManifestFile { name, num_records: rows.num_rows() as u32, bytes, crc32 })
}

/// A Parquet file that gets its name when it is whole.
struct ParquetOutput {
    file: AtomicFile,
    writer: ArrowWriter<Checksummed<File>>,
}

impl ParquetOutput {
    fn create(path: &Path, schema: SchemaRef) -> Result<Self, IngestError> {
        let file = AtomicFile::create(path, WRITER)?;
        let writer = ArrowWriter::try_new(Checksummed::new(file.handle()?), schema, Some(properties()));
        Ok(Self { writer: writer.map_err(IngestError::write_parquet(path))?, file })
    }

    fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        self.writer.write(rows).map_err(IngestError::write_parquet(self.file.temporary()))
    }

    /// The finished file, which has no name yet.
    fn close(self) -> Result<(AtomicFile, Checksum), IngestError> {
        let Self { file, writer } = self;
        let written = writer.into_inner().map_err(IngestError::write_parquet(file.temporary()))?;
        Ok((file, written.checksum()))
    }
}

/// One of several Parquet files of a folder, one for each ingest that had something to tell: `PREFIX-NNNN.parquet`.
/// Made with the first row, given its name in the end.
pub(super) struct NumberedOutput {
    folder: PathBuf,
    prefix: &'static str,
    schema: SchemaRef,
    open: Option<(PathBuf, ParquetOutput)>,
}

impl NumberedOutput {
    pub(super) fn new(folder: PathBuf, prefix: &'static str, schema: SchemaRef) -> Self {
        Self { folder, prefix, schema, open: None }
    }

    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (_, output) = match &mut self.open {
            Some(open) => open,
            none => {
                let last =
                    numbered_files(&self.folder, self.prefix)?.into_iter().map(|(number, _)| number).max();
                let number = last.map_or(0, |last| last.saturating_add(1));
                let path = self.folder.join(format!("{}-{number:04}.parquet", self.prefix));
                let output = ParquetOutput::create(&path, Arc::clone(&self.schema))?;
                none.insert((path, output))
            }
        };
        output.push(rows)
    }

    /// Returns the path: that of an earlier file if it says the very same. The same list again adds nothing then,
    /// even after an ingest that was killed when all else was done. `None` where there was nothing to tell.
    pub(super) fn finish(self) -> Result<Option<PathBuf>, IngestError> {
        let Some((path, output)) = self.open else { return Ok(None) };
        let (file, _) = output.close()?;
        for (_, earlier) in numbered_files(&self.folder, self.prefix)? {
            if same_bytes(&earlier, file.temporary()).map_err(IngestError::read(&earlier))? {
                return Ok(Some(earlier));
            }
        }
        file.commit()?;
        Ok(Some(path))
    }
}

fn numbered_files(folder: &Path, prefix: &str) -> Result<Vec<(u32, PathBuf)>, IngestError> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries.map_err(IngestError::read(folder))?,
    };
    for entry in entries {
        let path = entry.map_err(IngestError::read(folder))?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let number =
            name.strip_prefix(prefix).and_then(|name| name.strip_prefix('-')?.strip_suffix(".parquet"));
        files.extend(number.and_then(|number| Some((number.parse().ok()?, path.clone()))));
    }
    files.sort();
    Ok(files)
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (of_a, of_b) = (a.fill_buf()?, b.fill_buf()?);
        let count = of_a.len().min(of_b.len());
        if count == 0 || of_a[..count] != of_b[..count] {
            return Ok(count == 0);
        }
        a.consume(count);
        b.consume(count);
    }
}

/// zstd at its fastest level, as all our files. Columns without repetition get no dictionary: it would be built
/// only to be thrown away.
fn properties() -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::Chunk)
        .set_created_by(concat!("ddl ", env!("CARGO_PKG_VERSION")).to_owned());
    for column in ["uuid", "identifier", "record"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(column), false);
    }
    builder.build()
}

/// Removes what an ingest left behind that was killed between writing files and committing them:
/// files of our naming in partitions that the catalog does not have. Others are not touched.
pub(super) fn sweep(
    urls_folder: &Path,
    num_partitions: &HashMap<ServerName, u32>,
) -> Result<(), IngestError> {
    let Ok(servers) = fs::read_dir(urls_folder) else { return Ok(()) };
    for server in servers {
        let server = server.map_err(IngestError::read(urls_folder))?;
        let Some(name) = folder_value(&server.file_name(), "server_name=") else { continue };
        let committed = num_partitions.get(&ServerName::from_catalog(&name)).copied().unwrap_or(0);
        let server = server.path();
        for partition in fs::read_dir(&server).map_err(IngestError::read(&server))? {
            let partition = partition.map_err(IngestError::read(&server))?;
            let id =
                folder_value(&partition.file_name(), "partition_id=").and_then(|id| id.parse::<u32>().ok());
            if id.is_some_and(|id| id >= committed) {
                sweep_partition(&partition.path())?;
            }
        }
        // Fails, as it should, unless the folder is empty.
        let _ = fs::remove_dir(&server);
    }
    Ok(())
}

fn sweep_partition(partition: &Path) -> Result<(), IngestError> {
    for file in fs::read_dir(partition).map_err(IngestError::read(partition))? {
        let file = file.map_err(IngestError::read(partition))?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(&format!(".tmp-{WRITER}")).unwrap_or(&name);
        let number = name.strip_prefix("part-").and_then(|name| name.strip_suffix(".parquet"));
        if number.is_some_and(|number| number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit())) {
            fs::remove_file(file.path()).map_err(IngestError::write(&file.path()))?;
        }
    }
    let _ = fs::remove_dir(partition);
    Ok(())
}

/// Removes files of a folder of [`NumberedOutput`]s that a killed ingest did not finish.
pub(super) fn sweep_unfinished(folder: &Path) -> Result<(), IngestError> {
    for file in fs::read_dir(folder).into_iter().flatten() {
        let path = file.map_err(IngestError::read(folder))?.path();
        if path.to_string_lossy().ends_with(&format!(".parquet.tmp-{WRITER}")) {
            fs::remove_file(&path).map_err(IngestError::write(&path))?;
        }
    }
    Ok(())
}

fn folder_value(name: &OsStr, key: &str) -> Option<String> {
    name.to_str()?.strip_prefix(key).map(unescape_hive)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array};

    use super::*;

    fn rows(values: &[i32]) -> RecordBatch {
        let column = Arc::new(Int32Array::from(values.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn numbered_files_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |values: &[i32]| {
            let rows = rows(values);
            let mut output = NumberedOutput::new(folder.path().join("new"), "part", rows.schema());
            output.push(&rows).unwrap();
            let path = output.finish().unwrap();
            path.map_or(String::new(), |path| path.file_name().unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(write(&[]), "");
        assert!(!folder.path().join("new").exists());
        assert_eq!(write(&[1, 2]), "part-0000.parquet");
        assert_eq!(write(&[3, 4]), "part-0001.parquet");
        assert_eq!(write(&[1, 2]), "part-0000.parquet");
        assert_eq!(names(&folder.path().join("new")), ["part-0000.parquet", "part-0001.parquet"]);
    }

    #[test]
    fn unfinished_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = NumberedOutput::new(folder.path().to_owned(), "part", rows(&[]).schema());
        output.push(&rows(&[1])).unwrap();
        // As a kill leaves it.
        std::mem::forget(output);
        fs::write(folder.path().join("notes.txt"), b"").unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        sweep_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["notes.txt"]);
        sweep_unfinished(&folder.path().join("absent")).unwrap();
    }

    #[test]
    fn only_our_uncommitted_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let keep = [
            "server_name=a%3A1/partition_id=0/part-0000.parquet",
            "server_name=a%3A1/partition_id=1/part-00000-x.snappy.parquet",
            "_duplicates/ingest-0000.parquet",
        ];
        let sweep_away = [
            "server_name=a%3A1/partition_id=1/part-0000.parquet",
            "server_name=a%3A1/partition_id=2/part-0001.parquet.tmp-ingest",
            "server_name=b/partition_id=0/part-0000.parquet",
        ];
        for name in keep.iter().chain(&sweep_away) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        sweep(folder.path(), &HashMap::from([(ServerName::from_catalog("a:1"), 1)])).unwrap();
        assert!(keep.iter().all(|name| folder.path().join(name).exists()));
        assert!(!sweep_away.iter().any(|name| folder.path().join(name).exists()));
        assert!(!folder.path().join("server_name=b").exists());
    }
}
