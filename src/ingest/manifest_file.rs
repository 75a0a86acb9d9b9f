//! Files of the manifest: where they lie, how they get there whole, and which are left over.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::error::IngestError;
use crate::catalog::ManifestFile;
use crate::model::ServerName;
use crate::storage::{Checksummed, Sign as _};

/// `server_name=S`, escaped as Hive and Spark do.
pub(super) fn server_folder(urls_folder: &Path, server: &ServerName) -> PathBuf {
    urls_folder.join(format!("server_name={}", escape_hive(server.as_str())))
}

/// `server_name=S/partition_id=P`.
pub(super) fn partition_folder(urls_folder: &Path, server: &ServerName, partition_id: u32) -> PathBuf {
    server_folder(urls_folder, server).join(format!("partition_id={partition_id}"))
}

/// Hive's list of characters that do not stand for themselves in a partition's folder name.
fn escape_hive(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(c) {
            escaped.push_str(&format!("%{:02X}", c as u32));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn unescape_hive(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// Writes one file of a partition: under another name, synced, renamed, folder synced.
pub(super) fn write_file(folder: &Path, part: u32, rows: &RecordBatch) -> Result<ManifestFile, IngestError> {
    let name = format!("part-{part:04}.parquet");
    fs::create_dir_all(folder).map_err(IngestError::write(folder))?;
    let mut output = ParquetOutput::create(&folder.join(&name), rows.schema())?;
    output.push(rows)?;
    let (_, bytes) = output.finish()?;
    Ok(ManifestFile { name, num_records: rows.num_rows() as u32, bytes })
}

/// A Parquet file that gets its name when it is whole.
pub(super) struct ParquetOutput {
    path: PathBuf,
    writer: ArrowWriter<Checksummed<File>>,
}

impl ParquetOutput {
    pub(super) fn create(path: &Path, schema: SchemaRef) -> Result<Self, IngestError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(IngestError::write(&temporary))?;
        let writer = ArrowWriter::try_new(Checksummed::new(file), schema, Some(properties()));
        Ok(Self { path: path.to_owned(), writer: writer.map_err(IngestError::write_parquet(path))? })
    }

    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        self.writer.write(rows).map_err(IngestError::write_parquet(&self.path))
    }

    /// Syncs, renames, syncs the folder. Returns the path and the file's length in bytes.
    pub(super) fn finish(self) -> Result<(PathBuf, u64), IngestError> {
        let Self { path, mut writer } = self;
        let temporary = temporary_name(&path);
        let signed = writer.sign().and_then(|()| writer.into_inner());
        let file = signed.map_err(IngestError::write_parquet(&path))?.into_inner();
        file.sync_all().map_err(IngestError::write(&temporary))?;
        let bytes = file.metadata().map_err(IngestError::write(&temporary))?.len();
        fs::rename(&temporary, &path).map_err(IngestError::write(&path))?;
        if let Some(folder) = path.parent() {
            sync_folder(folder)?;
        }
        Ok((path, bytes))
    }
}

/// Hidden, so that no reader of the folder takes it for a part of it.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Makes renames and new folders in `folder` survive a power failure.
pub(super) fn sync_folder(folder: &Path) -> Result<(), IngestError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(IngestError::write(folder))
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
        let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).unwrap_or(&name);
        let number = name.strip_prefix("part-").and_then(|name| name.strip_suffix(".parquet"));
        if number.is_some_and(|number| number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit())) {
            fs::remove_file(file.path()).map_err(IngestError::write(&file.path()))?;
        }
    }
    let _ = fs::remove_dir(partition);
    Ok(())
}

fn folder_value(name: &std::ffi::OsStr, key: &str) -> Option<String> {
    unescape_hive(name.to_str()?.strip_prefix(key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_hives() {
        let check = |server: &str, expect: &str| {
            let folder = server_folder(Path::new("u"), &ServerName::from_catalog(server));
            assert_eq!(folder, Path::new("u").join(format!("server_name={expect}")));
            assert_eq!(unescape_hive(expect).as_deref(), Some(server));
        };
        check("example.org:8080", "example.org%3A8080");
        check("[2001:db8::1]", "%5B2001%3Adb8%3A%3A1%5D");
        check(ServerName::NULL, ServerName::NULL);
        assert_eq!(unescape_hive("a%zz"), None);
        assert_eq!(unescape_hive("a%é"), None);
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
            "server_name=a%3A1/partition_id=2/.part-0001.parquet.tmp",
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
