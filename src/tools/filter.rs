//! The first stage: what a tool chose, as a table.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array as _, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use parquet::file::metadata::ParquetMetaDataReader;

use super::run::{damaged, read};
use super::{Selects, ToolError};
use crate::model::{DataFile, ServerName};
use crate::query::QuerySession;
use crate::storage::{CsvFile, TableWriter, successes_schema};

/// Images of a slice of the dataset that is filtered at once: bounds what is sorted.
const SLICE_IMAGES: u64 = 1_000_000;

/// Rows that are read at a time when damage is looked for.
const READ_ROWS: usize = 8192;

/// What a filter works on: the dataset as SQL, but for partitions that cannot be read.
pub struct FilterInput<'a> {
    session: &'a QuerySession,
    /// Positions of partitions that cannot be read.
    damaged: Vec<usize>,
}

impl<'a> FilterInput<'a> {
    /// Looks at the footer of every file of images.
    pub(super) fn new(session: &'a QuerySession) -> Result<Self, ToolError> {
        session.register_ordered()?;
        let mut damaged = Vec::new();
        for (position, (_, folder, row)) in session.partitions().enumerate() {
            if row.counts.success == 0 {
                continue;
            }
            let files = session.image_files(position);
            if let Some(error) = files.iter().find_map(|(path, rows)| check_footer(path, *rows).err()) {
                tracing::error!(%folder, %error, "a partition is left out");
                damaged.push(position);
            }
        }
        Ok(Self { session, damaged })
    }

    /// SQL over the dataset. `ordered_images` is `images` with the position of the partition, `"ddl:partition"`, by
    /// which (and `record`) the rows of a [`FilterTable`] are ordered.
    #[must_use]
    pub fn session(&self) -> &'a QuerySession {
        self.session
    }

    /// A condition on `"ddl:partition"` that holds where images can be read.
    #[must_use]
    pub fn readable(&self) -> String {
        if self.damaged.is_empty() {
            return "true".into();
        }
        let list: Vec<_> = self.damaged.iter().map(usize::to_string).collect();
        format!("\"ddl:partition\" not in ({})", list.join(", "))
    }

    /// Partitions that hold images, as positions, with their folders, numbers, images and bytes.
    pub fn partitions(&self) -> impl Iterator<Item = (usize, &'a ServerName, u32, u64, u64)> {
        let partitions = self.session.partitions().enumerate();
        partitions.filter(|(_, (_, _, row))| row.counts.success > 0).map(|(position, (key, folder, row))| {
            (position, folder, key.partition_id, row.counts.success, row.image_bytes)
        })
    }

    /// Chooses the images for which a condition holds, with `reason` (an SQL expression) as the reason.
    ///
    /// # Errors
    /// When the SQL does not hold, or a file cannot be read or written.
    pub async fn select(
        &self,
        table: &mut FilterTable,
        condition: &str,
        reason: &str,
    ) -> Result<(), ToolError> {
        self.session.check_condition(condition)?;
        for (first, last) in self.session.image_slices(SLICE_IMAGES) {
            let readable = self.readable();
            // A line of its own, so that a comment in the condition ends.
            let sql = format!(
                "select \"ddl:partition\", record, uuid, source_id, server_name, partition_id, {reason} as reason \
                 from ordered_images as images \
                 where \"ddl:partition\" between {first} and {last} and {readable} and (\n{condition}\n) \
                 order by \"ddl:partition\", record"
            );
            let mut rows = self.session.stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                table.write(&batch)?;
            }
        }
        Ok(())
    }

    /// Chooses the partitions that hold an image for which a condition holds.
    ///
    /// # Errors
    /// As [`FilterInput::select`].
    pub async fn select_partitions(&self, table: &mut FilterTable, condition: &str) -> Result<(), ToolError> {
        self.session.check_condition(condition)?;
        let readable = self.readable();
        let sql = format!(
            "select distinct \"ddl:partition\" from ordered_images as images where {readable} and (\n{condition}\n)"
        );
        let mut chosen = HashSet::new();
        let mut rows = self.session.stream(&sql).await?;
        while let Some(batch) = rows.next().await? {
            let positions = cast(batch.column(0), &DataType::Int32).expect("positions are numbers");
            chosen.extend(positions.as_primitive::<Int32Type>().values().iter().map(|&at| at as usize));
        }
        for (position, folder, id, images, bytes) in self.partitions() {
            if chosen.contains(&position) {
                table.write_partition(position, folder, id, images, bytes)?;
            }
        }
        Ok(())
    }

    /// Chooses every partition that holds images, also those that cannot be read: the run will tell.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn all_partitions(&self, table: &mut FilterTable) -> Result<(), ToolError> {
        for (position, folder, id, images, bytes) in self.partitions() {
            table.write_partition(position, folder, id, images, bytes)?;
        }
        Ok(())
    }

    pub(super) fn damaged(&self) -> &[usize] {
        &self.damaged
    }

    /// Reads all columns but the images, and leaves out partitions where that fails. False when there are none besides
    /// those that are left out already.
    pub(super) async fn leave_out_damaged(&mut self) -> bool {
        let mut found = Vec::new();
        for (position, folder, ..) in self.partitions() {
            let files = self.session.image_files(position);
            let fault = files.iter().find_map(|(path, rows)| check_columns(path, *rows).err());
            if let Some(error) = fault.filter(|_| !self.damaged.contains(&position)) {
                tracing::error!(%folder, %error, "a partition is left out");
                found.push(position);
            }
            // Between two partitions it can be told to stop.
            tokio::task::yield_now().await;
        }
        self.damaged.extend(&found);
        !found.is_empty()
    }
}

