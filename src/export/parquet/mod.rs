//! Parquet as Hugging Face has it: `data/train-000000.parquet`, `data/validation-...`, `data/test-...`.
//!
//! `image` is a struct of `bytes` and `path`, and the schema's metadata says that it is the feature `Image`; row groups have
//! 100 rows, as the viewer wants them, and pages an index, so that one image is read with little else. An image is in the
//! same split in every export: a hash of its uuid decides. Memory: a row group (256 MiB at most), and three windows of images.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BinaryViewBuilder, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Value, json};

use super::croissant::{
    Description, Facts, data_type_of, describe, field, file_object, file_set, record_set,
};
use super::files::HashedFile;
use super::journal::{Journal, Unit, UnitFile};
use super::labels::Labels;
use super::names::Namer;
use super::rows::{ImageRows, ImageWindows, ReadWindow, RowsPlan, UnitDigest, Window};
use super::select::{SLICE_IMAGES, Selection};
use super::subset::draw;
use super::{ExportError, FolderReport, ParquetOptions, clean};
use crate::query::{QueryError, QuerySession};

const ROW_GROUP_ROWS: usize = 100;
/// A row group of fewer rows, if they have so many bytes.
const ROW_GROUP_BYTES: usize = 256 << 20;
/// A page of images is closed once it holds so much.
const IMAGE_PAGE_BYTES: usize = 64 << 10;

/// In the order in which they are written.
pub(super) const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// Writes the files, and goes on with those that a killed export has left.
///
/// # Errors
/// When the folder has something else, a tool has not been run, a file of the dataset cannot be read, or the disk is full.
pub async fn export_parquet(
    session: &QuerySession,
    options: &ParquetOptions,
) -> Result<FolderReport, ExportError> {
    let shares = [options.validation, options.test, options.validation + options.test];
    if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
        return Err(ExportError::Shares { validation: options.validation, test: options.test });
    }
    let mut journal = Journal::open(session.layout(), &options.output, "parquet", options)?;
    let selection = Selection::new(session, &options.selection, SLICE_IMAGES).await?;
    let mut namer = Namer::new(&options.naming, false)?;
    namer.find_meeting(session, &selection, false).await?;
    let num_names_met = namer.num_meeting();
    let (validation, test) = (options.validation, options.test);
    session.register_texts_function("ddl_split", 1, move |texts| {
        split_of(texts[0].unwrap_or_default(), validation, test) as i64
    });
    let (mut num_resumed, mut schema) = (0, None);
    for (at, split) in SPLITS.into_iter().enumerate() {
        let mut namer = namer.clone();
        let plan = RowsPlan {
            name_column: "file_name",
            naming: Box::new(move |row| {
                format!("{}.{}", namer.name(row.uuid, row.identifier, None), row.extension)
            }),
            columns: options.columns.clone(),
            shuffle: None,
            condition: format!("ddl_split(images.uuid) = {at}"),
        };
        let rows = ImageRows::new(session, &selection, plan).await?;
        let mut windows = ImageWindows::new(session, rows);
        let prefix = format!("data/{split}-");
        let mut num_files = 0;
        let mut note = |window: &Window| {
            schema.get_or_insert_with(|| window.rows.schema());
            Ok(())
        };
        while let Some(unit) = journal.next_done_of(&prefix) {
            num_resumed += unit.num_images;
            num_files += 1;
            windows.take_over(unit, &mut journal, &mut note).await?;
        }
        let mut split =
            SplitWriter { journal: &mut journal, prefix, num_files, max_file_bytes: options.max_file_bytes };
        let columns = split.write(&mut windows).await?;
        schema = schema.or(columns);
    }
    let labels = Labels::count(session, &selection).await?;
    let report = FolderReport {
        num_files: journal.units.len() as u64,
        num_resumed,
        num_names_met,
        removals: clean::removals(session, &options.selection.clean.tools, &selection.slices).await?,
        ..FolderReport::of(&journal)
    };
    let files: Vec<_> = journal.units.iter().flat_map(|unit| &unit.files).collect();
    let has_split = |split: &str| files.iter().any(|file| file.name.starts_with(&format!("data/{split}-")));
    let splits = SPLITS.into_iter().filter(|split| has_split(split));
    let facts = Facts::of(session, &selection).await?;
    let description = Description {
        format: "parquet",
        options: &options.croissant,
        export_options: json!(options),
        labels: &labels,
        report: &report,
        data_files: splits.map(|split| (split, vec![format!("data/{split}-*.parquet")])).collect(),
        files: distribution(&files),
        record_sets: schema.as_ref().map_or(Vec::new(), |schema| record_sets(schema)),
    };
    describe(session, &facts, &description).await?;
    journal.finish()?;
    Ok(report)
}

