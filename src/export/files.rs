//! Files of an export, hashed while they are written.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::ExportError;
use super::journal::UnitFile;
use crate::storage::AtomicFile;

/// Ends temporary names: the journal keeps two exports apart, and one that goes on replaces what a killed one left.
pub(super) const WRITER: &str = "export";

/// A file under a temporary name until [`HashedFile::commit`].
pub(super) struct HashedFile {
    file: BufWriter<AtomicFile>,
    sha256: Sha256,
    bytes: u64,
    folder: PathBuf,
    name: String,
}

impl HashedFile {
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: &Path, name: &str) -> Result<Self, ExportError> {
        let file = AtomicFile::create(&folder.join(name), WRITER)?;
        let file = BufWriter::with_capacity(256 << 10, file);
        Ok(Self { file, sha256: Sha256::new(), bytes: 0, folder: folder.to_owned(), name: name.to_owned() })
    }

    /// What a failure to write to it means.
    pub fn failed(&self) -> impl Fn(io::Error) -> ExportError + use<> {
        let path = self.folder.join(&self.name);
        move |source| ExportError::Write { path: path.clone(), source }
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When any of this fails.
    pub fn commit(self) -> Result<UnitFile, ExportError> {
        let failed = self.failed();
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.commit()?;
        Ok(UnitFile { name: self.name, bytes: self.bytes, sha256: hex(&self.sha256.finalize()) })
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a small file whole.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<UnitFile, ExportError> {
    let mut file = HashedFile::create(folder, name)?;
    file.write_all(bytes).map_err(file.failed())?;
    file.commit()
}

/// Writes a small table whole.
///
/// # Errors
/// As [`write_whole`].
pub(super) fn write_csv<const N: usize>(
    folder: &Path,
    name: &str,
    columns: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<UnitFile, ExportError> {
    let file = HashedFile::create(folder, name)?;
    let failed = file.failed();
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record(columns).map_err(|error| failed(error.into()))?;
    for row in rows {
        csv.write_record(row).map_err(|error| failed(error.into()))?;
    }
    csv.into_inner().map_err(|error| failed(error.into_error()))?.commit()
}

/// Writes a small file whole, as JSON for people.
///
/// # Errors
/// As [`write_whole`].
pub(super) fn write_json(
    folder: &Path,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<UnitFile, ExportError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| ExportError::Write { path: folder.join(name), source: error.into() })?;
    text.push(b'\n');
    write_whole(folder, name, &text)
}
