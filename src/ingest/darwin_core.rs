//! Darwin Core Archives: the table of media, each row with some columns of its occurrence.
//!
//! Media are joined with the core by its id. If the core's wanted columns fit into memory, they are
//! held there and media are read in order. Else both tables are first spread over files by a hash of
//! the id, small enough that the core's share of each fits, and joined file by file: the order of rows
//! is then that of the files, which is as stable, though not that of the table.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::vec;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};

use super::archive_files::ArchiveFiles;
use super::archive_meta::{ArchiveMeta, TableMeta, parse_meta};
use super::chunk_file::ChunkFile;
use super::delimited::{ByteStream, DelimitedReader, skip_byte_order_mark, unique_names};
use super::error::IngestError;
use super::raw_batch::{InvalidCell, MalformedLog, RawBatch, ReadContext, check_num_columns};
use super::record_reader::{Event, FieldCount, RecordReader};
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

/// A table being read: file by file.
struct Table {
    file: DelimitedReader,
    /// Those that follow.
    files: vec::IntoIter<String>,
    layout: TableLayout,
    /// Of all files together.
    num_bytes: u64,
}

/// What the files of a table have in common.
struct TableLayout {
    archive: ArchiveFiles,
    context: ReadContext,
    meta: TableMeta,
    /// Fields that a record must have for all that are declared.
    num_declared: usize,
    /// Fields that are taken, and their names.
    fields: Vec<usize>,
    names: Vec<String>,
    /// Which of these is the id.
    id: usize,
    /// Columns with one value throughout, behind the others.
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
    pub(super) fn open(archive: ArchiveFiles, context: &ReadContext) -> Result<Self, IngestError> {
        let meta = match archive.open("meta.xml", &Arc::default())? {
            Some((stream, _)) => {
                let mut xml = Vec::new();
                let path = archive.name_of("meta.xml");
                stream.take(MAX_META_BYTES).read_to_end(&mut xml).map_err(IngestError::read(&path))?;
                parse_meta(&String::from_utf8_lossy(&xml)).map_err(|reason| archive.error(reason))?
            }
            None => ArchiveMeta {
                core: TableMeta::gbif("occurrence.txt"),
                media: TableMeta::gbif("multimedia.txt"),
            },
        };
        let missing = archive.error("the file of its table of media is missing");
        let media = open_table(&archive, meta.media, context, |_| true)?.ok_or(missing)?;
        let wanted = |name: &str| {
            let named = context.wanted_columns.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
            (named || CORE_COLUMNS.contains(&name)) && !media.layout.has_column(name)
        };
        let core = open_table(&archive, meta.core, context, wanted)?;
        let core_columns = core.as_ref().map_or(0, |core| core.layout.num_columns());
        check_num_columns(archive.name(), media.layout.num_columns() + core_columns)?;
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
                core.join(batch, self.media.layout.id).map(Some)
            }
            Join::Parts { parts, current } => loop {
                if let Some((core, media)) = current {
                    if let Some(chunk) = media.next() {
                        return core.join(batch_from_chunk(&chunk?)?, self.media.layout.id).map(Some);
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
        loop {
            if let Some(batch) = self.file.next_batch(malformed)? {
                return self.layout.add_constants(batch).map(Some);
            }
            let Some(next) = self.files.next() else { return Ok(None) };
            let records =
                self.layout.open(&next)?.ok_or_else(|| self.layout.archive.error(missing(&next)))?;
            self.file = self.layout.read(&next, records)?;
        }
    }
}

impl TableLayout {
    fn new(
        archive: &ArchiveFiles,
        context: &ReadContext,
        mut meta: TableMeta,
        id: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        if !meta.fields.iter().any(|(field, _)| *field == id) {
            meta.fields.insert(0, (id, ID_COLUMN.to_owned()));
        }
        let num_declared = meta.fields.iter().map(|(field, _)| field + 1).max().unwrap_or(0);
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
        meta.constants.retain(|(name, _)| wanted(name));
        let fields: Vec<usize> = meta.fields.iter().map(|(field, _)| *field).collect();
        let id = fields.iter().position(|field| *field == id).unwrap_or(0);
        let constants = std::mem::take(&mut meta.constants);
        let names = meta.fields.iter().map(|(_, name)| name).chain(constants.iter().map(|(name, _)| name));
        let mut names = unique_names(names);
        let constant_names = names.split_off(fields.len());
        let constants =
            constant_names.into_iter().zip(constants.into_iter().map(|(_, value)| value)).collect();
        let (archive, context) = (archive.clone(), context.clone());
        Self { archive, context, meta, num_declared, fields, names, id, constants }
    }

    fn open(&self, file: &str) -> Result<Option<RecordReader<ByteStream>>, IngestError> {
        open_records(&self.archive, file, &self.meta, &self.context)
    }

    /// Reads a file, whose header tells how many fields its records have. If it has none, or one that
    /// lacks declared fields, it cannot: then records may have any fields behind those.
    fn read(
        &self,
        file: &str,
        mut records: RecordReader<ByteStream>,
    ) -> Result<DelimitedReader, IngestError> {
        let path = self.archive.name_of(file);
        let in_header = records.skip_header(self.meta.header_lines).map_err(IngestError::read(&path))?;
        let num_fields = match in_header {
            Some(count) if count >= self.num_declared => FieldCount::Exactly(count),
            _ => FieldCount::AtLeast(self.num_declared),
        };
        DelimitedReader::with_columns(&path, records, self.names.clone(), self.fields.clone(), num_fields)
    }

    fn add_constants(&self, mut batch: RawBatch) -> Result<RawBatch, IngestError> {
        if self.constants.is_empty() {
            return Ok(batch);
        }
        let num_rows = batch.rows.num_rows();
        let mut fields = batch.rows.schema_ref().fields().to_vec();
        let mut columns = batch.rows.columns().to_vec();
        for (name, value) in &self.constants {
            fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
            columns.push(Arc::new(StringArray::from_iter_values((0..num_rows).map(|_| value))));
        }
        batch.rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(batch)
    }

    fn has_column(&self, name: &str) -> bool {
        let mut names = self.names.iter().chain(self.constants.iter().map(|(name, _)| name));
        names.any(|column| column.eq_ignore_ascii_case(name))
    }

    fn num_columns(&self) -> usize {
        self.names.len() + self.constants.len()
    }
}

fn missing(file: &str) -> String {
    format!("`{file}` is missing")
}

/// Opens a table with those of its columns that are wanted, and the id; `None` if there is no such file.
fn open_table(
    archive: &ArchiveFiles,
    mut meta: TableMeta,
    context: &ReadContext,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<Table>, IngestError> {
    let mut files = std::mem::take(&mut meta.locations).into_iter();
    let first = files.next().unwrap_or_default();
    let Some(mut records) = open_records(archive, &first, &meta, context)? else { return Ok(None) };
    let mut num_bytes = 0;
    for file in std::iter::once(&first).chain(files.as_slice()) {
        let opened = archive.open(file, &Arc::default())?;
        num_bytes += opened.map(|(_, length)| length).ok_or_else(|| archive.error(missing(file)))?;
    }
    if meta.fields.is_empty() {
        // No `meta.xml`: the header says it.
        let path = archive.name_of(&first);
        if let Event::Record(header) = records.next(FieldCount::Any).map_err(IngestError::read(&path))? {
            let names = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned());
            meta.fields = names.enumerate().collect();
        }
        meta.id = meta.fields.iter().find(|(_, name)| name == ID_COLUMN).map(|(field, _)| *field);
        records =
            open_records(archive, &first, &meta, context)?.ok_or_else(|| archive.error(missing(&first)))?;
    }
    let id = meta.id.ok_or_else(|| archive.error(format!("`{first}` has no id")))?;
    let layout = TableLayout::new(archive, context, meta, id, wanted);
    let file = layout.read(&first, records)?;
    Ok(Some(Table { file, files, layout, num_bytes }))
}

fn open_records(
    archive: &ArchiveFiles,
    file: &str,
    meta: &TableMeta,
    context: &ReadContext,
) -> Result<Option<RecordReader<ByteStream>>, IngestError> {
    let Some((stream, _)) = archive.open(file, &context.meter)? else { return Ok(None) };
    let stream = decode(stream, &meta.encoding).map_err(|reason| archive.error(reason))?;
    let mut window = Window::new(stream);
    skip_byte_order_mark(&archive.name_of(file), &mut window)?;
    Ok(Some(RecordReader::new(window, meta.dialect(), context.max_row_bytes)))
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
            batches.push(id_first(&batch.rows, core.layout.id)?);
        }
        return CoreRows::new(batches).map(Join::InMemory);
    }
    let folder = &context.temp_folder;
    let file = |name: &str, part: u64| ChunkFile::create(folder.join(format!("{name}-{part:03}")));
    let mut core_parts = (0..num_parts).map(|part| file("core", part)).collect::<Result<Vec<_>, _>>()?;
    while let Some(batch) = core.next_batch(malformed)? {
        spread(&id_first(&batch.rows, core.layout.id)?, 0, &mut core_parts)?;
    }
    let mut media_parts = (0..num_parts).map(|part| file("media", part)).collect::<Result<Vec<_>, _>>()?;
    while let Some(batch) = media.next_batch(malformed)? {
        spread(&chunk_from_batch(batch)?, media.layout.id, &mut media_parts)?;
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

/// Columns behind the rows on disk: position, and the cells of the row whose text was not UTF-8.
fn chunk_from_batch(batch: RawBatch) -> Result<RecordBatch, IngestError> {
    let mut invalid: Vec<Vec<u8>> = vec![Vec::new(); batch.rows.num_rows()];
    for cell in &batch.invalid_text {
        let of_row = &mut invalid[cell.row as usize];
        of_row.extend(cell.column.to_le_bytes());
        of_row.extend(cell.key.0.to_le_bytes());
    }
    let mut fields = batch.rows.schema_ref().fields().to_vec();
    fields.push(Arc::new(Field::new("ingest:position", DataType::UInt64, false)));
    fields.push(Arc::new(Field::new("ingest:invalid", DataType::Binary, false)));
    let mut columns = batch.rows.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from(batch.positions)));
    columns.push(Arc::new(BinaryArray::from_iter_values(invalid)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The way back.
fn batch_from_chunk(chunk: &RecordBatch) -> Result<RawBatch, IngestError> {
    let num_columns = chunk.num_columns() - 2;
    let rows = chunk.project(&(0..num_columns).collect::<Vec<_>>())?;
    let positions = chunk.column(num_columns).as_primitive::<UInt64Type>().values().to_vec();
    let invalid = chunk.column(num_columns + 1).as_binary::<i32>();
    let mut invalid_text = Vec::new();
    for row in 0..rows.num_rows() as u32 {
        let mut of_row = invalid.value(row as usize);
        while let Some((column, rest)) = of_row.split_first_chunk() {
            let Some((key, rest)) = rest.split_first_chunk() else { break };
            let key = UrlKey(u128::from_le_bytes(*key));
            invalid_text.push(InvalidCell { row, column: u32::from_le_bytes(*column), key });
            of_row = rest;
        }
    }
    Ok(RawBatch { rows, positions, invalid_text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_utf8_is_known_after_a_while_on_disk() {
        let names = ["a", "b"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec();
        let text = || Arc::new(StringArray::from(vec!["\u{fffd}"; 3])) as ArrayRef;
        let rows = RecordBatch::try_new(Arc::new(Schema::new(names)), vec![text(), text()]).unwrap();
        let cell = |row, column, bytes: &[u8]| InvalidCell { row, column, key: UrlKey::of_bytes(bytes) };
        let invalid_text = vec![cell(0, 1, b"\xff"), cell(2, 0, b"\xfe"), cell(2, 1, b"\xfd")];
        let batch = RawBatch { rows, positions: vec![4, 5, 7], invalid_text: invalid_text.clone() };
        let back = batch_from_chunk(&chunk_from_batch(batch).unwrap()).unwrap();
        assert_eq!((back.invalid_text, back.positions), (invalid_text, vec![4, 5, 7]));
        assert_eq!(back.rows.num_columns(), 2);
    }
}
