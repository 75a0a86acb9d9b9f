//! Darwin Core Archives: the table of media, each row with some columns of its occurrence.
//!
//! Media are joined with the core by its id. If the core's wanted columns fit into memory, they are
//! held there and media are read in order. Else both tables are first spread over files by a hash of
//! the id, small enough that the core's share of each fits, and joined file by file: the order of rows
//! is then that of the files, which is as stable, though not that of the table.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};

use super::archive_files::ArchiveFiles;
use super::archive_meta::{ArchiveMeta, TableMeta, parse_meta};
use super::chunk_file::ChunkFile;
use super::delimited::{ByteStream, DelimitedReader, unique_names};
use super::error::IngestError;
use super::raw_batch::{MalformedLog, RawBatch, ReadContext};
use super::record_reader::{Event, RecordReader};
use super::window::Window;
use crate::model::UrlKey;

/// Columns of the core that every list gets: what the picture shows, whose data it is, and whether it
/// is of an organism or of a page (the `gbif` filter).
const CORE_COLUMNS: [&str; 3] = ["basisOfRecord", "scientificName", "datasetKey"];

/// `meta.xml` is read whole.
const MAX_META_BYTES: u64 = 16 << 20;

/// The name of the id where the archive gives it none; GBIF's archives never do.
const ID_COLUMN: &str = "gbifID";

pub(super) struct DarwinCoreReader {
    media: Table,
    core: Option<Table>,
    context: ReadContext,
    join: Option<Join>,
}

/// A table being read, and where in its rows the id stands.
struct Table {
    reader: DelimitedReader,
    id: usize,
    num_bytes: u64,
    constants: Vec<(String, String)>,
}

enum Join {
    /// There is no core table.
    None,
    InMemory(CoreRows),
    /// Parts of both tables with the same hashes of ids, the next one last.
    Parts {
        parts: Vec<(ChunkFile, ChunkFile)>,
        current: Option<(CoreRows, Box<dyn Iterator<Item = ChunkResult> + Send>)>,
    },
}

type ChunkResult = Result<RecordBatch, IngestError>;

impl DarwinCoreReader {
    pub(super) fn open(path: &Path, context: &ReadContext) -> Result<Self, IngestError> {
        let files = ArchiveFiles::new(path);
        let meta = match files.open("meta.xml", &Arc::default())? {
            Some((stream, _)) => {
                let mut xml = Vec::new();
                stream.take(MAX_META_BYTES).read_to_end(&mut xml).map_err(IngestError::read(path))?;
                parse_meta(&String::from_utf8_lossy(&xml)).map_err(|reason| files.error(reason))?
            }
            None => ArchiveMeta {
                core: TableMeta::gbif("occurrence.txt"),
                media: TableMeta::gbif("multimedia.txt"),
            },
        };
        let media = open_table(&files, &meta.media, context, |_| true)?
            .ok_or_else(|| files.error(format!("`{}` is missing", meta.media.location)))?;
        let names = media.reader.schema();
        let has = |name: &str| names.fields().iter().any(|field| field.name().eq_ignore_ascii_case(name));
        let wanted = |name: &str| {
            let named = context.wanted_columns.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
            (named || CORE_COLUMNS.contains(&name)) && !has(name)
        };
        let core = open_table(&files, &meta.core, context, wanted)?;
        Ok(Self { media, core, context: context.clone(), join: None })
    }

    pub(super) fn next_batch(
        &mut self,
        malformed: &mut MalformedLog,
    ) -> Result<Option<RawBatch>, IngestError> {
        let join = match self.join.take() {
            Some(join) => join,
            None => match self.core.take() {
                None => Join::None,
                Some(core) => start_join(core, &mut self.media, &self.context, malformed)?,
            },
        };
        let join = self.join.insert(join);
        match join {
            Join::None => self.media.next_batch(malformed),
            Join::InMemory(core) => {
                let Some(batch) = self.media.next_batch(malformed)? else { return Ok(None) };
                core.join(batch, self.media.id).map(Some)
            }
            Join::Parts { parts, current } => loop {
                if let Some((core, media)) = current {
                    if let Some(chunk) = media.next() {
                        return core.join(batch_from_chunk(&chunk?)?, self.media.id).map(Some);
                    }
                    *current = None;
                }
                let Some((mut core, mut media)) = parts.pop() else { return Ok(None) };
                let chunks = media.read()?;
                let core = CoreRows::new(core.read()?.collect::<Result<_, _>>()?)?;
                *current = Some((core, Box::new(chunks)));
            },
        }
    }
}

