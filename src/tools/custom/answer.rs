//! Reads back what a command has written. Of a file that is not as it should be, nothing gets into the dataset.
//!
//! `verdicts.parquet`, one row per image that something is said of; in any order, whatever else it has:
//!
//! | column | type | |
//! |---|---|---|
//! | `uuid` | text | of an image of this partition, each image once |
//! | `verdict` | text | `remove` or `flag` |
//! | `record` | whole number | may be left out; else that of the image |
//! | `reason` | text | may be left out or null: the tool's `reason` |
//! | `witness` | text | may be left out or null: `uuid` of the image that stays |
//! | `distance` | whole number | may be left out or null |
//!
//! `successes.parquet`, one row per new image: `uuid` of the image that it is made of, `record` as above, and `image`, the
//! bytes of an image file. They are decoded; their size, digest and format are worked out here, and all else is what is
//! known of the original.
//!
//! Where a list has given several records one `uuid`, each row without a `record` is of the next of them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Int32Type, Int64Type, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use uuid::Uuid;

use super::super::stored::{FullDecoder, NewImage, NewImages};
use super::super::{RunInput, RunOutput, ToolError, Verdict, VerdictKind};
use super::CommandOutput;
use crate::model::{RecordIndex, nearest};
use crate::storage::successes_schema;

const VERDICTS: &str = "verdicts.parquet";
const IMAGES: &str = "successes.parquet";

/// Rows of verdicts that are read at a time.
const VERDICT_ROWS: usize = 8192;
/// Images that are read at a time: a few are held as they come and as they are decoded.
const IMAGE_ROWS: usize = 8;
/// A reason is a word or two, and is repeated with every verdict.
const MAX_REASON_BYTES: usize = 1000;
/// What an image of a row group may have on average, as a download has it (`max_body_bytes`). A value is in memory before
/// it can be looked at, so what is far beyond that is refused unread.
const MAX_IMAGE_BYTES: u64 = 100 << 20;
/// What a column of a row group may have besides its values.
const COLUMN_OVERHEAD_BYTES: u64 = 1 << 20;

/// Passes on what a command has left in its folder of output.
pub(super) fn read(
    expected: CommandOutput,
    folder: &Path,
    reason: &str,
    decoder: &FullDecoder,
    input: &RunInput,
    output: &mut RunOutput,
) -> Result<(), ToolError> {
    let has_verdicts = expected != CommandOutput::Images;
    let has_images = expected != CommandOutput::Verdicts;
    for (name, is_expected) in [(VERDICTS, has_verdicts), (IMAGES, has_images)] {
        match fs::symlink_metadata(folder.join(name)) {
            Ok(_) if !is_expected => {
                return Err(failed(format!(
                    "the command wrote `{name}`, which its `output` does not announce"
                )));
            }
            // Opening a pipe would wait for a writer.
            Ok(file) if !file.is_file() => return Err(failed(format!("`{name}` is not a plain file"))),
            Err(_) if is_expected => return Err(missing(folder, name)),
            Ok(_) | Err(_) => {}
        }
    }
    let originals = Originals::read(input, has_images)?;
    if has_verdicts {
        read_verdicts(&folder.join(VERDICTS), reason, &originals, input, output)?;
    }
    if has_images {
        read_images(&folder.join(IMAGES), &originals, decoder, input, output)?;
    }
    Ok(())
}

fn failed(text: String) -> ToolError {
    ToolError::Failed(text)
}

fn missing(folder: &Path, name: &str) -> ToolError {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| show(&entry.file_name().to_string_lossy())).take(5).collect();
    names.sort();
    let instead =
        if names.is_empty() { String::new() } else { format!("; what it wrote is {}", names.join(", ")) };
    failed(format!("the command wrote no `{name}` (without anything to say, it has no rows){instead}"))
}

/// Text of a command in a message: on one line, printable, not endless.
fn show(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    format!("`{shown}{}`", if text.chars().nth(MAX_CHARS).is_some() { "..." } else { "" })
}

/// What is known of the images of a partition, but for their bytes.
struct Originals {
    rows: RecordBatch,
    records: Vec<RecordIndex>,
    /// Positions in `rows`; several where a list has given several records one `uuid`.
    by_uuid: HashMap<String, Vec<usize>>,
}

