//! ImageFolder: a folder for each label, with its images as files.
//!
//! | file | has |
//! |---|---|
//! | `LABEL/NAME.jpg` (by what the image is) | an image; its class is the folder |
//! | `metadata.csv`, `.jsonl` or `.parquet` | a row for each image: `file_name`, as Hugging Face reads it, the label as it is, and what else is known |
//! | `labels.csv` | the folder of each label |
//!
//! Images are written under temporary names, and made durable some thousand at a time. An archive is made of the files
//! afterwards, beside the folder, with its name before each path. Memory: three windows of images, and the labels.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::croissant::{
    Description, Facts, data_type_of, describe, field, file_object, file_set, record_set,
};
use super::files::{HashedFile, WRITER};
use super::journal::{Journal, Unit, UnitFile};
use super::labels::{LabelFolders, Labels};
use super::names::Namer;
use super::rows::{ImageRows, ImageWindows, RowsPlan, UnitDigest, Window};
use super::select::{SLICE_IMAGES, Selection};
use super::tar::TarWriter;
use super::{ExportError, FolderReport, ImagefolderOptions, MetadataFormat, clean};
use crate::query::output::RowWriter;
use crate::query::{OutputFormat, OutputOptions, QuerySession};
use crate::storage::AtomicBatch;

/// Bytes of images after which what was written is made durable, if not before.
const UNIT_BYTES: u64 = 256 << 20;

/// Writes the folders, and goes on with those that a killed export has left.
///
/// # Errors
/// When the folder has something else, a tool has not been run, a file of the dataset cannot be read, or the disk is full.
pub async fn export_imagefolder(
    session: &QuerySession,
    options: &ImagefolderOptions,
) -> Result<FolderReport, ExportError> {
    let mut journal = Journal::open(session.layout(), &options.output, "imagefolder", options)?;
    let selection = Selection::new(session, &options.selection, SLICE_IMAGES).await?;
    let mut namer = Namer::new(&options.naming, false)?;
    namer.find_meeting(session, &selection, true).await?;
    let num_names_met = namer.num_meeting();
    let labels = Labels::count(session, &selection).await?;
    let folders = LabelFolders::new(&labels);
    let rows = rows(session, &selection, options, namer.clone(), &folders).await?;
    let folder = journal.folder().to_owned();
    let mut metadata = Metadata::new(&folder, options.metadata);
    let mut windows = ImageWindows::new(session, rows);
    while let Some(unit) = journal.next_done() {
        windows.take_over(unit, &mut journal, |window| metadata.write(window)).await?;
    }
    let num_resumed = journal.units.iter().map(|unit| unit.num_images).sum();

    let mut batch = AtomicBatch::new(&folder, WRITER)?;
    let (mut digest, mut image_bytes) = (UnitDigest::default(), 0);
    while let Some(read) = windows.next().await? {
        for (row, image) in read.images.iter().enumerate() {
            if digest.num_images >= options.sync_every.max(1) || image_bytes >= UNIT_BYTES {
                batch.sync()?;
                journal.done(unit(&std::mem::take(&mut digest), std::mem::take(&mut image_bytes), false))?;
            }
            batch.write(read.window.name(row), image)?;
            digest.add(&read.window, row);
            image_bytes += image.len() as u64;
        }
        metadata.write(&read.window)?;
    }
    if digest.num_images > 0 {
        batch.sync()?;
        journal.done(unit(&digest, image_bytes, true))?;
    }
    let metadata = metadata.finish()?;
    let label_table = folders.write(&folder, &labels)?;
    let report = FolderReport {
        num_files: journal.units.iter().map(|unit| unit.num_images).sum(),
        num_resumed,
        num_names_met,
        num_labels_met: folders.num_met(),
        removals: clean::removals(session, &options.selection.clean.tools, &selection.slices).await?,
        ..FolderReport::of(&journal)
    };
    let facts = Facts::of(session, &selection).await?;
    let description = Description {
        format: "imagefolder",
        options: &options.croissant,
        export_options: json!(options),
        labels: &labels,
        report: &report,
        data_files: vec![("train", vec!["*/*".into(), format!("metadata.{}", options.metadata.as_str())])],
        files: distribution(&metadata, &label_table, &facts),
        record_sets: record_sets(&metadata),
    };
    let mut others = describe(session, &facts, &description).await?;
    others.push(label_table.name);
    others.extend(metadata.map(|(file, _)| file.name));
    if options.create_tar && !(journal.is_complete() && archive_path(options).exists()) {
        let rows = self::rows(session, &selection, options, namer, &folders).await?;
        archive(rows, options, &others).await?;
    }
    journal.finish()?;
    Ok(report)
}

fn distribution(metadata: &Option<(UnitFile, SchemaRef)>, labels: &UnitFile, facts: &Facts) -> Vec<Value> {
    let mut files = vec![file_object(labels, "text/csv")];
    if let Some((file, _)) = metadata {
        let media_type = match file.name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl") => "application/jsonlines",
            Some("parquet") => "application/x-parquet",
            _ => "text/csv",
        };
        files.push(file_object(file, media_type));
        files.push(file_set("image-files", &[], &facts.media_types(), &facts.patterns()));
    }
    files
}

