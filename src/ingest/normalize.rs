//! Rows of any list brought to one form: the leading columns, a server and a key, or a reason.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringArray, StringBuilder, UInt32Array, new_null_array,
};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::util::display::array_value_to_string;
use uuid::Uuid;

use super::error::IngestError;
use super::manifest_schema::{carried_columns, rows_schema};
use super::options::IngestOptions;
use super::raw_batch::RawBatch;
use super::report::ColumnUse;
use super::server_lookup::ServerLookup;
use super::source::{Binding, Header, Row, Source, Value};
use crate::model::{RecordState, ServerName, SkipReason, UrlKey};
use crate::storage::NOT_PROVIDED;

/// An input whose columns have a meaning.
#[derive(Clone, Debug)]
pub(super) struct BoundInput {
    /// Number of the input in the list of inputs.
    pub(super) index: u32,
    pub(super) path: PathBuf,
    binding: Arc<Binding>,
    from: SchemaRef,
    /// See `Header`.
    generations: Vec<usize>,
    carried: Vec<usize>,
    to: SchemaRef,
}

impl BoundInput {
    /// Says what the columns mean. With `may_grow`, a column that is required may be absent: the error is
    /// in its place, and is one if that column has not come by the end of the input.
    pub(super) fn new(
        index: u32,
        path: &Path,
        from: SchemaRef,
        may_grow: bool,
        source: &dyn Source,
        options: &IngestOptions,
    ) -> Result<(Self, Option<IngestError>), IngestError> {
        let generations = vec![from.fields().len()];
        Self::bind(index, path, from, generations, may_grow, source, options)
    }

    /// The same input with columns that appeared later: what is bound stays bound, and what was absent
    /// may be among them.
    pub(super) fn grown(
        &self,
        from: SchemaRef,
        source: &dyn Source,
        options: &IngestOptions,
    ) -> Result<(Self, Option<IngestError>), IngestError> {
        let mut generations = self.generations.clone();
        generations.push(from.fields().len());
        Self::bind(self.index, &self.path, from, generations, true, source, options)
    }

    pub(super) fn fits(&self, from: &SchemaRef) -> bool {
        self.from == *from
    }

    /// What the user should know of how the input is taken.
    pub(super) fn warning(&self) -> Option<&'static str> {
        self.binding.warning
    }

    /// Which columns became what.
    pub(super) fn column_use(&self) -> ColumnUse {
        let name = |column: usize| self.from.fields().get(column).map(|field| field.name().clone());
        let value = |value: Value| match value {
            Value::Null => None,
            Value::Column(column) => name(column),
            Value::Literal(text) => Some(format!("'{text}'")),
        };
        let binding = &self.binding;
        let carried = &self.to.fields()[self.to.fields().len() - self.carried.len()..];
        ColumnUse {
            path: self.path.clone(),
            num_inputs: 1,
            url: binding.url.iter().filter_map(|&column| name(column)).collect(),
            id: binding.source_id.and_then(name),
            label: value(binding.label),
            license: value(binding.license),
            source: value(binding.source),
            title: value(binding.title),
            uuid: binding.uuid.and_then(name),
            carried: carried.iter().map(|field| field.name().clone()).collect(),
        }
    }

    fn bind(
        index: u32,
        path: &Path,
        from: SchemaRef,
        generations: Vec<usize>,
        may_grow: bool,
        source: &dyn Source,
        options: &IngestOptions,
    ) -> Result<(Self, Option<IngestError>), IngestError> {
        let header = if may_grow {
            Header::growing(path, &from, generations.clone())
        } else {
            Header::new(path, &from)
        };
        let binding = Arc::new(source.bind(&header, options)?);
        let missing = header.into_missing();
        let carried = carried_columns(&from, |column| binding.is_used(column));
        let fields = carried
            .iter()
            .map(|(column, name)| Field::new(name, from.field(*column).data_type().clone(), true));
        let to = rows_schema(fields);
        let carried = carried.into_iter().map(|(column, _)| column).collect();
        let path = path.to_owned();
        Ok((Self { index, path, binding, from, generations, carried, to }, missing))
    }
}

/// Rows on their way to the partitions of one bucket.
#[derive(Clone, Debug)]
pub(super) struct NormalRows {
    /// Leading and carried columns.
    pub(super) rows: RecordBatch,
    /// For each row: a server's number (in the batch, later in the ingest).
    pub(super) servers: Vec<u32>,
    pub(super) keys: Vec<UrlKey>,
    pub(super) states: Vec<RecordState>,
    /// Line or row in the input file.
    pub(super) positions: Vec<u64>,
}

