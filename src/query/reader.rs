//! Readers of the files that a view names, also of those that move while a query runs.
//!
//! A download that is under way merges the parts of a partition into final files and removes them, while a
//! query still goes by an older view. The rows are the same, so they are found again:
//!
//! - A file is opened once and stays open while it is read; removed meanwhile, it is still there for its reader.
//! - Compaction copies the row groups of all parts in order: a part's successes are a run of row groups of
//!   `successes.parquet`.
//! - It keeps the last word on every record, of the last part first. Where all errors are that, a part's are a
//!   run of rows of `errors.parquet`, counted from its end: later parts may have come in front.
//!
//! A part that cannot be found so is reported as missing; a fresh view tells where its rows are.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatchReader as _;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::ParquetFileMetrics;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::dataset::{Dataset, FileFault, FileKind, NamedFile, open_file};

/// Which file of the dataset a scanned file is: an extension of [`PartitionedFile`].
#[derive(Clone, Copy, Debug)]
pub(super) struct FileId {
    pub kind: FileKind,
    pub partition: usize,
    /// As [`NamedFile::part`].
    pub part: i32,
}

/// Makes the readers of one dataset; they note their faults in it.
#[derive(Debug)]
pub(super) struct DatasetReaders(pub Arc<Dataset>);

impl ParquetFileReaderFactory for DatasetReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        _: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let id = *file
            .extension::<FileId>()
            .ok_or_else(|| internal_datafusion_err!("a file that is not the dataset's"))?;
        let location = file.object_meta.location.as_ref();
        Ok(Box::new(DatasetReader {
            metrics: ParquetFileMetrics::new(partition_index, location, metrics),
            // Locations are absolute paths without their first slash.
            path: PathBuf::from(format!("/{location}")),
            file_bytes: file.object_meta.size,
            dataset: self.0.clone(),
            id,
            opened: None,
        }))
    }
}

struct DatasetReader {
    dataset: Arc<Dataset>,
    id: FileId,
    path: PathBuf,
    file_bytes: u64,
    metrics: ParquetFileMetrics,
    opened: Option<OpenedFile>,
}

impl DatasetReader {
    async fn open(&mut self) -> Result<OpenedFile, ParquetError> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let (dataset, id) = (self.dataset.clone(), self.id);
        let opened = blocking(move || OpenedFile::open(&dataset, id)).await?;
        Ok(self.opened.insert(opened).clone())
    }

    async fn read(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let content = self.open().await?.content;
        let num_bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        self.metrics.bytes_scanned.add(num_bytes as usize);
        blocking(move || {
            Ok(ranges.into_iter().map(|range| content.read(range)).collect::<io::Result<_>>()?)
        })
        .await
    }

    fn note<T>(&self, result: Result<T, ParquetError>) -> Result<T, ParquetError> {
        result.inspect_err(|error| {
            self.dataset.note_fault(FileFault { path: self.path.clone(), detail: error.to_string() });
        })
    }
}

impl AsyncFileReader for DatasetReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let read = self.read(vec![range]).await;
            self.note(read.map(|mut bytes| bytes.swap_remove(0)))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            let read = self.read(ranges).await;
            self.note(read)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let opened = self.open().await;
            self.note(opened.map(|opened| opened.metadata))
        }
        .boxed()
    }
}

impl Drop for DatasetReader {
    fn drop(&mut self) {
        let ratio = &self.metrics.scan_efficiency_ratio;
        ratio.add_part(self.metrics.bytes_scanned.value());
        ratio.set_total(self.file_bytes as usize);
    }
}

/// Disks may be slow, and over a network very slow: the threads of the engine do not wait for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ParquetError> + Send + 'static,
) -> Result<T, ParquetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ParquetError::External(Box::new(error))),
    }
}

#[derive(Clone)]
pub(super) struct OpenedFile {
    pub content: Content,
    pub metadata: Arc<ParquetMetaData>,
}

#[derive(Clone)]
pub(super) enum Content {
    File(Arc<File>),
    Memory(Bytes),
}

impl Content {
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
        }
    }
}

impl OpenedFile {
    pub fn open(dataset: &Dataset, id: FileId) -> Result<Self, ParquetError> {
        let files = dataset.files(id.kind, id.partition);
        let Some(at) = files.iter().position(|file| file.part == id.part) else {
            return Err(ParquetError::General(format!("{id:?} is not in the view")));
        };
        match open_file(&files[at].path) {
            Ok(file) => Self::of_file(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let before: u64 = files[..at].iter().map(|file| file.num_rows).sum();
                let found = match id.kind {
                    FileKind::Urls | FileKind::Verdicts(_) => None,
                    FileKind::Images if dataset.from.is_some() => None,
                    FileKind::Images => Self::moved_images(dataset, id.partition, before, &files[at])?,
                    FileKind::Errors => Self::moved_errors(dataset, id.partition, before, &files[at])?,
                };
                found.ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of_file(file: File) -> Result<Self, ParquetError> {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file)?;
        Ok(Self { content: Content::File(Arc::new(file)), metadata: Arc::new(metadata) })
    }

    /// The row groups of a part in the file that it was merged into; `before` rows are of earlier parts.
    fn moved_images(
        dataset: &Dataset,
        partition: usize,
        before: u64,
        part: &NamedFile,
    ) -> Result<Option<Self>, ParquetError> {
        let place = &dataset.partitions[partition];
        let path = dataset.layout.successes(&place.folder, place.key.partition_id);
        let Ok(file) = open_file(&path) else { return Ok(None) };
        let Self { content, metadata } = Self::of_file(file)?;
        if metadata.file_metadata().num_rows().unsigned_abs() < dataset.num_rows(FileKind::Images, partition)
        {
            // Some were retracted: where the others are cannot be told.
            return Ok(None);
        }
        let wanted = before..before + part.num_rows;
        let mut start = 0;
        let mut num_rows = 0;
        let mut row_groups = Vec::new();
        for row_group in metadata.row_groups() {
            let rows = row_group.num_rows().unsigned_abs();
            if start >= wanted.start && start + rows <= wanted.end {
                row_groups.push(row_group.clone());
                num_rows += rows;
            }
            start += rows;
        }
        let metadata = ParquetMetaData::new(metadata.file_metadata().clone(), row_groups).into();
        Ok((num_rows == part.num_rows).then_some(Self { content, metadata }))
    }

    /// The errors of a part from the file that they were merged into, as a file in memory: they are few.
    fn moved_errors(
        dataset: &Dataset,
        partition: usize,
        before: u64,
        part: &NamedFile,
    ) -> Result<Option<Self>, ParquetError> {
        let place = &dataset.partitions[partition];
        let path = dataset.layout.errors(&place.folder, place.key.partition_id);
        let Ok(file) = open_file(&path) else { return Ok(None) };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let total = builder.metadata().file_metadata().num_rows().unsigned_abs();
        // Fewer than there were: some were retracted.
        let first =
            (total >= dataset.num_rows(FileKind::Errors, partition)).then(|| total - before - part.num_rows);
        let Some(first) = first.filter(|_| !dataset.unsettled.contains(&partition)) else { return Ok(None) };
        let rows = builder.with_offset(first as usize).with_limit(part.num_rows as usize).build()?;
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None)?;
        for batch in rows {
            writer.write(&batch?)?;
        }
        let bytes = Bytes::from(writer.into_inner()?);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes)?;
        Ok(Some(Self { content: Content::Memory(bytes), metadata: Arc::new(metadata) }))
    }
}