/// Images with their rows of the table, joined by their paths.
fn record_sets(metadata: &Option<(UnitFile, SchemaRef)>) -> Vec<Value> {
    let Some((file, schema)) = metadata else { return Vec::new() };
    let of_images =
        |extract: &str| json!({"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": extract}});
    let of_table = |column: &str| json!({"fileObject": {"@id": file.name}, "extract": {"column": column}});
    let mut path = of_images("fullpath");
    path["transform"] = json!({"regex": "(.+)"});
    let mut file_name = field("images", "file_name", "sc:Text", &path);
    file_name["references"] = of_table("file_name");
    let mut fields = vec![file_name, field("images", "image", "sc:ImageObject", &of_images("content"))];
    for column in schema.fields().iter().skip(1) {
        let name = column.name();
        fields.push(field("images", name, data_type_of(column.data_type()), &of_table(name)));
    }
    let labels = ["label", "folder"].map(|name| {
        let source = json!({"fileObject": {"@id": "labels.csv"}, "extract": {"column": name}});
        field("labels", name, "sc:Text", &source)
    });
    vec![
        record_set("images", "An image, and what is known of it.", "file_name", fields),
        record_set("labels", "The folder of each label.", "folder", labels.into()),
    ]
}

async fn rows<'a>(
    session: &'a QuerySession,
    selection: &Selection,
    options: &ImagefolderOptions,
    mut namer: Namer,
    folders: &'a LabelFolders,
) -> Result<ImageRows<'a>, ExportError> {
    let plan = RowsPlan {
        name_column: "file_name",
        naming: Box::new(move |row| {
            let stem = namer.name(row.uuid, row.identifier, row.label);
            format!("{}/{stem}.{}", folders.folder(row.label), row.extension)
        }),
        columns: options.columns.clone(),
        shuffle: None,
        condition: "true".into(),
    };
    ImageRows::new(session, selection, plan).await
}

fn unit(digest: &UnitDigest, image_bytes: u64, is_last: bool) -> Unit {
    Unit { num_images: digest.num_images, digest: digest.hex(), image_bytes, files: Vec::new(), is_last }
}

/// The table of all images.
struct Metadata {
    folder: PathBuf,
    format: MetadataFormat,
    /// Begun with the first rows, which have the columns.
    writer: Option<(RowWriter<HashedFile>, SchemaRef)>,
}

impl Metadata {
    fn new(folder: &Path, format: MetadataFormat) -> Self {
        Self { folder: folder.to_owned(), format, writer: None }
    }

    fn name(&self) -> String {
        format!("metadata.{}", self.format.as_str())
    }

    fn write(&mut self, window: &Window) -> Result<(), ExportError> {
        let (writer, _) = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let file = HashedFile::create(&self.folder, &self.name())?;
                let format = match self.format {
                    MetadataFormat::Csv => OutputFormat::Csv,
                    MetadataFormat::Jsonl => OutputFormat::Ndjson,
                    MetadataFormat::Parquet => OutputFormat::Parquet,
                };
                let options = OutputOptions { format, table_width: None };
                let schema = window.rows.schema();
                self.writer.insert((RowWriter::of_schema(file, schema.clone(), options)?, schema))
            }
        };
        Ok(writer.write(&window.rows)?)
    }

    /// Returns what was written, with its columns; nothing, if there are no images.
    fn finish(self) -> Result<Option<(UnitFile, SchemaRef)>, ExportError> {
        let Some((writer, schema)) = self.writer else { return Ok(None) };
        Ok(Some((writer.finish()?.commit()?, schema)))
    }
}

/// `OUT.tar` or `OUT.tar.gz`.
fn archive_path(options: &ImagefolderOptions) -> PathBuf {
    let mut path: OsString = options.output.components().as_path().into();
    path.push(if options.compress_tar { ".tar.gz" } else { ".tar" });
    path.into()
}

async fn archive(
    mut rows: ImageRows<'_>,
    options: &ImagefolderOptions,
    extras: &[String],
) -> Result<(), ExportError> {
    let path = archive_path(options);
    let failed = |source| ExportError::Write { path: path.clone(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = options.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let above = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut file = HashedFile::create(&above, &name)?;
    let mut members = Members { folder: &options.output, prefix: &folder, extras, rows: &mut rows };
    if options.compress_tar {
        // Images do not get smaller: what is wanted is the format.
        let mut encoder = GzEncoder::new(&mut file, Compression::fast());
        members.write(&mut encoder).await?;
        encoder.finish().map_err(failed)?;
    } else {
        members.write(&mut file).await?;
    }
    file.commit().map(drop)
}

/// What an archive is made of: files that are in a folder.
struct Members<'a, 'r> {
    folder: &'a Path,
    /// What stands before their paths.
    prefix: &'a str,
    extras: &'a [String],
    rows: &'a mut ImageRows<'r>,
}

impl Members<'_, '_> {
    async fn write(&mut self, target: &mut impl io::Write) -> Result<(), ExportError> {
        let mut tar = TarWriter::new(target);
        for name in self.extras {
            self.append(&mut tar, name)?;
        }
        while let Some(window) = self.rows.next(usize::MAX).await? {
            for row in 0..window.num_rows() {
                self.append(&mut tar, window.name(row))?;
            }
        }
        tar.finish().map(drop).map_err(|source| ExportError::Write { path: self.folder.to_owned(), source })
    }

    fn append(&self, tar: &mut TarWriter<&mut impl io::Write>, name: &str) -> Result<(), ExportError> {
        let path = self.folder.join(name);
        let mut append = || {
            let mut file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            tar.append_from(&format!("{}/{name}", self.prefix), bytes, &mut file)
        };
        append().map_err(|source| ExportError::Write { path: path.clone(), source })
    }
}
