//! The bytes of single images, by where they are stored.
//!
//! Rows of a file are read through its page index, so what lies between them is not; files that a download moves are
//! found again as for a query. Memory: what is asked for at once, and the indexes of the files used last.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::{Array as _, AsArray, ByteView, MAX_INLINE_VIEW_LEN, RecordBatch};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy, RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::QueryError;
use super::dataset::{Dataset, FileKind};
use super::reader::{Content, FileId, OpenedFile};

/// Files that stay open, with some 300 KB of index each.
const MAX_OPEN_FILES: usize = 64;

/// Where an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImagePlace {
    /// `ddl:partition` and `ddl:part` of what `register_ordered` registers.
    pub partition: i32,
    pub part: i32,
    /// Column `row` of `images`.
    pub row: i64,
}

/// Partition and part of an image.
type FilePlace = (i32, i32);

impl ImagePlace {
    fn file(self) -> FilePlace {
        (self.partition, self.part)
    }
}

/// Reads images of one view of a dataset.
pub(crate) struct StoredImages {
    dataset: Arc<Dataset>,
    /// Those used last at the end.
    open: Mutex<VecDeque<(FilePlace, Arc<OpenImages>)>>,
}

impl fmt::Debug for StoredImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredImages").field("dataset", &self.dataset).finish_non_exhaustive()
    }
}

impl StoredImages {
    pub(super) fn new(dataset: Arc<Dataset>) -> Self {
        Self { dataset, open: Mutex::default() }
    }

    /// The images at these places, in this order. Blocks on the disk.
    ///
    /// # Errors
    /// `Moved` when a file has gone since the view was taken, `Damaged` when it cannot be read.
    pub fn read(&self, places: &[ImagePlace]) -> Result<Vec<Buffer>, QueryError> {
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|&at| places[at]);
        let mut images = vec![Buffer::default(); places.len()];
        for run in order.chunk_by(|&a, &b| places[a].file() == places[b].file()) {
            let file = self.open(places[run[0]].file())?;
            let damaged = |error: ParquetError| QueryError::Damaged {
                path: file.path.clone(),
                detail: error.to_string(),
            };
            let rows: Vec<usize> = run.iter().map(|&at| places[at].row as usize).collect();
            let mut wanted = run.iter();
            for batch in file.batches(&rows).map_err(damaged)? {
                let batch = batch.map_err(|error| damaged(error.into()))?;
                for image in buffers(&batch) {
                    if let Some(&at) = wanted.next() {
                        images[at] = image;
                    }
                }
            }
            if wanted.next().is_some() {
                return Err(damaged(ParquetError::General("it has fewer rows than the catalog says".into())));
            }
        }
        Ok(images)
    }

    fn open(&self, file: FilePlace) -> Result<Arc<OpenImages>, QueryError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match open.iter().position(|(known, _)| *known == file) {
            Some(at) => open.remove(at).expect("a position").1,
            None => Arc::new(OpenImages::open(&self.dataset, file)?),
        };
        if open.len() == MAX_OPEN_FILES {
            open.pop_front();
        }
        open.push_back((file, opened.clone()));
        Ok(opened)
    }
}

/// The images of a batch with that one column, without copying them: they are views into the pages that were read.
fn buffers(batch: &RecordBatch) -> impl Iterator<Item = Buffer> {
    let images = batch.column(0).as_binary_view().clone();
    (0..images.len()).map(move |row| {
        let image = images.value(row);
        if image.len() <= MAX_INLINE_VIEW_LEN as usize {
            return Buffer::from(image);
        }
        let view = ByteView::from(images.views()[row]);
        images.data_buffers()[view.buffer_index as usize].slice_with_length(view.offset as usize, image.len())
    })
}

struct OpenImages {
    path: PathBuf,
    content: Content,
    metadata: ArrowReaderMetadata,
}

