//! Files of an archive: in a folder, or in a zip, streamed and checked. A workbook is such a zip, too.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Crc;
use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::delimited::ByteStream;
use super::error::IngestError;
use super::input::Counted;
use super::raw_batch::ReadMeter;

/// Where the files of an archive lie.
#[derive(Clone, Debug)]
pub(super) struct ArchiveFiles {
    path: PathBuf,
    is_folder: bool,
    /// What the user calls it: the path, unless it had to be unpacked or came from standard input.
    name: PathBuf,
    /// What it is taken for, if not for a Darwin Core Archive.
    what: Option<&'static str>,
}

impl ArchiveFiles {
    pub(super) fn new(path: &Path, name: &Path) -> Self {
        Self { path: path.to_owned(), is_folder: path.is_dir(), name: name.to_owned(), what: None }
    }

    /// A zip that is no archive of Darwin Core.
    pub(super) fn of_workbook(path: &Path, name: &Path, what: &'static str) -> Self {
        Self { is_folder: false, what: Some(what), ..Self::new(path, name) }
    }

    pub(super) fn error(&self, reason: impl ToString) -> IngestError {
        let (path, reason) = (self.name.clone(), reason.to_string());
        match self.what {
            Some(what) => IngestError::Unusable { path, what, reason },
            None => IngestError::Archive { path, reason },
        }
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// How messages call a file of the archive.
    pub(super) fn name_of(&self, file: &str) -> PathBuf {
        self.name.join(file)
    }

    /// A file by its name and its length in bytes, unpacked; `None` if the archive has none.
    ///
    /// Names with a path in them are refused: a `meta.xml` must not lead out of the folder.
    pub(super) fn open(
        &self,
        name: &str,
        meter: &Arc<ReadMeter>,
    ) -> Result<Option<(ByteStream, u64)>, IngestError> {
        if name.is_empty() || name.contains(['/', '\\']) || name == ".." {
            return Err(self.error(format!("it names a file `{name}`")));
        }
        if !self.is_folder {
            // Some archives have all files in one folder.
            return self.open_zipped(name, meter, |entry| {
                let before = entry.strip_suffix(name.as_bytes());
                before.is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
            });
        }
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(IngestError::read(&path))?,
        };
        let length = file.metadata().map_err(IngestError::read(&path))?.len();
        let counted = Counted { reader: Box::new(file), meter: Arc::clone(meter) };
        Ok(Some((Box::new(counted), length)))
    }

    /// A file of a zip by its whole path, whatever the case.
    pub(super) fn open_path(
        &self,
        path: &str,
        meter: &Arc<ReadMeter>,
    ) -> Result<Option<(ByteStream, u64)>, IngestError> {
        self.open_zipped(path, meter, |entry| entry.eq_ignore_ascii_case(path.as_bytes()))
    }

    /// The first file for which `is_it` holds. The `zip` crate lends its entries; one that is read on another thread
    /// must own its file.
    fn open_zipped(
        &self,
        name: &str,
        meter: &Arc<ReadMeter>,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<(ByteStream, u64)>, IngestError> {
        let path = &self.path;
        let open = || File::open(path).map_err(IngestError::read(path));
        let mut archive = ZipArchive::new(BufReader::new(open()?)).map_err(|error| self.error(error))?;
        let Some(index) = archive.file_names_raw().position(is_it) else { return Ok(None) };
        let entry = archive.by_index(index).map_err(|error| self.error(error))?;
        let (length, crc) = (entry.size(), entry.crc32());
        let (compressed, method) = (entry.compressed_size(), entry.compression());
        let start = entry.data_start().ok_or_else(|| self.error(format!("`{name}` has no data")))?;
        drop(entry);
        let mut file = open()?;
        file.seek(SeekFrom::Start(start)).map_err(IngestError::read(path))?;
        let raw = Counted { reader: Box::new(file.take(compressed)), meter: Arc::clone(meter) };
        let unpacked: ByteStream = match method {
            CompressionMethod::Stored => Box::new(raw),
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new_with_buf(raw, vec![0; 256 << 10])),
            other => return Err(self.error(format!("`{name}` is packed with {other}"))),
        };
        Ok(Some((
            Box::new(Checked { reader: unpacked, crc: Crc::new(), expect: (crc, length), length: 0 }),
            length,
        )))
    }
}

/// Compares length and checksum at the end.
struct Checked {
    reader: ByteStream,
    crc: Crc,
    expect: (u32, u64),
    length: u64,
}

impl Read for Checked {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(to)?;
        self.crc.update(&to[..count]);
        self.length += count as u64;
        let is_at_end = count == 0 && !to.is_empty();
        if self.length > self.expect.1 || is_at_end && (self.crc.sum(), self.length) != self.expect {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a file in the zip fails its checksum"));
        }
        Ok(count)
    }
}