impl Table {
    fn next_batch(&mut self, malformed: &mut MalformedLog) -> Result<Option<RawBatch>, IngestError> {
        let Some(mut batch) = self.reader.next_batch(malformed)? else { return Ok(None) };
        if !self.constants.is_empty() {
            let num_rows = batch.rows.num_rows();
            let mut fields = batch.rows.schema_ref().fields().to_vec();
            let mut columns = batch.rows.columns().to_vec();
            for (name, value) in &self.constants {
                fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
                columns.push(Arc::new(StringArray::from_iter_values((0..num_rows).map(|_| value))));
            }
            batch.rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        }
        Ok(Some(batch))
    }
}

/// Opens a table with those of its columns that are wanted, and the id.
fn open_table(
    files: &ArchiveFiles,
    meta: &TableMeta,
    context: &ReadContext,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<Table>, IngestError> {
    let Some((stream, num_bytes)) = files.open(&meta.location, &context.meter)? else { return Ok(None) };
    let path = Path::new(&meta.location);
    let stream = decode(stream, &meta.encoding).map_err(|reason| files.error(reason))?;
    let mut records = RecordReader::new(Window::new(stream), meta.dialect(), context.max_row_bytes);
    let mut meta = meta.clone();
    if meta.fields.is_empty() {
        // No `meta.xml`: the header says it.
        if let Event::Record(header) = records.next(None).map_err(IngestError::read(path))? {
            let names = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned());
            meta.fields = names.enumerate().collect();
        }
        meta.header_lines = 0;
        meta.id = meta.fields.iter().find(|(_, name)| name == ID_COLUMN).map(|(field, _)| *field);
    }
    let id = meta.id.ok_or_else(|| files.error(format!("`{}` has no id", meta.location)))?;
    if !meta.fields.iter().any(|(field, _)| *field == id) {
        meta.fields.insert(0, (id, ID_COLUMN.to_owned()));
    }
    if meta.is_audubon() && meta.fields.iter().any(|(_, name)| name == "accessURI") {
        for (_, name) in &mut meta.fields {
            match name.as_str() {
                "identifier" => *name = "mediaIdentifier".to_owned(),
                "accessURI" => *name = "identifier".to_owned(),
                _ => {}
            }
        }
    }
    meta.fields.retain(|(field, name)| *field == id || wanted(name));
    let fields: Vec<usize> = meta.fields.iter().map(|(field, _)| *field).collect();
    let id = fields.iter().position(|field| *field == id).unwrap_or(0);
    let constants: Vec<(String, String)> =
        meta.constants.into_iter().filter(|(name, _)| wanted(name)).collect();
    let names = meta.fields.iter().map(|(_, name)| name).chain(constants.iter().map(|(name, _)| name));
    let mut names = unique_names(names);
    let constants =
        names.split_off(fields.len()).into_iter().zip(constants.into_iter().map(|(_, value)| value));
    let constants = constants.collect();
    let reader = DelimitedReader::with_columns(path, records, meta.header_lines, names, fields)?;
    Ok(Some(Table { reader, id, num_bytes, constants }))
}

/// Text in UTF-8 from text in the encoding that `meta.xml` names.
fn decode(stream: ByteStream, encoding: &str) -> Result<ByteStream, String> {
    match encoding.to_ascii_lowercase().as_str() {
        "" | "utf-8" | "utf8" | "us-ascii" | "ascii" => Ok(stream),
        "iso-8859-1" | "latin1" | "latin-1" | "iso8859-1" => {
            Ok(Box::new(Latin1 { stream, buffer: Vec::new() }))
        }
        _ => Err(format!("the encoding `{encoding}` is not read; UTF-8 and ISO-8859-1 are")),
    }
}

/// Each byte is the code point of that number.
struct Latin1 {
    stream: ByteStream,
    /// Decoded bytes that did not fit.
    buffer: Vec<u8>,
}

impl Read for Latin1 {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.buffer.is_empty() {
            let mut bytes = [0; 8192];
            let count = self.stream.read(&mut bytes)?;
            let text: String = bytes[..count].iter().map(|&byte| char::from(byte)).collect();
            self.buffer = text.into_bytes();
        }
        let count = self.buffer.len().min(to.len());
        to[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        Ok(count)
    }
}

/// Rows of the core, to be found by id. Of several rows with one id the first counts.
struct CoreRows {
    /// The id first, then the columns that are joined.
    rows: RecordBatch,
    by_id: HashMap<u128, u32>,
}

impl CoreRows {
    fn new(batches: Vec<RecordBatch>) -> Result<Self, IngestError> {
        let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let rows = concat_batches(&schema, &batches)?;
        let mut by_id = HashMap::with_capacity(rows.num_rows());
        if rows.num_columns() > 0 {
            for (row, id) in rows.column(0).as_string::<i32>().iter().enumerate() {
                if let Some(id) = id {
                    by_id.entry(hash(id)).or_insert(row as u32);
                }
            }
        }
        Ok(Self { rows, by_id })
    }