impl Originals {
    /// `for_images`: with all columns, not only those that name images.
    fn read(input: &RunInput, for_images: bool) -> Result<Self, ToolError> {
        let schema = successes_schema();
        let fields = schema.fields().iter().map(|field| field.name().as_str());
        let wanted =
            |name: &&str| if for_images { *name != "image" } else { ["uuid", "record"].contains(name) };
        let names: Vec<&str> = fields.filter(wanted).collect();
        let batches = input.images(Some(&names[..]), VERDICT_ROWS).collect::<Result<Vec<_>, _>>()?;
        let read_schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let damaged = |error: ArrowError| failed(format!("the partition's files: {error}"));
        let rows = concat_batches(&read_schema, &batches).map_err(damaged)?;
        let (mut records, mut by_uuid) = (Vec::new(), HashMap::<String, Vec<usize>>::new());
        if let (Some(uuid), Some(record)) = (rows.column_by_name("uuid"), rows.column_by_name("record")) {
            let uuid = cast(uuid, &DataType::Utf8).map_err(damaged)?;
            let record = cast(record, &DataType::Int32).map_err(damaged)?;
            records.extend(record.as_primitive::<Int32Type>().values().iter().map(|&r| r as RecordIndex));
            for (at, uuid) in uuid.as_string::<i32>().iter().enumerate() {
                by_uuid.entry(uuid.unwrap_or_default().to_owned()).or_default().push(at);
            }
        }
        Ok(Self { rows, records, by_uuid })
    }

    /// Takes the position of an image that was not taken before; that of the given record, if one is given.
    ///
    /// # Errors
    /// The column that is wrong, and why.
    fn take(
        &self,
        uuid: &str,
        record: Option<i64>,
        taken: &mut HashSet<usize>,
    ) -> Result<usize, (&'static str, String)> {
        let places = self.by_uuid.get(uuid).map_or(&[][..], Vec::as_slice);
        let Some(&first) = places.first() else {
            return Err(("uuid", format!("{} is no image of this partition", show(uuid))));
        };
        let is_it = |&&at: &&usize| record.is_none_or(|record| i64::from(self.records[at]) == record);
        let mut fitting = places.iter().filter(is_it).copied().peekable();
        if let (None, Some(record)) = (fitting.peek(), record) {
            let reason = format!("the image {} is record {}, not {record}", show(uuid), self.records[first]);
            return Err(("record", reason));
        }
        let free = fitting.find(|&place| taken.insert(place));
        free.ok_or_else(|| ("uuid", format!("{} is there twice", show(uuid))))
    }
}

/// What the values of a column are.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Text,
    Whole,
    Bytes,
}

