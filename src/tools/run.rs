//! The third stage for one partition: what a tool reads and what it makes.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use super::filter::check_footer;
use super::verdict::verdict_batch;
use super::{ToolError, Verdict, VerdictKind};
use crate::catalog::{ToolPartition, ToolPiece};
use crate::model::{DataFile, Epoch, Rank, RecordIndex, ServerName};
use crate::runtime::Shutdown;
use crate::storage::{DatasetLayout, StorageOptions, TableWriter, verdicts_schema};

/// Rows of chosen images that are read at a time.
const SELECTED_ROWS: usize = 8192;

/// A partition, for a tool to go through.
pub struct RunInput {
    pub(super) layout: DatasetLayout,
    pub(super) tool: String,
    pub(super) folder: ServerName,
    pub(super) partition_id: u32,
    /// Whether the folder is one that small servers share.
    pub(super) shared: bool,
    pub(super) files: Vec<(PathBuf, u64)>,
    pub(super) scheduled: ToolPartition,
    pub(super) stop: Shutdown,
    /// Set when the claim is void.
    pub(super) dropped: Arc<AtomicBool>,
}

/// One row of a filter table of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedRow {
    pub record: RecordIndex,
    pub uuid: String,
    pub reason: String,
    pub uuid_main: Option<String>,
    pub distance: Option<i32>,
}

impl SelectedRow {
    /// The verdict that the image goes, for the reason that the filter gave.
    #[must_use]
    pub fn removal(self) -> Verdict {
        let Self { record, uuid, reason, uuid_main: witness, distance } = self;
        Verdict { record, uuid, kind: VerdictKind::Remove, reason, witness, distance }
    }
}

impl RunInput {
    /// The `server_name=` folder: a server, or one that small servers share.
    #[must_use]
    pub fn folder(&self) -> &ServerName {
        &self.folder
    }

    #[must_use]
    pub fn partition_id(&self) -> u32 {
        self.partition_id
    }

    /// Files of the partition's images, each with its rows; several as long as it is not complete.
    #[must_use]
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }

    /// Images in all.
    #[must_use]
    pub fn num_images(&self) -> u64 {
        self.files.iter().map(|(_, rows)| rows).sum()
    }

    /// To be asked now and then: whether to stop, since the job ends or another rank has the partition.
    ///
    /// # Errors
    /// `Stopped`, to be passed on.
    pub fn check_stop(&self) -> Result<(), ToolError> {
        if self.dropped.load(Ordering::Relaxed) || self.stop.requested().is_some() {
            return Err(ToolError::Stopped);
        }
        Ok(())
    }

    /// Checks that every file is there and whole, as far as its footer tells.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn check_files(&self) -> Result<(), ToolError> {
        self.files.iter().try_for_each(|(path, rows)| check_footer(path, *rows))
    }

    /// The partition's images in the order of their files, so many at a time: these columns, or all.
    pub fn images(
        &self,
        columns: Option<&[&str]>,
        batch_rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch, ToolError>> {
        self.files.iter().flat_map(move |(path, rows)| {
            let opened = check_footer(path, *rows).and_then(|()| read(path, columns, batch_rows, None));
            let (reader, error) = match opened {
                Ok(reader) => (Some(reader), None),
                Err(error) => (None, Some(Err(error))),
            };
            let batches = reader.into_iter().flatten().map(move |batch| {
                self.check_stop()?;
                batch.map_err(|error| damaged(path, error))
            });
            error.into_iter().chain(batches)
        })
    }

    /// The servers of all images, of a folder that many share; else nothing.
    fn servers(&self) -> Result<HashMap<RecordIndex, String>, ToolError> {
        let mut servers = HashMap::new();
        if !self.shared {
            return Ok(servers);
        }
        for batch in self.images(Some(&["record", "shared_server_name"]), SELECTED_ROWS) {
            let batch = batch?;
            let records = batch["record"].as_primitive::<Int32Type>();
            let names = batch["shared_server_name"].as_string::<i32>();
            let rows = records.values().iter().zip(names);
            servers
                .extend(rows.filter_map(|(&record, name)| Some((record as RecordIndex, name?.to_owned()))));
        }
        Ok(servers)
    }

    /// Where what the tool makes of the partition lies.
    pub(super) fn partition_folder(&self) -> PathBuf {
        self.layout.tool_folder(&self.tool, &self.folder, self.partition_id)
    }

    /// The rows of the filter table that are this partition's: these columns, or all.
    pub(super) fn selected_rows(
        &self,
        columns: Option<&[&str]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ToolError>> + use<>, ToolError> {
        let ToolPartition { first_row, num_rows, .. } = self.scheduled;
        let path = self.layout.filter_table(&self.tool);
        let only = RowSelection::from(vec![
            RowSelector::skip(first_row as usize),
            RowSelector::select(num_rows as usize),
        ]);
        let batches = read(&path, columns, SELECTED_ROWS, Some(only))?;
        Ok(batches.map(move |batch| batch.map_err(|error| damaged(&path, error))))
    }

    /// The images of this partition that the filter chose, in order of record.
    ///
    /// # Errors
    /// When the filter table cannot be read, or is one of partitions.
    pub fn selected(&self) -> Result<Vec<SelectedRow>, ToolError> {
        let num_rows = self.scheduled.num_rows;
        if num_rows == 0 {
            return Ok(Vec::new());
        }
        let columns = ["record", "uuid", "reason", "uuid_main", "distance"];
        let mut rows = Vec::with_capacity(num_rows as usize);
        for batch in self.selected_rows(Some(&columns))? {
            let batch = batch?;
            if batch.num_columns() < columns.len() {
                return Err(ToolError::Failed(
                    "its filter chooses partitions, not images: the tool needs a `run` of its own".into(),
                ));
            }
            let text = |name: &str| batch[name].as_string::<i32>().clone();
            let number = |name: &str| batch[name].as_primitive::<Int32Type>().clone();
            let (record, uuid, reason) = (number("record"), text("uuid"), text("reason"));
            let (uuid_main, distance) = (text("uuid_main"), number("distance"));
            rows.extend((0..batch.num_rows()).map(|at| SelectedRow {
                record: record.value(at) as RecordIndex,
                uuid: uuid.value(at).to_owned(),
                reason: reason.value(at).to_owned(),
                uuid_main: uuid_main.is_valid(at).then(|| uuid_main.value(at).to_owned()),
                distance: distance.is_valid(at).then(|| distance.value(at)),
            }));
        }
        if rows.len() as u64 != num_rows {
            return Err(damaged(&self.layout.filter_table(&self.tool), "rows are missing"));
        }
        Ok(rows)
    }
}

/// What a run does if the tool says nothing else: all images that were chosen are to be removed.
pub(super) fn remove_selected(input: &RunInput, output: &mut RunOutput) -> Result<(), ToolError> {
    input.check_files()?;
    for row in input.selected()? {
        output.verdict(row.removal());
    }
    Ok(())
}

pub(super) fn damaged(path: &Path, error: impl ToString) -> ToolError {
    ToolError::Damaged { path: path.to_owned(), detail: error.to_string() }
}

pub(super) fn read(
    path: &Path,
    columns: Option<&[&str]>,
    batch_rows: usize,
    only: Option<RowSelection>,
) -> Result<ParquetRecordBatchReader, ToolError> {
    let file = File::open(path).map_err(|error| damaged(path, error))?;
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, error))?;
    if let Some(columns) = columns {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder = builder.with_projection(mask);
    }
    if let Some(only) = only {
        builder = builder.with_row_selection(only);
    }
    builder.with_batch_size(batch_rows).build().map_err(|error| damaged(path, error))
}

