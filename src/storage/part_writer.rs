//! Parts: what a worker writes while it downloads a partition.
//!
//! An image is handed to the Parquet writer as a view of its received bytes. The writer copies it into a page of
//! the right size at once, copies that behind the page's levels, keeps it until the row group is flushed, and
//! writes it to the file without a further buffer. The two copies are the library's: to go without would take a
//! writer of our own. Compaction ([`super::compact_partition`]) copies nothing in this process.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Int32Builder, Int64Builder,
    ListBuilder, RecordBatch, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::properties::WriterProperties;

use super::schema::{IMAGE_PAGE_BYTES, errors_properties, successes_properties, successes_write_schema};
use super::{AtomicFile, Checksummed, ManifestRecord, StorageError, StorageOptions, errors_schema};
use crate::model::{ContentDigest, DataFile, ImageFormat, PerceptualHash, PixelSize, RecordIndex};

/// What distributed-downloader writes where the list gives no licence, source or title.
pub const NOT_PROVIDED: &str = "Not provided";

/// One downloaded image with its record.
#[derive(Clone, Debug)]
pub struct ImageRow {
    pub record: Arc<ManifestRecord>,
    pub image: Bytes,
    pub image_format: ImageFormat,
    pub original_size: PixelSize,
    pub resized_size: PixelSize,
    pub hashsum_original: ContentDigest,
    pub hashsum_resized: ContentDigest,
    pub perceptual_hash: Option<PerceptualHash>,
    pub content_type: Option<String>,
    pub http_status: u16,
    /// Milliseconds since 1970.
    pub fetched_at: i64,
    /// Where the image came from in the end, if the URL was redirected.
    pub final_url: Option<String>,
    /// What was asked for, if that was not the record's own URL but a smaller rendition of the image.
    pub rendition_url: Option<String>,
}

#[cfg(test)]
impl ImageRow {
    /// A row as tests need it: they set the fields that they are about.
    pub(crate) fn for_test(record: impl Into<Arc<ManifestRecord>>, image: impl Into<Bytes>) -> Self {
        let (image, size) = (image.into(), PixelSize { height: 3, width: 2 });
        let digest = crate::model::HashAlgorithm::Blake3.digest(&image);
        Self {
            record: record.into(),
            image,
            image_format: ImageFormat::Png,
            original_size: size,
            resized_size: size,
            hashsum_original: digest,
            hashsum_resized: digest,
            perceptual_hash: None,
            content_type: None,
            http_status: 200,
            fetched_at: 0,
            final_url: None,
            rendition_url: None,
        }
    }
}

/// One failed or skipped record.
#[derive(Clone, Debug)]
pub struct ErrorRow {
    pub record: Arc<ManifestRecord>,
    pub retry_count: u8,
    pub error_code: i32,
    pub error_msg: String,
    pub cause: &'static str,
    pub http_status: Option<u16>,
    /// Milliseconds since 1970.
    pub fetched_at: i64,
    /// As of an image.
    pub rendition_url: Option<String>,
}

/// Writes the successes of one part, a row group at a time. Memory: one row group.
pub struct PartWriter {
    file: AtomicFile,
    writer: ArrowWriter<Checksummed<std::fs::File>>,
    num_rows: u64,
}

impl PartWriter {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let file = AtomicFile::create(path, "part")?;
        let writer = arrow_writer(&file, successes_write_schema(), successes_properties(options))?;
        Ok(Self { file, writer, num_rows: 0 })
    }

    /// Appends rows as one row group, in order of record.
    ///
    /// # Errors
    /// When the disk is full or the like. The part is then useless: drop it.
    pub fn write_row_group(&mut self, rows: &mut [ImageRow]) -> Result<(), StorageError> {
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by_key(|row| row.record.record);
        let error = StorageError::parquet("write", self.file.temporary());
        let batch = image_batch(rows);
        let small = num_small(rows.iter().map(|row| row.image.len()));
        self.writer
            .write(&batch.slice(0, small))
            .and_then(|()| self.writer.write(&batch.slice(small, rows.len() - small)))
            .and_then(|()| self.writer.flush())
            .map_err(error)?;
        self.num_rows += rows.len() as u64;
        Ok(())
    }

    /// Closes the file, syncs it and gives it its name.
    ///
    /// # Errors
    /// As [`PartWriter::write_row_group`].
    pub fn seal(self) -> Result<DataFile, StorageError> {
        close(self.file, self.writer, self.num_rows)
    }
}

/// Writes the errors of one part: a whole file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_error_part(
    path: &Path,
    rows: &[ErrorRow],
    options: StorageOptions,
) -> Result<DataFile, StorageError> {
    let file = AtomicFile::create(path, "part")?;
    let mut writer = arrow_writer(&file, errors_schema(), errors_properties(options))?;
    writer.write(&error_batch(rows)).map_err(StorageError::parquet("write", file.temporary()))?;
    close(file, writer, rows.len() as u64)
}

/// How many images of a batch are to be handed to the writer first, the others after them: it judges by the first
/// images of a batch after how many it looks whether the page is full. From a large one on that is after each.
pub(super) fn num_small(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.take_while(|length| *length < IMAGE_PAGE_BYTES).count()
}

/// A writer that leaves Arrow's own schema out: the plain Parquet types say all, and images may then be
/// handed over as views although readers shall see plain binary.
pub(super) fn arrow_writer(
    file: &AtomicFile,
    schema: arrow::datatypes::SchemaRef,
    properties: WriterProperties,
) -> Result<ArrowWriter<Checksummed<std::fs::File>>, StorageError> {
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Checksummed::new(file.handle()?), schema, options)
        .map_err(StorageError::parquet("write", file.temporary()))
}

