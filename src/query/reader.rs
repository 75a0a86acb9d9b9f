//! Readers that say which file they could not read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::dataset::{Dataset, FileFault};

/// Makes readers that keep footers in the session's cache and note their faults in the dataset.
#[derive(Debug)]
pub(super) struct WatchedReaders {
    pub inner: CachedParquetFileReaderFactory,
    pub dataset: Arc<Dataset>,
}

impl ParquetFileReaderFactory for WatchedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        // Locations are absolute paths without their first slash.
        let path = PathBuf::from(format!("/{}", file.object_meta.location));
        let inner = self.inner.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(WatchedReader { inner, path, dataset: self.dataset.clone() }))
    }
}

struct WatchedReader {
    inner: Box<dyn AsyncFileReader + Send>,
    path: PathBuf,
    dataset: Arc<Dataset>,
}

fn watch<'a, T: 'a>(
    dataset: &'a Dataset,
    path: &'a Path,
    read: BoxFuture<'a, Result<T, ParquetError>>,
) -> BoxFuture<'a, Result<T, ParquetError>> {
    read.map(move |result| {
        result.inspect_err(|error| {
            dataset.note_fault(FileFault { path: path.to_owned(), detail: error.to_string() });
        })
    })
    .boxed()
}

impl AsyncFileReader for WatchedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        watch(&self.dataset, &self.path, self.inner.get_bytes(range))
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        watch(&self.dataset, &self.path, self.inner.get_byte_ranges(ranges))
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        watch(&self.dataset, &self.path, self.inner.get_metadata(options))
    }
}