/// A batch after normalisation.
#[derive(Debug)]
pub(super) struct NormalBatch {
    /// Which input it comes from.
    pub(super) input: u32,
    pub(super) num_rows: u64,
    pub(super) server_names: Vec<ServerName>,
    /// Rows by bucket, in ascending order of buckets, input order within each.
    pub(super) buckets: Vec<(u32, NormalRows)>,
    pub(super) filtered: BTreeMap<&'static str, u64>,
    /// Rows whose `uuid` is none.
    pub(super) bad_uuids: u64,
}

/// What normalisation needs to know beside the rows.
#[derive(Debug)]
pub(super) struct Normalizer {
    pub(super) max_url_bytes: usize,
    /// Their records are skipped.
    pub(super) ignored_servers: HashSet<ServerName>,
    /// Their rows are left out.
    pub(super) excluded_servers: HashSet<ServerName>,
}

impl Normalizer {
    /// `bucket_of` tells the bucket of a server.
    pub(super) fn normalize(
        &self,
        raw: &RawBatch,
        input: &BoundInput,
        bucket_of: impl Fn(&ServerName) -> u32,
    ) -> Result<NormalBatch, IngestError> {
        let urls = UrlColumns::new(raw, &input.binding)?;
        let mut filtered = BTreeMap::new();
        let judged = self.judge(raw, &input.binding, &urls, &mut filtered);
        let (rows, bad_uuids) = lead_columns(raw, input, &urls, &judged)?;
        let server_names = judged.lookup.into_names();
        let buckets = split(&rows, &judged.kept, &raw.positions, &server_names, bucket_of)?;
        Ok(NormalBatch {
            input: input.index,
            num_rows: raw.rows.num_rows() as u64,
            server_names,
            buckets,
            filtered,
            bad_uuids,
        })
    }

    fn judge<'a>(
        &self,
        raw: &RawBatch,
        binding: &Binding,
        urls: &'a UrlColumns,
        filtered: &mut BTreeMap<&'static str, u64>,
    ) -> Judged<'a> {
        let mut lookup = ServerLookup::default();
        let mut kept = Vec::with_capacity(raw.rows.num_rows());
        for row in 0..raw.rows.num_rows() {
            if let Some(reason) = binding.filter.as_ref().and_then(|filter| filter(&Row::new(&raw.rows, row)))
            {
                *filtered.entry(reason).or_default() += 1;
                continue;
            }
            let (text, is_valid) = urls.text(row);
            let server =
                if is_valid { lookup.find(text, self.max_url_bytes) } else { Err(SkipReason::BadUtf8) };
            let (server, state, key) = match server {
                Ok(server) => {
                    let name = &lookup.names()[server as usize];
                    if self.excluded_servers.contains(name) {
                        *filtered.entry("excluded_server").or_default() += 1;
                        continue;
                    }
                    let state = if self.ignored_servers.contains(name) {
                        RecordState::Skipped(SkipReason::IgnoredServer)
                    } else {
                        RecordState::Pending
                    };
                    (server, state, UrlKey::of_bytes(text.as_bytes()))
                }
                Err(reason) => {
                    let null = lookup.number(ServerName::from_catalog(ServerName::NULL));
                    (null, RecordState::Skipped(reason), row_key(raw, binding, urls, row, reason))
                }
            };
            kept.push(KeptRow { row: row as u32, server, key, state, is_url: server_has_url(state) });
        }
        Judged { lookup, kept }
    }
}

/// Whether a record in this state has a usable URL, so that its key is that of the URL.
fn server_has_url(state: RecordState) -> bool {
    matches!(state, RecordState::Pending | RecordState::Skipped(SkipReason::IgnoredServer))
}

struct Judged<'a> {
    lookup: ServerLookup<'a>,
    kept: Vec<KeptRow>,
}

struct KeptRow {
    row: u32,
    server: u32,
    key: UrlKey,
    state: RecordState,
    is_url: bool,
}

/// The URL columns of a batch as text.
struct UrlColumns {
    columns: Vec<StringArray>,
    /// Cells that were not UTF-8: row and place in `columns`, and the key of their bytes. Nearly always
    /// none.
    invalid: HashMap<(u32, usize), UrlKey>,
}

