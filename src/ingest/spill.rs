//! Rows between reading and writing: in buckets by server, in memory up to a limit, then on disk.
//!
//! All rows of a folder are in one bucket, in input order, so a bucket can be searched for duplicates
//! and cut into partitions by itself. The keys lie in a file of their own: duplicates are found
//! without reading the rows.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use arrow::error::ArrowError;

use super::chunk_file::ChunkFile;
use super::error::IngestError;
use super::manifest_schema::adapt;
use super::normalize::NormalRows;
use crate::model::{ServerName, UrlKey};

/// Many, so that a bucket (but for its largest server) is small; few, so that each has large chunks. Not to be
/// changed, nor is [`bucket_of`]: the servers of a shared folder have one bucket, in every later ingest as well.
pub(super) const NUM_BUCKETS: u32 = 64;

/// The bucket of a server's rows, whatever folder they go to.
pub(super) fn bucket_of(server: &ServerName) -> u32 {
    (UrlKey::of_bytes(server.as_str().as_bytes()).0 % u128::from(NUM_BUCKETS)) as u32
}

/// Columns in front of the rows: server, input, position, state.
const PREFIX: usize = 4;

/// Rows of one bucket, in input order.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) servers: UInt32Array,
    pub(super) inputs: UInt32Array,
    pub(super) positions: UInt64Array,
    /// `RecordState::to_byte`.
    pub(super) states: UInt8Array,
    pub(super) keys: Vec<UrlKey>,
    pub(super) rows: RecordBatch,
}

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    path: PathBuf,
    pub(super) num_rows: u64,
    waiting: Vec<RecordBatch>,
    waiting_keys: Vec<UrlKey>,
    waiting_bytes: usize,
    spilled: Option<(ChunkFile, KeyFile)>,
}

impl Bucket {
    pub(super) fn new(temp_folder: &Path, number: u32) -> Self {
        Self {
            path: temp_folder.join(format!("bucket-{number:02}")),
            num_rows: 0,
            waiting: Vec::new(),
            waiting_keys: Vec::new(),
            waiting_bytes: 0,
            spilled: None,
        }
    }

    /// Adds rows of an input; spills when more than `max_bytes` wait in memory. `schema` is the union
    /// of all rows so far.
    pub(super) fn push(
        &mut self,
        input: u32,
        rows: NormalRows,
        schema: &SchemaRef,
        max_bytes: usize,
    ) -> Result<(), IngestError> {
        self.num_rows += rows.keys.len() as u64;
        self.waiting_bytes += rows.keys.len() * size_of::<UrlKey>();
        self.waiting_keys.extend_from_slice(&rows.keys);
        let rows = with_prefix(input, rows)?;
        self.waiting_bytes += num_bytes(&rows);
        self.waiting.push(rows);
        if self.waiting_bytes > max_bytes { self.spill(schema) } else { Ok(()) }
    }

