//! One reader per format, behind one enum: a new format is a variant, an arm of `open` and one of
//! `next_batch`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::archive_files::ArchiveFiles;
use super::darwin_core::DarwinCoreReader;
use super::delimited::{ByteStream, DelimitedReader};
use super::error::IngestError;
use super::excel::ExcelReader;
use super::input::{Input, open_bytes, sniff_format};
use super::json_lines::JsonLinesReader;
use super::options::InputFormat;
use super::parquet_rows::ParquetReader;
use super::raw_batch::{MalformedLog, RawBatch, ReadContext};
use super::xml_list::XmlListReader;

#[expect(clippy::large_enum_variant, reason = "there is one reader at a time")]
pub(super) enum Reader {
    Delimited(DelimitedReader),
    JsonLines(JsonLinesReader),
    Xml(XmlListReader),
    Excel(ExcelReader),
    Parquet(ParquetReader),
    DarwinCore(DarwinCoreReader),
}

impl Reader {
    pub(super) fn open(input: &Input, context: &ReadContext) -> Result<Self, IngestError> {
        let path = &input.path;
        if path.is_dir() {
            return Ok(Self::DarwinCore(DarwinCoreReader::open(ArchiveFiles::new(path, path), context)?));
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
            InputFormat::Xml => Self::Xml(XmlListReader::open(path, opened.stream, context.max_row_bytes)),
            InputFormat::Parquet | InputFormat::Excel | InputFormat::Dwca => {
                // These are not read from front to end: they need a file.
                let is_file = !opened.is_gzip && !input.is_stdin();
                let file =
                    if is_file { path.clone() } else { spool(path, opened.stream, &context.temp_folder)? };
                match format {
                    InputFormat::Parquet => Self::Parquet(ParquetReader::open(&file, &context.meter)?),
                    InputFormat::Excel => Self::Excel(ExcelReader::open(&file, path, context)?),
                    _ => Self::DarwinCore(DarwinCoreReader::open(ArchiveFiles::new(&file, path), context)?),
                }
            }
        })
    }

    /// Whether later batches may have columns that the first has not.
    pub(super) fn may_grow(&self) -> bool {
        matches!(self, Self::JsonLines(_) | Self::Xml(_))
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        match self {
            Self::Delimited(reader) => reader.next_batch(malformed),
            Self::JsonLines(reader) => reader.next_batch(malformed),
            Self::Xml(reader) => reader.next_batch(malformed),
            Self::Excel(reader) => reader.next_batch(malformed),
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
    copy(path, &mut stream, &spooled, &mut file)?;
    Ok(spooled)
}

/// Like `io::copy`, but its error says on which side it arose.
fn copy(
    from_path: &Path,
    from: &mut impl Read,
    to_path: &Path,
    to: &mut impl Write,
) -> Result<(), IngestError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).map_err(IngestError::write(to_path))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(IngestError::read(from_path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk was reported as an input that cannot be read.
    #[test]
    fn a_copy_says_which_side_failed() {
        let copy = |from: &mut dyn Read, to: &mut dyn Write| {
            let (mut from, mut to) = (from, to);
            copy(Path::new("from"), &mut from, Path::new("to"), &mut to)
        };
        let mut full = &mut [0; 3][..];
        let error = copy(&mut &b"four"[..], &mut full).unwrap_err();
        assert!(matches!(&error, IngestError::Write { path, .. } if path == Path::new("to")), "{error}");
        let mut ends_early = flate2::read::GzDecoder::new(&b"\x1f\x8b"[..]);
        let error = copy(&mut ends_early, &mut Vec::new()).unwrap_err();
        assert!(matches!(&error, IngestError::Truncated { path } if path == Path::new("from")), "{error}");
        assert!(!error.to_string().contains("gzip"), "{error}");
        let mut whole = Vec::new();
        copy(&mut &b"four"[..], &mut whole).unwrap();
        assert_eq!(whole, b"four");
    }
}