impl Is {
    /// Null alone is what a column without any values has.
    fn fits(self, data_type: &DataType) -> bool {
        match (self, data_type) {
            (_, DataType::Null) => true,
            (_, DataType::Dictionary(_, values)) => self.fits(values),
            (Self::Text, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
            (Self::Whole, data_type) => data_type.is_integer(),
            (Self::Bytes, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => true,
            _ => false,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Whole => DataType::Int64,
            Self::Bytes => DataType::Binary,
        }
    }

    /// Of a value, on average.
    fn max_bytes(self) -> u64 {
        match self {
            Self::Text => MAX_REASON_BYTES as u64,
            Self::Whole => 16,
            Self::Bytes => MAX_IMAGE_BYTES,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Whole => "whole numbers",
            Self::Bytes => "bytes",
        }
    }
}

/// A column that is looked for, and whether it must be there.
type Wanted = (&'static str, Is, bool);

/// A file that a command has written.
struct Answer {
    file: &'static str,
    wanted: &'static [Wanted],
    reader: ParquetRecordBatchReader,
    /// Rows before those that are looked at.
    before: usize,
}

impl Answer {
    fn open(
        path: &Path,
        file: &'static str,
        wanted: &'static [Wanted],
        batch_rows: usize,
        num_images: u64,
    ) -> Result<Self, ToolError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            failed(format!("the command wrote a `{file}` that cannot be read: {error}"))
        };
        let opened = File::open(path).map_err(|error| unreadable(&error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|error| unreadable(&error))?;
        let num_rows = builder.metadata().file_metadata().num_rows();
        if u64::try_from(num_rows).is_ok_and(|rows| rows > num_images) {
            return Err(failed(format!(
                "the command wrote a `{file}` of {num_rows} rows; the partition has {num_images} images"
            )));
        }
        let roots = check_columns(file, builder.schema(), wanted)?;
        check_sizes(file, builder.metadata(), wanted)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader = builder.with_projection(mask).with_batch_size(batch_rows).build();
        Ok(Self { file, wanted, reader: reader.map_err(|error| unreadable(&error))?, before: 0 })
    }

    /// The wanted columns of the next rows, in their order; those that are not there are null.
    fn next_rows(&mut self) -> Result<Option<Vec<ArrayRef>>, ToolError> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch.map_err(|error| {
            failed(format!("the command wrote a `{}` that cannot be read: {error}", self.file))
        })?;
        let columns = self.wanted.iter().map(|&(name, is, _)| {
            let Some(column) = batch.column_by_name(name) else {
                return Ok(new_null_array(&is.data_type(), batch.num_rows()));
            };
            // What does not fit is an error, not null.
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(column, &is.data_type(), &options)
                .map_err(|error| failed(format!("`{}`, column `{name}`: {error}", self.file)))
        });
        columns.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// A value that is not as it should be.
    fn wrong(&self, column: &str, row: usize, reason: impl std::fmt::Display) -> ToolError {
        failed(format!("`{}`, column `{column}`, row {}: {reason}", self.file, self.before + row + 1))
    }
}

/// The positions of the wanted columns that are there.
fn check_columns(file: &str, schema: &Schema, wanted: &[Wanted]) -> Result<Vec<usize>, ToolError> {
    let is_wanted = |name: &str| wanted.iter().any(|(known, ..)| *known == name);
    let mut roots = Vec::new();
    for &(name, is, must) in wanted {
        let mut found = schema.fields().iter().enumerate().filter(|(_, field)| field.name() == name);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => {
                return Err(failed(format!("`{file}` has several columns called `{name}`")));
            }
            (Some((at, field)), None) if is.fits(field.data_type()) => roots.push(at),
            (Some((_, field)), None) => {
                let (expected, found) = (is.words(), field.data_type());
                return Err(failed(format!("`{file}`, column `{name}`: expected {expected}, found {found}")));
            }
            (None, _) => {
                let others = schema.fields().iter().map(|field| field.name().as_str());
                let meant =
                    others.filter(|other| !is_wanted(other) && nearest(other, [name]).is_some()).min();
                if let Some(meant) = meant {
                    let meant = show(meant);
                    return Err(failed(format!(
                        "`{file}` has no column `{name}`; is {meant} meant to be it?"
                    )));
                }
                if must {
                    return Err(failed(format!("`{file}` has no column `{name}`")));
                }
            }
        }
    }
    Ok(roots)
}

/// Refuses columns that are too large to be read, by what the footer says.
fn check_sizes(file: &str, metadata: &ParquetMetaData, wanted: &[Wanted]) -> Result<(), ToolError> {
    for group in metadata.row_groups() {
        for column in group.columns() {
            let name = column.column_path().string();
            let Some((_, is, _)) = wanted.iter().find(|(known, ..)| *known == name) else { continue };
            let num_rows = group.num_rows().unsigned_abs();
            let most = num_rows.saturating_mul(is.max_bytes()).saturating_add(COLUMN_OVERHEAD_BYTES);
            let num_bytes = column.uncompressed_size().unsigned_abs();
            if num_bytes > most {
                return Err(failed(format!(
                    "`{file}`, column `{name}`: {num_bytes} bytes in {num_rows} rows are too many"
                )));
            }
        }
    }
    Ok(())
}

const VERDICT_COLUMNS: &[Wanted] = &[
    ("uuid", Is::Text, true),
    ("verdict", Is::Text, true),
    ("record", Is::Whole, false),
    ("reason", Is::Text, false),
    ("witness", Is::Text, false),
    ("distance", Is::Whole, false),
];

fn read_verdicts(
    path: &Path,
    default_reason: &str,
    originals: &Originals,
    input: &RunInput,
    output: &mut RunOutput,
) -> Result<(), ToolError> {
    let mut answer = Answer::open(path, VERDICTS, VERDICT_COLUMNS, VERDICT_ROWS, input.num_images())?;
    let mut taken = HashSet::new();
    while let Some(columns) = answer.next_rows()? {
        input.check_stop()?;
        let text = |column: usize| columns[column].as_string::<i32>();
        let whole = |column: usize, at: usize| {
            let column: &Int64Array = columns[column].as_primitive::<Int64Type>();
            column.is_valid(at).then(|| column.value(at))
        };
        for at in 0..columns[0].len() {
            let value = |column: usize| text(column).is_valid(at).then(|| text(column).value(at));
            let uuid = value(0).ok_or_else(|| answer.wrong("uuid", at, "there is none"))?;
            let record = whole(2, at);
            let place = originals.take(uuid, record, &mut taken);
            let place = place.map_err(|(column, reason)| answer.wrong(column, at, reason))?;
            let word = value(1).unwrap_or_default();
            let kind = VerdictKind::parse(word).ok_or_else(|| {
                answer.wrong("verdict", at, format!("{} is neither `remove` nor `flag`", show(word)))
            })?;
            let reason = value(3).filter(|reason| !reason.is_empty()).unwrap_or(default_reason);
            if reason.len() > MAX_REASON_BYTES {
                let reason = format!("it has {} bytes, {MAX_REASON_BYTES} are allowed", reason.len());
                return Err(answer.wrong("reason", at, reason));
            }
            let witness = value(4);
            if let Some(witness) = witness.filter(|witness| Uuid::parse_str(witness).is_err()) {
                return Err(answer.wrong("witness", at, format!("{} is no UUID", show(witness))));
            }
            let distance = whole(5, at).map(i32::try_from).transpose();
            let distance = distance.map_err(|_| answer.wrong("distance", at, "it is out of range"))?;
            output.verdict(Verdict {
                record: originals.records[place],
                uuid: uuid.to_owned(),
                kind,
                reason: reason.to_owned(),
                witness: witness.map(str::to_owned),
                distance,
            });
        }
        answer.before += columns[0].len();
    }
    Ok(())
}

const IMAGE_COLUMNS: &[Wanted] =
    &[("uuid", Is::Text, true), ("image", Is::Bytes, true), ("record", Is::Whole, false)];

fn read_images(
    path: &Path,
    originals: &Originals,
    decoder: &FullDecoder,
    input: &RunInput,
    output: &mut RunOutput,
) -> Result<(), ToolError> {
    let mut answer = Answer::open(path, IMAGES, IMAGE_COLUMNS, IMAGE_ROWS, input.num_images())?;
    let mut taken = HashSet::new();
    let mut made = NewImages::default();
    while let Some(columns) = answer.next_rows()? {
        input.check_stop()?;
        let (uuids, images) = (columns[0].as_string::<i32>(), columns[1].as_binary::<i32>());
        let records: &Int64Array = columns[2].as_primitive::<Int64Type>();
        for at in 0..uuids.len() {
            if uuids.is_null(at) {
                return Err(answer.wrong("uuid", at, "there is none"));
            }
            let record = records.is_valid(at).then(|| records.value(at));
            let place = originals.take(uuids.value(at), record, &mut taken);
            let place = place.map_err(|(column, reason)| answer.wrong(column, at, reason))?;
            let image = Bytes::copy_from_slice(if images.is_null(at) { &[] } else { images.value(at) });
            let seen = decoder.verify(&image).map_err(|error| answer.wrong("image", at, error))?;
            let image = NewImage {
                image_format: seen.image_format.as_str().to_owned(),
                resized_size: Some(seen.size),
                hashsum_resized: output.storage.hash_algorithm.digest(&image).to_string(),
                image,
            };
            made.push(originals.rows.slice(place, 1), image, output)?;
        }
        answer.before += uuids.len();
    }
    made.flush(output)
}