impl OpenImages {
    fn open(dataset: &Dataset, (partition, part): FilePlace) -> Result<Self, QueryError> {
        let id = FileId { kind: FileKind::Images, partition: partition as usize, part };
        let files = dataset.files(id.kind, id.partition);
        let named = files.into_iter().find(|file| file.part == part);
        let path = named.map(|file| file.path).unwrap_or_default();
        let open = || {
            let OpenedFile { content, metadata } = OpenedFile::open(dataset, id)?;
            let mut reader = ParquetMetaDataReader::new_with_metadata(metadata.as_ref().clone())
                .with_offset_index_policy(PageIndexPolicy::Optional);
            reader.read_page_indexes(&content)?;
            let metadata = Arc::new(reader.finish()?);
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let stored = ArrowReaderMetadata::try_new(metadata.clone(), options.clone())?;
            let fields = stored.schema().fields().iter().map(|field| match field.name().as_str() {
                "image" => field.as_ref().clone().with_data_type(DataType::BinaryView),
                _ => field.as_ref().clone(),
            });
            let with_views = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            Ok((content, ArrowReaderMetadata::try_new(metadata, options.with_schema(with_views))?))
        };
        match open() {
            Ok((content, metadata)) => Ok(Self { path, content, metadata }),
            Err::<_, ParquetError>(_) if matches!(path.try_exists(), Ok(false)) => {
                Err(QueryError::Moved { path })
            }
            Err(error) => Err(QueryError::Damaged { path, detail: error.to_string() }),
        }
    }

    /// These rows, which are in order.
    fn batches(
        &self,
        rows: &[usize],
    ) -> Result<parquet::arrow::arrow_reader::ParquetRecordBatchReader, ParquetError> {
        let mut selectors: Vec<RowSelector> = Vec::new();
        let mut at = 0;
        for &row in rows {
            if row > at {
                selectors.push(RowSelector::skip(row - at));
            }
            selectors.push(RowSelector::select(1));
            at = row + 1;
        }
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.content.clone(), self.metadata.clone());
        let image = ProjectionMask::columns(builder.parquet_schema(), ["image"]);
        builder
            .with_projection(image)
            .with_row_selection(RowSelection::from(selectors))
            // A mask would decode what lies between the rows.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(rows.len())
            .build()
    }
}

impl Length for Content {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => Length::len(file.as_ref()),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Content {
    type T = ContentReader;

    fn get_read(&self, start: u64) -> Result<ContentReader, ParquetError> {
        Ok(ContentReader { content: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.read(start..start + length as u64)?)
    }
}

pub(super) struct ContentReader {
    content: Content,
    at: u64,
}

impl Read for ContentReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let end = Length::len(&self.content).min(self.at + into.len() as u64);
        let bytes = self.content.read(self.at.min(end)..end)?;
        into[..bytes.len()].copy_from_slice(&bytes);
        self.at = end;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::fixture::Fixture;

    #[test]
    fn images_come_in_the_order_asked_for_also_after_a_move() {
        let mut fixture = Fixture::empty();
        let key = fixture.add_pending("a.example", 5);
        fixture.add_part(key, "a.example", 0, &[4, 0, 2], &[]);
        fixture.add_part(key, "a.example", 1, &[3, 1], &[]);
        let session = fixture.session();
        let place = |part, row| ImagePlace { partition: 0, part, row };
        // A row group is in the order of records.
        let records =
            [(place(0, 2), 4), (place(1, 0), 1), (place(0, 1), 2), (place(1, 1), 3), (place(0, 0), 0)];
        let check = |records: &[(ImagePlace, u64)]| {
            let places: Vec<_> = records.iter().map(|(place, _)| *place).collect();
            let images = session.stored_images().read(&places).unwrap();
            for (image, (_, record)) in images.iter().zip(records) {
                let byte = fastrand::Rng::with_seed(record + 7).u8(..);
                assert!(image.len() == 1000 && image.iter().all(|&each| each == byte), "{record}");
            }
        };
        check(&records);
        check(&records[1..3]);
        // The session goes by its view still; another file is opened under it.
        fixture.finish(key, "a.example", &[]);
        check(&records);
        check(&[records[3]]);

        let gone = session.stored_images();
        std::fs::remove_file(
            fixture.layout.successes(&crate::model::ServerName::from_catalog("a.example"), 0),
        )
        .unwrap();
        assert!(matches!(gone.read(&[place(0, 0)]), Err(QueryError::Moved { .. })));
    }
}