fn distribution(files: &[&UnitFile]) -> Vec<Value> {
    const PARQUET: &str = "application/x-parquet";
    let mut all: Vec<_> = files.iter().map(|file| file_object(file, PARQUET)).collect();
    if !all.is_empty() {
        all.push(file_set("parquet-files", &[], &[PARQUET], &["data/*.parquet".into()]));
    }
    all
}

fn record_sets(columns: &Schema) -> Vec<Value> {
    let of_files = |extract: Value| json!({"fileSet": {"@id": "parquet-files"}, "extract": extract});
    let mut image = of_files(json!({"column": "image"}));
    image["transform"] = json!({"jsonPath": "bytes"});
    let mut split = of_files(json!({"fileProperty": "fullpath"}));
    split["transform"] = json!({"regex": "data/(train|validation|test)-.+"});
    let mut fields =
        vec![field("images", "image", "sc:ImageObject", &image), field("images", "split", "sc:Text", &split)];
    for column in columns.fields().iter().skip(1).filter(|column| column.name() != "split") {
        let source = of_files(json!({"column": column.name()}));
        fields.push(field("images", column.name(), data_type_of(column.data_type()), &source));
    }
    vec![record_set("images", "An image, and what is known of it.", "uuid", fields)]
}

/// Position of an image's split: the same whatever else is exported.
fn split_of(uuid: &str, validation: f64, test: f64) -> usize {
    let number = draw("split", 0, uuid) as f64 / 2_f64.powi(64);
    match number {
        number if number < test => 2,
        number if number < test + validation => 1,
        _ => 0,
    }
}

/// Writes the files of a split.
struct SplitWriter<'a> {
    journal: &'a mut Journal,
    /// What their names begin with.
    prefix: String,
    num_files: u64,
    max_file_bytes: u64,
}

impl SplitWriter<'_> {
    /// Returns the columns of the rows, if there were any.
    async fn write(&mut self, windows: &mut ImageWindows<'_>) -> Result<Option<SchemaRef>, ExportError> {
        let mut file: Option<SplitFile> = None;
        let mut schema = None;
        while let Some(read) = windows.next().await? {
            schema.get_or_insert_with(|| read.window.rows.schema());
            let mut row = 0;
            while row < read.images.len() {
                let taken = match &mut file {
                    Some(file) => file.write(&read, row, self.max_file_bytes)?,
                    None => 0,
                };
                row += taken;
                if row < read.images.len() {
                    if let Some(full) = file.take() {
                        self.journal.done(full.finish(false)?)?;
                    }
                    let name = format!("{}{:06}.parquet", self.prefix, self.num_files);
                    self.num_files += 1;
                    file = Some(SplitFile::create(self.journal, &name, &read)?);
                }
            }
        }
        if let Some(last) = file {
            self.journal.done(last.finish(true)?)?;
        }
        Ok(schema)
    }
}

struct SplitFile {
    writer: ArrowWriter<HashedFile>,
    schema: SchemaRef,
    digest: UnitDigest,
    image_bytes: u64,
}

