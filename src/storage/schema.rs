//! Columns of `successes.parquet` and `errors.parquet`, and how they are written.
//!
//! The first columns are distributed-downloader's, with its names, types and order; ours follow. Every file
//! has the full schema, also with no rows.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::model::HashAlgorithm;

/// Key of the Parquet metadata that names the algorithm of `hashsum_original` and `hashsum_resized`.
pub const HASH_ALGORITHM_KEY: &str = "ddl.hash_algorithm";

/// A page of images is closed once it holds so much: one image is read with little else, and its bytes are not
/// copied again and again while the page grows. A page costs some 50 bytes, header and index entry.
pub(super) const IMAGE_PAGE_BYTES: usize = 64 << 10;

/// Facts about how images are stored that the files themselves repeat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StorageOptions {
    pub hash_algorithm: HashAlgorithm,
    /// Whether stored images are raw pixels, which are worth compressing; encoded images are not.
    pub raw_pixels: bool,
}

/// Columns that every manifest row has, in order; carried columns, `record` and `shared_server_name` follow.
#[must_use]
pub fn manifest_core_columns() -> [&'static str; 7] {
    ["uuid", "source_id", "identifier", "license", "source", "title", "label"]
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn sizes(name: &str) -> Field {
    Field::new_list(name, Field::new("element", DataType::Int64, true), true)
}

fn fetched_at() -> Field {
    Field::new("fetched_at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true)
}

/// Schema of `successes.parquet`.
#[must_use]
pub fn successes_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| successes_schema_with(DataType::Binary));
    SCHEMA.clone()
}

/// The same, with images as views into the received bytes, so that writing copies them once only.
pub(super) fn successes_write_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| successes_schema_with(DataType::BinaryView));
    SCHEMA.clone()
}

fn successes_schema_with(image: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("uuid"),
        text("source_id"),
        text("identifier"),
        Field::new("is_license_full", DataType::Boolean, true),
        text("license"),
        text("source"),
        text("title"),
        // [height, width] in pixels, after EXIF orientation
        sizes("original_size"),
        sizes("resized_size"),
        text("hashsum_original"),
        text("hashsum_resized"),
        Field::new("image", image, true),
        // ours
        Field::new("record", DataType::Int32, true),
        text("label"),
        text("image_format"),
        Field::new("image_bytes", DataType::Int64, true),
        text("content_type"),
        Field::new("http_status", DataType::Int32, true),
        fetched_at(),
        text("final_url"),
        // of the image as it was downloaded, as `original_size` and `hashsum_original` are, whatever tools make of it
        Field::new("perceptual_hash", DataType::FixedSizeBinary(32), true),
        text("shared_server_name"),
        text("rendition_url"),
    ]))
}

/// Schema of `errors.parquet`.
#[must_use]
pub fn errors_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            text("uuid"),
            text("identifier"),
            Field::new("retry_count", DataType::Int64, true),
            Field::new("error_code", DataType::Int64, true),
            text("error_msg"),
            // ours
            text("cause"),
            Field::new("record", DataType::Int32, true),
            text("source_id"),
            text("label"),
            Field::new("http_status", DataType::Int32, true),
            fetched_at(),
            text("shared_server_name"),
            text("rendition_url"),
        ]))
    });
    SCHEMA.clone()
}

/// Schema of a tool's `verdicts.parquet`.
#[must_use]
pub fn verdicts_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let number = |name: &str, nullable| Field::new(name, DataType::Int32, nullable);
        let always = |name: &str| Field::new(name, DataType::Utf8, false);
        Arc::new(Schema::new(vec![
            always("uuid"),
            number("record", false),
            always("verdict"),
            always("reason"),
            text("witness"),
            number("distance", true),
            text("shared_server_name"),
        ]))
    });
    SCHEMA.clone()
}

pub(super) fn successes_properties(options: StorageOptions) -> WriterProperties {
    let image = ColumnPath::from("image");
    let image_compression = if options.raw_pixels { zstd(3) } else { Compression::UNCOMPRESSED };
    common_properties(options)
        .set_column_data_page_size_limit(image.clone(), IMAGE_PAGE_BYTES)
        .set_column_compression(image.clone(), image_compression)
        .set_column_dictionary_enabled(image.clone(), false)
        .set_column_encoding(image.clone(), Encoding::PLAIN)
        .set_column_statistics_enabled(image, EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from("perceptual_hash"), false)
        .build()
}

pub(super) fn errors_properties(options: StorageOptions) -> WriterProperties {
    common_properties(options).build()
}

fn common_properties(options: StorageOptions) -> parquet::file::properties::WriterPropertiesBuilder {
    let mut builder = WriterProperties::builder()
        .set_compression(zstd(1))
        // Row groups end where we flush them: they are bounded in bytes, not in rows.
        .set_max_row_group_row_count(None)
        .set_created_by(concat!("ddl ", env!("CARGO_PKG_VERSION")).into())
        .set_key_value_metadata(Some(vec![KeyValue::new(
            HASH_ALGORITHM_KEY.into(),
            options.hash_algorithm.as_str().to_owned(),
        )]));
    for unique in ["uuid", "identifier", "hashsum_original", "hashsum_resized", "record"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    builder
}

pub(super) fn zstd(level: i32) -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(level).expect("a level between 1 and 22"))
}