/// Writes the footer, syncs the file and gives it its name.
pub(super) fn close(
    file: AtomicFile,
    writer: ArrowWriter<Checksummed<std::fs::File>>,
    num_rows: u64,
) -> Result<DataFile, StorageError> {
    let written = writer.into_inner().map_err(StorageError::parquet("write", file.temporary()))?;
    file.commit()?;
    Ok(written.checksum().file_of(num_rows))
}

fn image_batch(rows: &[ImageRow]) -> RecordBatch {
    let text = |value: fn(&ImageRow) -> Option<&str>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter().for_each(|row| builder.append_option(value(row)));
        Arc::new(builder.finish())
    };
    let provided = |value: fn(&ManifestRecord) -> &Option<String>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        for row in rows {
            let given = value(&row.record).as_deref().filter(|text| !text.is_empty());
            builder.append_value(given.unwrap_or(NOT_PROVIDED));
        }
        Arc::new(builder.finish())
    };
    let digest = |value: fn(&ImageRow) -> ContentDigest| -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter().for_each(|row| builder.append_value(value(row).to_string()));
        Arc::new(builder.finish())
    };
    let sizes = |value: fn(&ImageRow) -> PixelSize| -> ArrayRef {
        let element = Field::new("element", DataType::Int64, true);
        let mut builder = ListBuilder::new(Int64Builder::new()).with_field(element);
        for row in rows {
            let size = value(row);
            builder.append_value([Some(i64::from(size.height)), Some(i64::from(size.width))]);
        }
        Arc::new(builder.finish())
    };
    let int32 = |value: fn(&ImageRow) -> i32| -> ArrayRef {
        let mut builder = Int32Builder::new();
        rows.iter().for_each(|row| builder.append_value(value(row)));
        Arc::new(builder.finish())
    };

    let mut is_license_full = BooleanBuilder::new();
    let mut image = BinaryViewBuilder::new();
    let mut image_bytes = Int64Builder::new();
    let mut fetched_at = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut perceptual_hash = FixedSizeBinaryBuilder::new(32);
    for row in rows {
        let record = &row.record;
        is_license_full.append_value(
            [&record.license, &record.source, &record.title]
                .iter()
                .all(|field| field.as_deref().is_some_and(|text| !text.is_empty())),
        );
        // Bodies are bounded far below the 4 GiB of a view (`max_body_bytes`).
        let block = image.append_block(row.image.clone().into());
        image
            .try_append_view(block, 0, row.image.len() as u32)
            .expect("the view covers the block just appended");
        image_bytes.append_value(row.image.len() as i64);
        fetched_at.append_value(row.fetched_at);
        match &row.perceptual_hash {
            Some(hash) => perceptual_hash.append_value(hash).expect("32 bytes"),
            None => perceptual_hash.append_null(),
        }
    }
    let columns: Vec<ArrayRef> = vec![
        text(|row| Some(&row.record.uuid)),
        text(|row| row.record.source_id.as_deref()),
        text(|row| Some(&row.record.identifier)),
        Arc::new(is_license_full.finish()),
        provided(|record| &record.license),
        provided(|record| &record.source),
        provided(|record| &record.title),
        sizes(|row| row.original_size),
        sizes(|row| row.resized_size),
        digest(|row| row.hashsum_original),
        digest(|row| row.hashsum_resized),
        Arc::new(image.finish()),
        int32(|row| row.record.record as i32),
        text(|row| row.record.label.as_deref()),
        text(|row| Some(row.image_format.as_str())),
        Arc::new(image_bytes.finish()),
        text(|row| row.content_type.as_deref()),
        int32(|row| i32::from(row.http_status)),
        Arc::new(fetched_at.finish()),
        text(|row| row.final_url.as_deref()),
        Arc::new(perceptual_hash.finish()),
        text(|row| row.record.shared_server_name.as_deref()),
        text(|row| row.rendition_url.as_deref()),
    ];
    RecordBatch::try_new(successes_write_schema(), columns).expect("columns follow the schema")
}

pub(super) fn error_batch(rows: &[ErrorRow]) -> RecordBatch {
    let text = |value: fn(&ErrorRow) -> Option<&str>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter().for_each(|row| builder.append_option(value(row)));
        Arc::new(builder.finish())
    };
    let int64 = |value: fn(&ErrorRow) -> i64| -> ArrayRef {
        let mut builder = Int64Builder::new();
        rows.iter().for_each(|row| builder.append_value(value(row)));
        Arc::new(builder.finish())
    };
    let mut record = Int32Builder::new();
    let mut http_status = Int32Builder::new();
    let mut fetched_at = TimestampMillisecondBuilder::new().with_timezone("UTC");
    for row in rows {
        record.append_value(RecordIndex::cast_signed(row.record.record));
        http_status.append_option(row.http_status.map(i32::from));
        fetched_at.append_value(row.fetched_at);
    }
    let columns: Vec<ArrayRef> = vec![
        text(|row| Some(&row.record.uuid)),
        text(|row| Some(&row.record.identifier)),
        int64(|row| i64::from(row.retry_count)),
        int64(|row| i64::from(row.error_code)),
        text(|row| Some(&row.error_msg)),
        text(|row| Some(row.cause)),
        Arc::new(record.finish()),
        text(|row| row.record.source_id.as_deref()),
        text(|row| row.record.label.as_deref()),
        Arc::new(http_status.finish()),
        Arc::new(fetched_at.finish()),
        text(|row| row.record.shared_server_name.as_deref()),
        text(|row| row.rendition_url.as_deref()),
    ];
    RecordBatch::try_new(errors_schema(), columns).expect("columns follow the schema")
}