/// Whether all columns of a file can be read but the images.
pub(super) fn check_columns(path: &Path, num_rows: u64) -> Result<(), ToolError> {
    check_footer(path, num_rows)?;
    let schema = successes_schema();
    let columns: Vec<&str> =
        schema.fields().iter().map(|field| field.name().as_str()).filter(|name| *name != "image").collect();
    for batch in read(path, Some(&columns), READ_ROWS, None)? {
        batch.map_err(|error| damaged(path, error))?;
    }
    Ok(())
}

/// Whether a file is there and its footer reads.
pub(super) fn check_footer(path: &Path, num_rows: u64) -> Result<(), ToolError> {
    let file = File::open(path).map_err(|error| damaged(path, error))?;
    let metadata =
        ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|error| damaged(path, error))?;
    let found = metadata.file_metadata().num_rows();
    if found != num_rows as i64 {
        return Err(damaged(path, format!("it has {found} rows, the catalog says {num_rows}")));
    }
    Ok(())
}

/// Columns of a filter table of images: distributed-downloader's, and ours.
pub(super) fn selected_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let number = |name: &str| Field::new(name, DataType::Int32, true);
        Arc::new(Schema::new(vec![
            number("record"),
            text("uuid"),
            text("source_id"),
            text("server_name"),
            number("partition_id"),
            text("reason"),
            text("uuid_main"),
            text("source_id_main"),
            text("server_name_main"),
            number("partition_id_main"),
            number("distance"),
        ]))
    });
    SCHEMA.clone()
}

fn partitions_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("server_name", DataType::Utf8, true),
            Field::new("partition_id", DataType::Int32, true),
            Field::new("images", DataType::Int64, true),
            Field::new("bytes", DataType::Int64, true),
        ]))
    });
    SCHEMA.clone()
}

/// Rows of each partition, by its position: first, number.
pub(super) type RowsOfPartitions = BTreeMap<usize, (u64, u64)>;

/// The filter table of a tool, as Parquet and as CSV with distributed-downloader's columns.
pub struct FilterTable {
    parquet: TableWriter,
    csv: CsvFile,
    csv_columns: &'static [&'static str],
    csv_begun: bool,
    rows: RowsOfPartitions,
    num_rows: u64,
    /// Position and record of the last row.
    last: Option<(usize, i32)>,
}

const CSV_PARTITIONS: &[&str] = &["server_name", "partition_id"];
const CSV_IMAGES: &[&str] = &["uuid", "source_id", "server_name", "partition_id"];
const CSV_KEEPERS: &[&str] = &[
    "uuid",
    "source_id",
    "server_name",
    "partition_id",
    "uuid_main",
    "source_id_main",
    "server_name_main",
    "partition_id_main",
];

