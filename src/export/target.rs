//! The file that an export makes: whole or not there, its format told by its name, and never one of the
//! dataset's own.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::ExportError;
use crate::query::OutputFormat;
use crate::storage::{AtomicFile, DatasetLayout};

/// What an export made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    pub path: PathBuf,
    pub num_rows: u64,
    /// Length of the file; 0 for a pipe or a device.
    pub bytes: u64,
}

/// Format of a file of this name, and whether it is compressed.
pub(super) fn format_of(path: &Path) -> Result<(OutputFormat, bool), ExportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (name, gzip) = name.strip_suffix(".gz").map_or((name.as_str(), false), |name| (name, true));
    let format = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => OutputFormat::Csv,
        Some("tsv") => OutputFormat::Tsv,
        Some("json") => OutputFormat::Json,
        Some("jsonl" | "ndjson") => OutputFormat::Ndjson,
        // Compressed within; a compressed Parquet file is none.
        Some("parquet") if !gzip => OutputFormat::Parquet,
        _ => return Err(ExportError::UnknownFormat { path: path.to_owned() }),
    };
    Ok((format, gzip))
}

/// Where an export goes.
pub(super) struct Target {
    encoder: Encoder,
    /// `None` for what exists and is no file: a pipe or a device is written to as it is.
    file: Option<AtomicFile>,
    path: PathBuf,
}

enum Encoder {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Target {
    /// A file that is there stays as it is until [`Target::finish`].
    pub fn create(layout: &DatasetLayout, path: &Path, gzip: bool) -> Result<Self, ExportError> {
        // A link stays, and what it points to is replaced.
        let real = resolve(path);
        if is_own(layout, &real) {
            return Err(ExportError::OwnFile { path: path.to_owned() });
        }
        let error = |source| ExportError::Write { path: path.to_owned(), source };
        let (file, handle) = match fs::metadata(&real) {
            Ok(there) if there.is_dir() => return Err(error(io::ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => (None, File::options().write(true).open(&real).map_err(error)?),
            _ => {
                // Two exports to one path must not write into the same file; the later one wins.
                let writer = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
                let file = AtomicFile::create(&real, &writer)?;
                let handle = file.handle()?;
                (Some(file), handle)
            }
        };
        let writer = BufWriter::with_capacity(256 << 10, handle);
        let encoder = if gzip {
            Encoder::Gzip(Box::new(GzEncoder::new(writer, Compression::default())))
        } else {
            Encoder::Plain(writer)
        };
        Ok(Self { encoder, file, path: path.to_owned() })
    }

    /// Writes what is still held back and gives the file its name.
    pub fn finish(self, num_rows: u64) -> Result<ExportReport, ExportError> {
        let flushed = match self.encoder {
            Encoder::Plain(mut writer) => writer.flush(),
            Encoder::Gzip(encoder) => encoder.finish().and_then(|mut writer| writer.flush()),
        };
        flushed.map_err(|source| ExportError::Write { path: self.path.clone(), source })?;
        let bytes = self.file.map(AtomicFile::commit).transpose()?.unwrap_or_default();
        Ok(ExportReport { path: self.path, num_rows, bytes })
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encoder {
            Encoder::Plain(writer) => writer.write(bytes),
            Encoder::Gzip(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Plain(writer) => writer.flush(),
            Encoder::Gzip(writer) => writer.flush(),
        }
    }
}

/// Whether a path is where the dataset keeps what the catalog names, or the catalog itself.
fn is_own(layout: &DatasetLayout, path: &Path) -> bool {
    let in_folder = [layout.images(), layout.urls(), layout.status()]
        .iter()
        .any(|folder| path.starts_with(resolve(folder)));
    let catalog = resolve(&layout.catalog());
    let catalog_name = catalog.file_name().unwrap_or_default().as_encoded_bytes();
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    in_folder || (path.parent() == catalog.parent() && name.starts_with(catalog_name))
}

/// The path without links and dots, as far as it exists; what does not exist yet has no links.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let (Ok(mut real), Ok(rest)) = (there.canonicalize(), path.strip_prefix(there)) {
            for component in rest.components() {
                match component {
                    Component::ParentDir => drop(real.pop()),
                    component => real.push(component),
                }
            }
            return real;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LayoutOptions;

    #[test]
    fn names_tell_formats() {
        let check = |name: &str, expect: Option<(OutputFormat, bool)>| {
            assert_eq!(format_of(Path::new(name)).ok(), expect, "{name}");
        };
        check("a.csv", Some((OutputFormat::Csv, false)));
        check("a.b.TSV.gz", Some((OutputFormat::Tsv, true)));
        check("a.json", Some((OutputFormat::Json, false)));
        check("a.jsonl", Some((OutputFormat::Ndjson, false)));
        check("a.parquet", Some((OutputFormat::Parquet, false)));
        for name in ["a.parquet.gz", "a.xlsx", "csv", ".gz"] {
            check(name, None);
        }
    }

    #[test]
    fn what_belongs_to_the_dataset_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path().join("out"), LayoutOptions::default());
        fs::create_dir_all(layout.images()).unwrap();
        fs::write(layout.catalog(), "precious").unwrap();
        let at = |name: &str| layout.root().join(name);
        std::os::unix::fs::symlink(layout.catalog(), at("link.csv")).unwrap();
        std::os::unix::fs::symlink(layout.images(), folder.path().join("images")).unwrap();
        for path in [
            layout.catalog(),
            at("catalog.redb.lock"),
            at("exports/../catalog.redb"),
            at("downloaded_images/server_name=a/x.parquet"),
            at("servers_batched/x.csv"),
            at("status/status.json"),
            at("link.csv"),
            folder.path().join("images/x.csv"),
            folder.path().join("new/../out/downloaded_images/x.csv"),
        ] {
            let refused = Target::create(&layout, &path, false);
            assert!(matches!(refused, Err(ExportError::OwnFile { .. })), "{}", path.display());
        }
        for path in [at("exports/x.csv"), at("x.csv"), folder.path().join("catalog.redb.csv")] {
            Target::create(&layout, &path, false).unwrap();
        }
        assert_eq!(fs::read(layout.catalog()).unwrap(), b"precious");
    }

    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path().join("out"), LayoutOptions::default());
        let (real, link) = (folder.path().join("real.csv"), folder.path().join("link.csv"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut target = Target::create(&layout, &link, false).unwrap();
        target.write_all(b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"old");
        assert_eq!(target.finish(1).unwrap().bytes, 3);
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());

        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        let mut target = Target::create(&layout, &fifo, false).unwrap();
        target.write_all(b"rows").unwrap();
        target.finish(1).unwrap();
        assert_eq!(reader.join().unwrap(), "rows");
        assert!(!fs::metadata(&fifo).unwrap().is_file());
    }

    #[test]
    fn two_exports_to_one_path_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path().join("out"), LayoutOptions::default());
        let path = folder.path().join("x.csv");
        let mut first = Target::create(&layout, &path, false).unwrap();
        let mut second = Target::create(&layout, &path, false).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second, and longer").unwrap();
        second.finish(1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second, and longer");
        first.finish(1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
