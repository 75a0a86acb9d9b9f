//! The file that an export makes: whole or not there, its format told by its name, and never one of the
//! dataset's own.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

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
    /// A pipe or a device is opened with the first bytes: a reader takes its closing for the end.
    encoder: Option<Encoder>,
    /// `None` for what exists and is no file: a pipe or a device is written to as it is.
    file: Option<AtomicFile>,
    path: PathBuf,
    gzip: bool,
}

enum Encoder {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Encoder {
    fn new(file: File, gzip: bool) -> Self {
        let writer = BufWriter::with_capacity(256 << 10, file);
        if gzip {
            Self::Gzip(Box::new(GzEncoder::new(writer, Compression::default())))
        } else {
            Self::Plain(writer)
        }
    }
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
        let file = match fs::metadata(&real) {
            Ok(there) if there.is_dir() => return Err(error(io::ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => None,
            _ => {
                // Two exports to one path must not write into the same file; the later one wins.
                let writer = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
                sweep(&real);
                Some(AtomicFile::create(&real, &writer)?)
            }
        };
        let handle = file.as_ref().map(AtomicFile::handle).transpose()?;
        // Held until the file has its name; where locks do not work, nothing is swept either.
        let _ = handle.as_ref().map(File::try_lock);
        let encoder = handle.map(|handle| Encoder::new(handle, gzip));
        Ok(Self { encoder, file, path: path.to_owned(), gzip })
    }

    fn encoder(&mut self) -> io::Result<&mut Encoder> {
        Ok(match self.encoder.take() {
            Some(encoder) => self.encoder.insert(encoder),
            None => {
                let stream = File::options().write(true).open(&self.path)?;
                self.encoder.insert(Encoder::new(stream, self.gzip))
            }
        })
    }

    /// What an error means once something was written: a pipe or a device keeps it.
    pub fn in_part(&self) -> impl FnOnce(ExportError) -> ExportError + use<> {
        let stream = self.file.is_none().then(|| self.path.clone());
        move |error| match stream {
            Some(path) => ExportError::InPart { path, source: Box::new(error) },
            None => error,
        }
    }

    /// Writes what is still held back and gives the file its name.
    pub fn finish(mut self, num_rows: u64) -> Result<ExportReport, ExportError> {
        let flushed = self.encoder().map(drop).and_then(|()| match self.encoder.take() {
            Some(Encoder::Plain(mut writer)) => writer.flush(),
            Some(Encoder::Gzip(encoder)) => encoder.finish().and_then(|mut writer| writer.flush()),
            None => Ok(()),
        });
        flushed.map_err(|source| ExportError::Write { path: self.path.clone(), source })?;
        let bytes = self.file.map(AtomicFile::commit).transpose()?.unwrap_or_default();
        Ok(ExportReport { path: self.path, num_rows, bytes })
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.encoder()? {
            Encoder::Plain(writer) => writer.write(bytes),
            Encoder::Gzip(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.encoder()? {
            Encoder::Plain(writer) => writer.flush(),
            Encoder::Gzip(writer) => writer.flush(),
        }
    }
}

/// A file younger than this may not be locked yet.
const SWEPT_AFTER: Duration = Duration::from_secs(60);

/// Removes what killed exports to this path have left: temporary files of our naming that nobody holds.
fn sweep(path: &Path) {
    let prefix = format!("{}.tmp-", path.file_name().unwrap_or_default().to_string_lossy());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let writer = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.split_once('-'));
        let is_ours = writer.is_some_and(|(process, random)| {
            process.parse::<u32>().is_ok() && random.len() == 8 && u32::from_str_radix(random, 16).is_ok()
        });
        let is_old = || {
            let there = entry.metadata().ok().filter(fs::Metadata::is_file);
            let age = there.and_then(|there| there.modified().ok()?.elapsed().ok());
            age.is_some_and(|age| age > SWEPT_AFTER)
        };
        if is_ours
            && is_old()
            && let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "a killed export had left it");
        }
    }
}

/// Refuses a path where the dataset keeps what it cannot do without.
pub(super) fn refuse_own(layout: &DatasetLayout, path: &Path) -> Result<(), ExportError> {
    if is_own(layout, &resolve(path)) {
        return Err(ExportError::OwnFile { path: path.to_owned() });
    }
    Ok(())
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
    fn what_killed_exports_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path().join("out"), LayoutOptions::default());
        let path = folder.path().join("x.csv");
        let at = |name: &str| folder.path().join(name);
        let old = std::time::SystemTime::now() - 2 * SWEPT_AFTER;
        let left =
            ["x.csv.tmp-77-0123abcd", "x.csv.tmp-78-00000000", "x.csv.tmp-77-mine", "y.csv.tmp-77-0123abcd"]
                .map(|name| {
                    let file = File::create(at(name)).unwrap();
                    file.set_modified(old).unwrap();
                    file
                });
        fs::write(at("x.csv.tmp-79-0123abcd"), "just begun").unwrap();
        left[1].lock().unwrap();
        let running = Target::create(&layout, &path, false).unwrap();
        let mut target = Target::create(&layout, &path, false).unwrap();
        target.write_all(b"rows").unwrap();
        // Time passes for an export that is still under way.
        running.file.as_ref().unwrap().handle().unwrap().set_modified(old).unwrap();
        Target::create(&layout, &path, false).unwrap().finish(0).unwrap();
        target.finish(1).unwrap();
        running.finish(1).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "x.csv",
                "x.csv.tmp-77-mine",
                "x.csv.tmp-78-00000000",
                "x.csv.tmp-79-0123abcd",
                "y.csv.tmp-77-0123abcd"
            ]
        );
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