impl SplitFile {
    fn create(journal: &Journal, name: &str, read: &ReadWindow) -> Result<Self, ExportError> {
        let rows = read.window.rows.schema();
        let mut fields = vec![Arc::new(Field::new("image", DataType::Struct(image_fields()), true))];
        fields.extend(rows.fields().iter().skip(1).cloned());
        let schema = Arc::new(Schema::new(fields));
        let file = HashedFile::create(journal.folder(), name)?;
        let options = ArrowWriterOptions::new()
            .with_properties(properties(&schema))
            // That images are views here is no matter of the file.
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema.clone(), options).map_err(of_parquet)?;
        Ok(Self { writer, schema, digest: UnitDigest::default(), image_bytes: 0 })
    }

    /// Writes images from `first` on, as many as there is room for, and returns how many these are. The first image of a
    /// file always has room.
    fn write(&mut self, read: &ReadWindow, first: usize, max_bytes: u64) -> Result<usize, ExportError> {
        let mut images = BinaryViewBuilder::new();
        let mut rows = 0;
        for (row, image) in read.images.iter().enumerate().skip(first) {
            let has_room = self.image_bytes + image.len() as u64 <= max_bytes || self.digest.num_images == 0;
            if !has_room {
                break;
            }
            rows += 1;
            let block = images.append_block(image.clone());
            images
                .try_append_view(block, 0, image.len() as u32)
                .map_err(|error| QueryError::Execution { message: error.to_string() })?;
            self.digest.add(&read.window, row);
            self.image_bytes += image.len() as u64;
        }
        if rows == 0 {
            return Ok(0);
        }
        let shown = read.window.rows.slice(first, rows);
        let parts: Vec<ArrayRef> =
            vec![Arc::new(images.finish()), Arc::new(shown.column(0).as_string::<i32>().clone())];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StructArray::new(image_fields(), parts, None))];
        columns.extend(shown.columns().iter().skip(1).cloned());
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| QueryError::Execution { message: error.to_string() })?;
        self.writer.write(&batch).map_err(of_parquet)?;
        Ok(rows)
    }

    fn finish(self, is_last: bool) -> Result<Unit, ExportError> {
        let file = self.writer.into_inner().map_err(of_parquet)?.commit()?;
        Ok(Unit {
            num_images: self.digest.num_images,
            digest: self.digest.hex(),
            image_bytes: self.image_bytes,
            files: vec![file],
            is_last,
        })
    }
}

fn image_fields() -> Fields {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    vec![field("bytes", DataType::BinaryView), field("path", DataType::Utf8)].into()
}

fn properties(schema: &Schema) -> WriterProperties {
    let bytes = ColumnPath::from(vec!["image".to_owned(), "bytes".to_owned()]);
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_created_by(concat!("ddl ", env!("CARGO_PKG_VERSION")).into())
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), features(schema))]))
        .set_column_data_page_size_limit(bytes.clone(), IMAGE_PAGE_BYTES)
        .set_column_compression(bytes.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(bytes.clone(), false)
        .set_column_statistics_enabled(bytes, EnabledStatistics::None);
    for unique in ["uuid", "identifier", "hashsum_original", "hashsum_resized"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    builder.build()
}

/// What `datasets` reads of the columns' meaning.
fn features(schema: &Schema) -> String {
    let mut features = serde_json::Map::new();
    for field in schema.fields() {
        let dtype = match field.data_type() {
            DataType::Struct(_) if field.name() == "image" => {
                features.insert(field.name().clone(), json!({"_type": "Image"}));
                continue;
            }
            DataType::Utf8 => "string",
            DataType::Int64 => "int64",
            DataType::Int32 => "int32",
            DataType::Float64 => "float64",
            DataType::Boolean => "bool",
            // What it is, `datasets` sees.
            _ => continue,
        };
        features.insert(field.name().clone(), json!({"dtype": dtype, "_type": "Value"}));
    }
    json!({"info": {"features": features}}).to_string()
}

fn of_parquet(error: parquet::errors::ParquetError) -> ExportError {
    QueryError::Execution { message: error.to_string() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_have_their_shares_and_stay() {
        let mut images = [0; 3];
        for number in 0..10_000 {
            let uuid = format!("uuid-{number}");
            images[split_of(&uuid, 0.2, 0.1)] += 1;
            // A larger share of tests takes from the others only.
            if split_of(&uuid, 0.2, 0.1) == 2 {
                assert_eq!(split_of(&uuid, 0.1, 0.3), 2);
            }
            assert_eq!(split_of(&uuid, 0.0, 0.0), 0);
            assert_eq!(split_of(&uuid, 0.0, 1.0), 2);
        }
        let near = |images: i32, expect: i32| (images - expect).abs() < 200;
        assert!(near(images[0], 7000) && near(images[1], 2000) && near(images[2], 1000), "{images:?}");
    }
}