    /// Media rows with the columns of their core rows behind their own; nulls where there is none.
    fn join(&self, mut batch: RawBatch, id: usize) -> Result<RawBatch, IngestError> {
        let ids = batch.rows.column(id).as_string::<i32>().iter();
        let found: UInt32Array = ids.map(|id| self.by_id.get(&hash(id?)).copied()).collect();
        let mut fields = batch.rows.schema_ref().fields().to_vec();
        let mut columns: Vec<ArrayRef> = batch.rows.columns().to_vec();
        for (field, column) in self.rows.schema_ref().fields().iter().zip(self.rows.columns()).skip(1) {
            fields.push(Arc::clone(field));
            columns.push(take(column, &found, None)?);
        }
        batch.rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(batch)
    }
}

fn hash(id: &str) -> u128 {
    UrlKey::of_bytes(id.as_bytes()).0
}

/// Decides by the core's size, and spreads both tables if it is too large.
fn start_join(
    mut core: Table,
    media: &mut Table,
    context: &ReadContext,
    malformed: &mut MalformedLog,
) -> Result<Join, IngestError> {
    // The wanted columns are a tenth of a GBIF row; half of the memory leaves room for narrow cores.
    let num_parts = core.num_bytes.div_ceil((context.memory_bytes / 2).min(1 << 30)).clamp(1, 256);
    if num_parts == 1 {
        let mut batches = Vec::new();
        while let Some(batch) = core.next_batch(malformed)? {
            batches.push(id_first(&batch.rows, core.id)?);
        }
        return CoreRows::new(batches).map(Join::InMemory);
    }
    let folder = &context.temp_folder;
    let file = |name: &str, part: u64| ChunkFile::create(folder.join(format!("{name}-{part:03}")));
    let mut core_parts = (0..num_parts).map(|part| file("core", part)).collect::<Result<Vec<_>, _>>()?;
    while let Some(batch) = core.next_batch(malformed)? {
        spread(&id_first(&batch.rows, core.id)?, 0, &mut core_parts)?;
    }
    let mut media_parts = (0..num_parts).map(|part| file("media", part)).collect::<Result<Vec<_>, _>>()?;
    while let Some(batch) = media.next_batch(malformed)? {
        spread(&chunk_from_batch(batch)?, media.id, &mut media_parts)?;
    }
    let parts = core_parts.into_iter().zip(media_parts).rev().collect();
    Ok(Join::Parts { parts, current: None })
}

fn id_first(rows: &RecordBatch, id: usize) -> Result<RecordBatch, IngestError> {
    let others = (0..rows.num_columns()).filter(|&column| column != id);
    Ok(rows.project(&std::iter::once(id).chain(others).collect::<Vec<_>>())?)
}

/// Rows to the files of their ids; order stays within each.
fn spread(rows: &RecordBatch, id: usize, parts: &mut [ChunkFile]) -> Result<(), IngestError> {
    let mut indices = vec![Vec::new(); parts.len()];
    for (row, id) in rows.column(id).as_string::<i32>().iter().enumerate() {
        let part = hash(id.unwrap_or_default()) % parts.len() as u128;
        indices[part as usize].push(row as u32);
    }
    for (part, indices) in parts.iter_mut().zip(indices).filter(|(_, indices)| !indices.is_empty()) {
        part.push(&take_record_batch(rows, &UInt32Array::from(indices))?)?;
    }
    Ok(())
}

/// Columns behind the rows on disk: position, and whether any text of the row was not UTF-8.
fn chunk_from_batch(batch: RawBatch) -> Result<RecordBatch, IngestError> {
    let mut invalid = vec![false; batch.rows.num_rows()];
    for (row, _) in &batch.invalid_text {
        invalid[*row as usize] = true;
    }
    let mut fields = batch.rows.schema_ref().fields().to_vec();
    fields.push(Arc::new(Field::new("ingest:position", DataType::UInt64, false)));
    fields.push(Arc::new(Field::new("ingest:invalid", DataType::Boolean, false)));
    let mut columns = batch.rows.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from(batch.positions)));
    columns.push(Arc::new(BooleanArray::from(invalid)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The way back. In a row that had bad bytes, each cell with a replacement character counts as bad.
fn batch_from_chunk(chunk: &RecordBatch) -> Result<RawBatch, IngestError> {
    let num_columns = chunk.num_columns() - 2;
    let rows = chunk.project(&(0..num_columns).collect::<Vec<_>>())?;
    let positions = chunk.column(num_columns).as_primitive::<UInt64Type>().values().to_vec();
    let invalid = chunk.column(num_columns + 1).as_boolean();
    let mut invalid_text = Vec::new();
    for row in (0..rows.num_rows()).filter(|&row| invalid.value(row)) {
        for (index, column) in rows.columns().iter().enumerate() {
            if column.as_string::<i32>().value(row).contains('\u{fffd}') {
                invalid_text.push((row as u32, index as u32));
            }
        }
    }
    Ok(RawBatch { rows, positions, invalid_text })
}