impl FilterTable {
    pub(super) fn create(path: &Path, selects: Selects) -> Result<Self, ToolError> {
        let (schema, csv_columns) = match selects {
            Selects::Images => (selected_schema(), CSV_IMAGES),
            Selects::Partitions => (partitions_schema(), CSV_PARTITIONS),
        };
        Ok(Self {
            parquet: TableWriter::plain(path, schema, "filter")?,
            csv: CsvFile::create(&path.with_extension("csv"))?,
            csv_columns,
            csv_begun: false,
            rows: BTreeMap::new(),
            num_rows: 0,
            last: None,
        })
    }

    /// The CSV names the image that stays, too. To be called before the first row.
    pub fn with_keepers(&mut self) {
        self.csv_columns = CSV_KEEPERS;
    }

    /// Appends chosen images: `"ddl:partition"`, `record`, `uuid`, `source_id`, `server_name`, `partition_id`, `reason`;
    /// and what is known of the image that stays: `uuid_main` and so on, and `distance`. Rows come in order of partition
    /// and record, each once.
    ///
    /// # Errors
    /// When a column is missing, the order is wrong, or the disk is full.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ToolError> {
        let failed = |detail: String| ToolError::Failed(format!("the rows of the filter: {detail}"));
        let column = |name: &str, data_type: &DataType| -> Result<ArrayRef, ToolError> {
            match batch.column_by_name(name) {
                Some(column) => cast(column, data_type).map_err(|error| failed(error.to_string())),
                None if name.ends_with("_main") || name == "distance" => {
                    Ok(new_null_array(data_type, batch.num_rows()))
                }
                None => Err(failed(format!("there is no `{name}`"))),
            }
        };
        let columns = selected_schema()
            .fields()
            .iter()
            .map(|field| column(field.name(), field.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        let positions = column("ddl:partition", &DataType::Int32)?;
        let (positions, records) =
            (positions.as_primitive::<Int32Type>(), columns[0].as_primitive::<Int32Type>());
        for (&position, &record) in positions.values().iter().zip(records.values()) {
            let place = (position as usize, record);
            if self.last.is_some_and(|last| last >= place) {
                return Err(failed("they are not in order of partition and record".into()));
            }
            self.last = Some(place);
            self.count_row(place.0);
        }
        self.append(
            RecordBatch::try_new(selected_schema(), columns).map_err(|error| failed(error.to_string()))?,
        )
    }

    fn count_row(&mut self, position: usize) {
        self.rows.entry(position).or_insert((self.num_rows, 0)).1 += 1;
        self.num_rows += 1;
    }

    fn write_partition(
        &mut self,
        position: usize,
        folder: &ServerName,
        partition_id: u32,
        num_images: u64,
        image_bytes: u64,
    ) -> Result<(), ToolError> {
        self.count_row(position);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![folder.as_str()])),
            Arc::new(Int32Array::from(vec![partition_id as i32])),
            Arc::new(Int64Array::from(vec![num_images as i64])),
            Arc::new(Int64Array::from(vec![image_bytes as i64])),
        ];
        self.append(RecordBatch::try_new(partitions_schema(), columns).expect("columns follow the schema"))
    }

    fn append(&mut self, batch: RecordBatch) -> Result<(), ToolError> {
        self.parquet.write(&batch)?;
        self.begin_csv()?;
        let columns: Vec<ArrayRef> = self
            .csv_columns
            .iter()
            .map(|name| cast(&batch[*name], &DataType::Utf8).expect("numbers and texts are text"))
            .collect();
        let columns: Vec<&StringArray> = columns.iter().map(|column| column.as_string::<i32>()).collect();
        for row in 0..batch.num_rows() {
            self.csv
                .row(columns.iter().map(|column| if column.is_null(row) { "" } else { column.value(row) }))?;
        }
        Ok(())
    }

    fn begin_csv(&mut self) -> Result<(), ToolError> {
        if !self.csv_begun {
            self.csv_begun = true;
            self.csv.row(self.csv_columns)?;
        }
        Ok(())
    }

    /// Closes both files. Returns the number of rows, and where those of each partition are.
    pub(super) fn finish(mut self) -> Result<(DataFile, RowsOfPartitions), ToolError> {
        self.begin_csv()?;
        self.csv.finish()?;
        Ok((self.parquet.seal()?, self.rows))
    }
}