    fn spill(&mut self, schema: &SchemaRef) -> Result<(), IngestError> {
        let waiting = std::mem::take(&mut self.waiting);
        let prefixed = prefix_schema(schema);
        let waiting = waiting.iter().map(|rows| {
            let payload = payload(rows, schema)?;
            let columns = [&rows.columns()[..PREFIX], payload.columns()].concat();
            RecordBatch::try_new(Arc::clone(&prefixed), columns)
        });
        let waiting = waiting.collect::<Result<Vec<_>, _>>()?;
        let (chunks, keys) = match &mut self.spilled {
            Some(files) => files,
            none => {
                let chunks = ChunkFile::create(self.path.with_extension("rows"))?;
                none.insert((chunks, KeyFile::create(self.path.with_extension("keys"))?))
            }
        };
        chunks.push(&concat_batches(&prefixed, &waiting)?)?;
        keys.push(&self.waiting_keys)?;
        self.waiting_keys.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Goes through the keys of all rows in order.
    pub(super) fn for_each_key(&mut self, each: &mut dyn FnMut(UrlKey)) -> Result<(), IngestError> {
        if let Some((_, keys)) = &mut self.spilled {
            keys.read()?.for_each(each)?;
        }
        self.waiting_keys.iter().copied().for_each(each);
        Ok(())
    }

    /// Goes through all rows in order, brought to `schema`.
    pub(super) fn for_each_chunk(
        &mut self,
        schema: &SchemaRef,
        mut each: impl FnMut(Chunk) -> Result<(), IngestError>,
    ) -> Result<(), IngestError> {
        if let Some((chunks, keys)) = &mut self.spilled {
            let mut keys = keys.read()?;
            for rows in chunks.read()? {
                let rows = rows?;
                let keys = keys.take(rows.num_rows())?;
                each(without_prefix(&rows, keys, schema)?)?;
            }
        }
        let mut keys = self.waiting_keys.iter().copied();
        for rows in &self.waiting {
            let keys = keys.by_ref().take(rows.num_rows()).collect();
            each(without_prefix(rows, keys, schema)?)?;
        }
        Ok(())
    }
}

/// What a column of a batch costs beside its values: the array and its buffers' own headers.
const COLUMN_BYTES: usize = 256;

/// Bytes of the values, whatever buffers hold them, and of the columns that do: the same for the same
/// rows.
pub(super) fn num_bytes(rows: &RecordBatch) -> usize {
    // The size of a slice cannot be told only for types that do not occur here.
    let values = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    rows.columns().iter().map(|column| COLUMN_BYTES + values(column)).sum()
}

fn prefix_schema(rows: &Schema) -> SchemaRef {
    let prefix = [
        Field::new("ingest:server", DataType::UInt32, false),
        Field::new("ingest:input", DataType::UInt32, false),
        Field::new("ingest:position", DataType::UInt64, false),
        Field::new("ingest:state", DataType::UInt8, false),
    ];
    let fields = prefix.into_iter().map(Arc::new).chain(rows.fields().iter().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn with_prefix(input: u32, rows: NormalRows) -> Result<RecordBatch, IngestError> {
    let num_rows = rows.servers.len();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(rows.servers)),
        Arc::new(UInt32Array::from(vec![input; num_rows])),
        Arc::new(UInt64Array::from(rows.positions)),
        Arc::new(UInt8Array::from_iter_values(rows.states.iter().map(|state| state.to_byte()))),
    ];
    columns.extend_from_slice(rows.rows.columns());
    Ok(RecordBatch::try_new(prefix_schema(rows.rows.schema_ref()), columns)?)
}

/// The columns behind the prefix, brought to `schema`. They are told by their place: a list may have a
/// column of a name that the prefix has.
fn payload(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    adapt(&rows.project(&(PREFIX..rows.num_columns()).collect::<Vec<_>>())?, schema)
}

fn without_prefix(rows: &RecordBatch, keys: Vec<UrlKey>, schema: &SchemaRef) -> Result<Chunk, IngestError> {
    Ok(Chunk {
        servers: rows.column(0).as_primitive::<UInt32Type>().clone(),
        inputs: rows.column(1).as_primitive::<UInt32Type>().clone(),
        positions: rows.column(2).as_primitive::<UInt64Type>().clone(),
        states: rows.column(3).as_primitive::<UInt8Type>().clone(),
        keys,
        rows: payload(rows, schema)?,
    })
}

/// Keys on disk, 16 bytes each; removed with it.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    file: BufWriter<File>,
    num_keys: u64,
}

impl KeyFile {
    fn create(path: PathBuf) -> Result<Self, IngestError> {
        let file = File::create(&path).map_err(IngestError::write(&path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file), path, num_keys: 0 })
    }

    fn push(&mut self, keys: &[UrlKey]) -> Result<(), IngestError> {
        for key in keys {
            self.file.write_all(&key.0.to_le_bytes()).map_err(IngestError::write(&self.path))?;
        }
        self.num_keys += keys.len() as u64;
        Ok(())
    }

    fn read(&mut self) -> Result<KeyReader, IngestError> {
        self.file.flush().map_err(IngestError::write(&self.path))?;
        let file = File::open(&self.path).map_err(IngestError::read(&self.path))?;
        let reader = BufReader::with_capacity(1 << 18, file);
        Ok(KeyReader { path: self.path.clone(), reader, left: self.num_keys })
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

struct KeyReader {
    path: PathBuf,
    reader: BufReader<File>,
    left: u64,
}

impl KeyReader {
    fn next(&mut self) -> Result<UrlKey, IngestError> {
        let mut bytes = [0; 16];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|source| IngestError::Read { path: self.path.clone(), source })?;
        self.left -= 1;
        Ok(UrlKey(u128::from_le_bytes(bytes)))
    }

    fn take(&mut self, count: usize) -> Result<Vec<UrlKey>, IngestError> {
        (0..count).map(|_| self.next()).collect()
    }

    fn for_each(&mut self, each: &mut dyn FnMut(UrlKey)) -> Result<(), IngestError> {
        while self.left > 0 {
            each(self.next()?);
        }
        Ok(())
    }
}
