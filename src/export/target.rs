//! The file that an export makes: whole or not there, its format told by its name.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::ExportError;
use crate::query::{OutputFormat, QueryError};
use crate::storage::AtomicFile;

/// What an export made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    pub path: PathBuf,
    pub num_rows: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Format of a file of this name, and whether it is compressed.
pub(super) fn format_of(path: &Path) -> Result<(OutputFormat, bool), ExportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (name, gzip) = name.strip_suffix(".gz").map_or((name.as_str(), false), |name| (name, true));
    let format = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => OutputFormat::Csv,
        Some("tsv") => OutputFormat::Tsv,
        Some("jsonl" | "ndjson") => OutputFormat::Ndjson,
        // Compressed within; a compressed Parquet file is none.
        Some("parquet") if !gzip => OutputFormat::Parquet,
        _ => return Err(ExportError::UnknownFormat { path: path.to_owned() }),
    };
    Ok((format, gzip))
}

pub(super) enum Target {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Target {
    pub fn new(file: &AtomicFile, gzip: bool) -> Result<Self, ExportError> {
        let writer = BufWriter::with_capacity(256 << 10, file.handle()?);
        Ok(if gzip {
            Self::Gzip(Box::new(GzEncoder::new(writer, Compression::default())))
        } else {
            Self::Plain(writer)
        })
    }

    /// Writes what is still held back.
    pub fn finish(self) -> Result<(), ExportError> {
        let flushed = match self {
            Self::Plain(mut writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.finish().and_then(|mut writer| writer.flush()),
        };
        flushed.map_err(|error| QueryError::Output(error).into())
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(bytes),
            Self::Gzip(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(writer) => writer.flush(),
            Self::Gzip(writer) => writer.flush(),
        }
    }
}