impl UrlColumns {
    fn new(raw: &RawBatch, binding: &Binding) -> Result<Self, IngestError> {
        let columns = binding.url.iter().map(|&column| text_column(&raw.rows, column));
        let columns = columns.map(|column| column.map(|column| column.as_string().clone()));
        let place = |column: u32| binding.url.iter().position(|&url| url == column as usize);
        let invalid =
            raw.invalid_text.iter().filter_map(|cell| Some(((cell.row, place(cell.column)?), cell.key)));
        Ok(Self { columns: columns.collect::<Result<_, IngestError>>()?, invalid: invalid.collect() })
    }

    /// The first that is not null, without white space at its ends, and whether it was UTF-8.
    fn text(&self, row: usize) -> (&str, bool) {
        let Some(place) = self.columns.iter().position(|column| column.is_valid(row)) else {
            return ("", true);
        };
        let is_valid = self.invalid.is_empty() || !self.invalid.contains_key(&(row as u32, place));
        (self.columns[place].value(row).trim_ascii(), is_valid)
    }

    /// The key of the bytes that `text` of the row was made from, if they were not UTF-8.
    fn invalid_key(&self, row: usize) -> Option<UrlKey> {
        let place = self.columns.iter().position(|column| column.is_valid(row))?;
        self.invalid.get(&(row as u32, place)).copied()
    }

    /// `identifier`: the one column as it is, if that is what the records say.
    fn identifier(&self, num_rows: usize) -> ArrayRef {
        let is_trimmed = |column: &StringArray| {
            let mut values = column.iter().flatten();
            values.all(|value| value.trim_ascii().len() == value.len())
        };
        if let [column] = &self.columns[..]
            && is_trimmed(column)
        {
            return Arc::new(column.clone());
        }
        let is_null = |row| self.columns.iter().all(|column| column.is_null(row));
        let values = (0..num_rows).map(|row| (!is_null(row)).then(|| self.text(row).0));
        Arc::new(values.collect::<StringArray>())
    }
}

/// The leading columns and the carried ones, for all rows of the batch.
fn lead_columns(
    raw: &RawBatch,
    input: &BoundInput,
    urls: &UrlColumns,
    judged: &Judged<'_>,
) -> Result<(RecordBatch, u64), IngestError> {
    let num_rows = raw.rows.num_rows();
    let binding = &input.binding;
    let value = |value: Value| match value {
        Value::Null => Ok(new_null_array(&DataType::Utf8, num_rows)),
        Value::Column(column) => text_column(&raw.rows, column),
        Value::Literal(text) => {
            Ok(Arc::new(StringArray::from_iter_values((0..num_rows).map(|_| text))) as ArrayRef)
        }
    };
    let (uuids, bad_uuids) = uuid_column(raw, binding, urls, judged)?;
    let mut columns = vec![
        uuids,
        value(binding.source_id.map_or(Value::Null, Value::Column))?,
        urls.identifier(num_rows),
        provided(value(binding.license)?),
        provided(value(binding.source)?),
        provided(value(binding.title)?),
        value(binding.label)?,
    ];
    columns.extend(input.carried.iter().map(|&column| Arc::clone(raw.rows.column(column))));
    Ok((RecordBatch::try_new(Arc::clone(&input.to), columns)?, bad_uuids))
}

/// The text without what our own files and distributed-downloader's say where a list has given nothing, so that a
/// list made from them gives nothing either.
fn provided(column: ArrayRef) -> ArrayRef {
    let text = column.as_string::<i32>();
    if !text.iter().any(|value| value == Some(NOT_PROVIDED)) {
        return column;
    }
    Arc::new(text.iter().map(|value| value.filter(|value| *value != NOT_PROVIDED)).collect::<StringArray>())
}