/// What a tool makes of one partition.
pub struct RunOutput {
    pub(super) verdicts_path: PathBuf,
    pub(super) images_path: PathBuf,
    pub(super) storage: StorageOptions,
    pub(super) epoch: Epoch,
    pub(super) rank: Rank,
    verdicts: Vec<Verdict>,
    images: Option<TableWriter>,
}

impl RunOutput {
    /// Paths under names of the claim; rank 0 gives the files theirs.
    pub(super) fn new(
        verdicts_path: PathBuf,
        images_path: PathBuf,
        storage: StorageOptions,
        epoch: Epoch,
        rank: Rank,
    ) -> Self {
        Self { verdicts_path, images_path, storage, epoch, rank, verdicts: Vec::new(), images: None }
    }

    /// Says something of an image.
    pub fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }

    /// Appends new images as a row group, with all columns of `successes.parquet`.
    ///
    /// # Errors
    /// When the disk is full or the like.
    pub fn images(&mut self, batch: &RecordBatch) -> Result<(), ToolError> {
        let writer = match &mut self.images {
            Some(writer) => writer,
            None => self.images.insert(TableWriter::images(&self.images_path, self.storage, "tool")?),
        };
        Ok(writer.write_row_group(batch)?)
    }

    /// Seals the files.
    pub(super) fn finish(mut self, input: &RunInput) -> Result<ToolPiece, ToolError> {
        let num_images = input.num_images();
        self.verdicts.sort_by_key(|verdict| verdict.record);
        let num_removed =
            self.verdicts.iter().filter(|verdict| verdict.kind == VerdictKind::Remove).count() as u64;
        let verdicts = if self.verdicts.is_empty() {
            DataFile::default()
        } else {
            let mut writer = TableWriter::plain(&self.verdicts_path, verdicts_schema(), "tool")?;
            writer.write(&verdict_batch(&self.verdicts, &input.servers()?))?;
            writer.seal()?
        };
        let images = self.images.map(TableWriter::seal).transpose()?.unwrap_or_default();
        Ok(ToolPiece { epoch: self.epoch, rank: self.rank, num_images, num_removed, verdicts, images })
    }
}
