//! One reader per format, behind one enum: a new format is a variant, an arm of `open` and one of
//! `next_batch`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::darwin_core::DarwinCoreReader;
use super::delimited::{ByteStream, DelimitedReader};
use super::error::IngestError;
use super::input::{Input, open_bytes, sniff_format};
use super::json_lines::JsonLinesReader;
use super::options::InputFormat;
use super::parquet_rows::ParquetReader;
use super::raw_batch::{MalformedLog, RawBatch, ReadContext};

#[expect(clippy::large_enum_variant, reason = "there is one reader at a time")]
pub(super) enum Reader {
    Delimited(DelimitedReader),
    JsonLines(JsonLinesReader),
    Parquet(ParquetReader),
    DarwinCore(DarwinCoreReader),
}

impl Reader {
    pub(super) fn open(input: &Input, context: &ReadContext) -> Result<Self, IngestError> {
        let path = &input.path;
        if path.is_dir() {
            return Ok(Self::DarwinCore(DarwinCoreReader::open(path, context)?));
        }
        let opened = open_bytes(input, &context.meter)?;
        let format = input.format.or_else(|| sniff_format(&opened.first_bytes));
        let format = format.ok_or_else(|| IngestError::UnknownFormat { path: path.clone() })?;
        Ok(match format {
            InputFormat::Csv | InputFormat::Tsv | InputFormat::Txt => {
                Self::Delimited(DelimitedReader::open(path, opened.stream, format, context.max_row_bytes)?)
            }
            InputFormat::Jsonl => {
                Self::JsonLines(JsonLinesReader::open(path, opened.stream, context.max_row_bytes)?)
            }
            InputFormat::Parquet | InputFormat::Dwca => {
                // These are not read from front to end: they need a file.
                let is_file = !opened.is_gzip && !input.is_stdin();
                let file =
                    if is_file { path.clone() } else { spool(path, opened.stream, &context.temp_folder)? };
                match format {
                    InputFormat::Parquet => Self::Parquet(ParquetReader::open(&file, &context.meter)?),
                    _ => Self::DarwinCore(DarwinCoreReader::open(&file, context)?),
                }
            }
        })
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        match self {
            Self::Delimited(reader) => reader.next_batch(malformed),
            Self::JsonLines(reader) => reader.next_batch(malformed),
            Self::Parquet(reader) => reader.next_batch(),
            Self::DarwinCore(reader) => reader.next_batch(malformed),
        }
    }
}

/// Copies a stream to a file, which goes when the temporary folder goes.
fn spool(path: &Path, mut stream: ByteStream, temp_folder: &Path) -> Result<PathBuf, IngestError> {
    fs::create_dir_all(temp_folder).map_err(IngestError::write(temp_folder))?;
    let mut number = 0;
    let (spooled, mut file) = loop {
        let spooled = temp_folder.join(format!("input-{number}"));
        match File::create_new(&spooled) {
            Ok(file) => break (spooled, file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(IngestError::write(&spooled)(error)),
        }
    };
    // Most likely the input is at fault; a full disk is told by the error's text.
    io::copy(&mut stream, &mut file).map_err(IngestError::read(path))?;
    Ok(spooled)
}