/// The input's UUID where it has one, else made from the URL; for a record without a URL, from its
/// key, so that it is the same in every ingest. Also the number of rows where the input has something that
/// is no UUID: taken over, many records could be called `N/A`.
fn uuid_column(
    raw: &RawBatch,
    binding: &Binding,
    urls: &UrlColumns,
    judged: &Judged<'_>,
) -> Result<(ArrayRef, u64), IngestError> {
    let num_rows = raw.rows.num_rows();
    let given = binding.uuid.map(|column| text_column(&raw.rows, column)).transpose()?;
    let given = given.as_ref().map(|column| column.as_string::<i32>());
    let mut builder = StringBuilder::with_capacity(num_rows, num_rows * uuid::fmt::Hyphenated::LENGTH);
    let mut buffer = Uuid::encode_buffer();
    let (mut next_row, mut bad_uuids) = (0, 0);
    for kept in &judged.kept {
        let row = kept.row as usize;
        // Rows that are left out never leave this batch.
        builder.append_nulls(row - next_row);
        next_row = row + 1;
        let given = given.filter(|column| column.is_valid(row)).map(|column| column.value(row).trim_ascii());
        let given = given.filter(|uuid| !uuid.is_empty());
        match given {
            Some(uuid) if Uuid::try_parse(uuid).is_ok() => builder.append_value(uuid),
            _ => {
                bad_uuids += u64::from(given.is_some());
                let uuid = if kept.is_url {
                    Uuid::new_v5(&Uuid::NAMESPACE_URL, urls.text(row).0.as_bytes())
                } else {
                    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{:032x}", kept.key.0).as_bytes())
                };
                builder.append_value(uuid.hyphenated().encode_lower(&mut buffer));
            }
        }
    }
    builder.append_nulls(num_rows - next_row);
    Ok((Arc::new(builder.finish()), bad_uuids))
}

fn text_column(rows: &RecordBatch, column: usize) -> Result<ArrayRef, IngestError> {
    let Some(column) = rows.columns().get(column) else {
        return Ok(new_null_array(&DataType::Utf8, rows.num_rows()));
    };
    Ok(if *column.data_type() == DataType::Utf8 {
        Arc::clone(column)
    } else {
        cast(column, &DataType::Utf8)?
    })
}

/// Key of a row without a usable URL: its `source_id`, what stands in place of the URL (as bytes), and
/// the reason. A newer list has the same record, whatever else it says of it. A row that has neither is
/// the same record if names and values of all its columns that are not null are the same.
fn row_key(raw: &RawBatch, binding: &Binding, urls: &UrlColumns, row: usize, reason: SkipReason) -> UrlKey {
    let (rows, url) = (&raw.rows, urls.text(row).0);
    let value = |column: &ArrayRef| column.is_valid(row).then(|| array_value_to_string(column, row).ok())?;
    let source_id = binding.source_id.and_then(|column| value(rows.columns().get(column)?));
    let source_id = source_id.filter(|id| !id.is_empty());
    let mut text = Vec::new();
    if source_id.is_none() && url.is_empty() {
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if let Some(value) = value(column) {
                push_pair(&mut text, field.name(), value.as_bytes());
            }
        }
    } else {
        push_pair(&mut text, "source_id", source_id.unwrap_or_default().as_bytes());
        match urls.invalid_key(row) {
            Some(key) => push_pair(&mut text, "bytes", &key.0.to_le_bytes()),
            None => push_pair(&mut text, "url", url.as_bytes()),
        }
        push_pair(&mut text, "reason", reason.as_str().as_bytes());
    }
    UrlKey::of_bytes(&text)
}

fn push_pair(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.push(0x1f);
    text.extend_from_slice(value);
    text.push(0x1e);
}

/// Sorts the kept rows by bucket, stably.
fn split(
    rows: &RecordBatch,
    kept: &[KeptRow],
    positions: &[u64],
    server_names: &[ServerName],
    bucket_of: impl Fn(&ServerName) -> u32,
) -> Result<Vec<(u32, NormalRows)>, IngestError> {
    let bucket_of: Vec<u32> = server_names.iter().map(bucket_of).collect();
    let mut order: Vec<(u32, u32)> =
        kept.iter().enumerate().map(|(at, kept)| (bucket_of[kept.server as usize], at as u32)).collect();
    order.sort_unstable();
    let mut buckets = Vec::new();
    for group in order.chunk_by(|a, b| a.0 == b.0) {
        let of_group = || group.iter().map(|&(_, at)| &kept[at as usize]);
        let indices = UInt32Array::from_iter_values(of_group().map(|kept| kept.row));
        let rows = NormalRows {
            rows: take_record_batch(rows, &indices)?,
            servers: of_group().map(|kept| kept.server).collect(),
            keys: of_group().map(|kept| kept.key).collect(),
            states: of_group().map(|kept| kept.state).collect(),
            positions: of_group().map(|kept| positions[kept.row as usize]).collect(),
        };
        buckets.push((group[0].0, rows));
    }
    Ok(buckets)
}
