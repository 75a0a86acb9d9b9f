//! WebDataset: tar archives of samples, each some members of one key.
//!
//! | file | has |
//! |---|---|
//! | `NAME-000000.tar` | `KEY.jpg` (by what the image is), `KEY.json`, `KEY.cls` (-1 without a label; none, if no image has one), `KEY.txt` (chosen columns) |
//! | `NAME-000000.idx` | where each member is, as NVIDIA DALI reads it (`wds2idx`, version 1.2) |
//! | `NAME-000000.json` | what the shard has: images, bytes, SHA-256, labels, formats |
//! | `index.json` | all shards, as `wids` reads it |
//! | `labels.csv` | the class of each label |
//!
//! A shard has its name once it is whole, and its number follows the one before. Memory: three windows of images.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::{Value, json};

use super::croissant::{Description, Facts, describe, field, file_object, file_set, record_set};
use super::files::{HashedFile, write_csv, write_json, write_whole};
use super::journal::{Journal, Unit, UnitFile};
use super::labels::Labels;
use super::names::Namer;
use super::rows::{ImageRows, ImageWindows, ReadWindow, RowsPlan, UnitDigest};
use super::select::{SLICE_IMAGES, Selection};
use super::tar::{TarWriter, member_bytes};
use super::{ExportError, FolderReport, WebdatasetOptions, clean};
use crate::query::{QueryError, QuerySession};

/// The class of an image without a label, where others have one.
const UNLABELLED: &str = "-1";

/// What ends an archive.
const TRAILER_BYTES: u64 = 1024;

/// Writes the shards, and goes on with those that a killed export has left.
///
/// # Errors
/// When the folder has something else, a tool has not been run, a file of the dataset cannot be read, or the disk is full.
pub async fn export_webdataset(
    session: &QuerySession,
    options: &WebdatasetOptions,
) -> Result<FolderReport, ExportError> {
    // Shards that were begun under one name go on under it only.
    let options = &WebdatasetOptions { name: Some(shard_name(options)), ..options.clone() };
    let mut journal = Journal::open(session.layout(), &options.output, "webdataset", options)?;
    let selection = Selection::new(session, &options.selection, SLICE_IMAGES).await?;
    let mut namer = Namer::new(&options.naming, true)?;
    namer.find_meeting(session, &selection, false).await?;
    let labels = Labels::count(session, &selection).await?;
    let num_names_met = namer.num_meeting();
    let plan = RowsPlan {
        name_column: "key",
        naming: Box::new(move |row| namer.name(row.uuid, row.identifier, None)),
        columns: options.columns.iter().chain(&options.text_columns).cloned().collect(),
        shuffle: options.shuffle,
        condition: "true".into(),
    };
    let rows = ImageRows::new(session, &selection, plan).await?;
    let mut windows = ImageWindows::new(session, rows);
    while let Some(unit) = journal.next_done() {
        windows.take_over(unit, &mut journal, |_| Ok(())).await?;
    }
    let num_resumed = journal.units.iter().map(|unit| unit.num_images).sum();

    let shards = Shards::new(options, &labels);
    let mut shard: Option<Shard> = None;
    while let Some(read) = windows.next().await? {
        let texts = shards.texts(&read)?;
        for row in 0..read.window.num_rows() {
            let sample = shards.sample(&read, &texts, row);
            if let Some(full) = shard.take_if(|shard| !shard.has_room_for(&sample, options)) {
                journal.done(full.finish(false)?)?;
            }
            let shard = match &mut shard {
                Some(shard) => shard,
                None => {
                    let name = format!("{}-{:06}", shards.name, journal.units.len());
                    shard.insert(Shard::create(journal.folder(), name)?)
                }
            };
            shard.append(&sample)?;
            shard.digest.add(&read.window, row);
        }
    }
    if let Some(last) = shard {
        journal.done(last.finish(true)?)?;
    }
    let folder = journal.folder();
    write_json(folder, "index.json", &shards.index(&journal.units))?;
    let classes = write_classes(folder, &labels)?;
    let report = FolderReport {
        num_files: journal.units.len() as u64,
        num_resumed,
        num_names_met,
        removals: clean::removals(session, &options.selection.clean.tools, &selection.slices).await?,
        ..FolderReport::of(&journal)
    };
    let facts = Facts::of(session, &selection).await?;
    let description = Description {
        format: "webdataset",
        options: &options.croissant,
        export_options: json!(options),
        labels: &labels,
        report: &report,
        data_files: vec![("train", vec![format!("{}-*.tar", shards.name)])],
        files: distribution(&journal.units, &facts, &classes),
        record_sets: record_sets(&facts),
    };
    describe(session, &facts, &description).await?;
    journal.finish()?;
    Ok(report)
}

/// The archives, what is in them, and the table of classes.
fn distribution(units: &[Unit], facts: &Facts, classes: &UnitFile) -> Vec<Value> {
    let archives = || units.iter().flat_map(|unit| &unit.files);
    let mut files: Vec<_> = archives().map(|file| file_object(file, "application/x-tar")).collect();
    files.push(file_object(classes, "text/csv"));
    if !files.is_empty() && facts.num_formats() > 0 {
        let names: Vec<_> = archives().map(|file| file.name.as_str()).collect();
        files.push(file_set("image-files", &names, &facts.media_types(), &facts.patterns()));
    }
    files
}

fn record_sets(facts: &Facts) -> Vec<Value> {
    let of_images =
        |extract: &str| json!({"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": extract}});
    let mut key = of_images("filename");
    key["transform"] = json!({"regex": "([^.]+)"});
    let samples = vec![
        field("samples", "key", "sc:Text", &key),
        field("samples", "image", "sc:ImageObject", &of_images("content")),
    ];
    let of_classes =
        |column: &str| json!({"fileObject": {"@id": "labels.csv"}, "extract": {"column": column}});
    let columns = [("class", "sc:Integer"), ("label", "sc:Text"), ("images", "sc:Integer")];
    let classes = columns.map(|(name, data_type)| field("classes", name, data_type, &of_classes(name)));
    let mut sets = vec![record_set("classes", "The label of each class.", "class", classes.into())];
    if facts.num_formats() > 0 {
        sets.insert(0, record_set("samples", "An image for each key.", "key", samples));
    }
    sets
}

/// `class,label,images`.
fn write_classes(folder: &Path, labels: &Labels) -> Result<UnitFile, ExportError> {
    let rows = labels.counts.iter().enumerate();
    let rows = rows.map(|(class, (label, images))| [class.to_string(), label.clone(), images.to_string()]);
    write_csv(folder, "labels.csv", &["class", "label", "images"], rows)
}

/// What stands before the numbers of shards: letters, digits, `-`, `_` and `.`.
fn shard_name(options: &WebdatasetOptions) -> String {
    let folder = || options.output.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = options.name.clone().or_else(folder).unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(is_plain).take(100).collect();
    match name.trim_start_matches('.') {
        "" => "shard".into(),
        name => name.to_owned(),
    }
}

/// What all shards have in common.
struct Shards<'a> {
    name: String,
    classes: BTreeMap<&'a str, usize>,
    text_columns: &'a [String],
}

/// The members of one sample: what follows the key, and the bytes.
struct Sample<'a> {
    key: &'a str,
    /// The image is the first.
    members: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    label: Option<&'a str>,
}

impl<'a> Shards<'a> {
    fn new(options: &'a WebdatasetOptions, labels: &'a Labels) -> Self {
        let classes = labels.counts.keys().enumerate().map(|(class, label)| (label.as_str(), class));
        Self {
            name: options.name.clone().unwrap_or_default(),
            classes: classes.collect(),
            text_columns: &options.text_columns,
        }
    }

    fn texts(&self, read: &ReadWindow) -> Result<Vec<StringArray>, ExportError> {
        let texts = self.text_columns.iter().map(|name| {
            let text = cast(&read.window.rows[name.as_str()], &DataType::Utf8)
                .map_err(|error| QueryError::Execution { message: format!("column `{name}`: {error}") })?;
            Ok(text.as_string().clone())
        });
        texts.collect()
    }

    fn sample<'r>(&self, read: &'r ReadWindow, texts: &'r [StringArray], row: usize) -> Sample<'r> {
        let window = &read.window;
        let label = window.label(row);
        let mut members: Vec<(Cow<'r, str>, Cow<'r, [u8]>)> = vec![
            (window.extensions[row].into(), read.images[row].as_slice().into()),
            ("json".into(), window.json(row).trim_ascii_end().into()),
        ];
        if !self.classes.is_empty() {
            // Readers want the same members in every sample.
            let class = label.and_then(|label| self.classes.get(label));
            let class = class.map_or_else(|| UNLABELLED.into(), ToString::to_string);
            members.push(("cls".into(), class.into_bytes().into()));
        }
        for (name, text) in self.text_columns.iter().zip(texts) {
            let suffix = if texts.len() == 1 { "txt".into() } else { format!("{}.txt", plain(name)).into() };
            let text = if text.is_valid(row) { text.value(row) } else { "" };
            members.push((suffix, text.as_bytes().into()));
        }
        Sample { key: window.name(row), members, label }
    }

    /// As `wids` reads it.
    fn index(&self, units: &[Unit]) -> Value {
        let shards = units.iter().filter_map(|unit| {
            let tar = unit.files.first()?;
            Some(json!({
                "url": tar.name, "nsamples": unit.num_images, "filesize": tar.bytes, "sha256": tar.sha256
            }))
        });
        json!({
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": self.name,
            "shardlist": shards.collect::<Vec<_>>(),
        })
    }
}

fn plain(column: &str) -> String {
    column.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(24).collect()
}

/// A shard that is being written.
struct Shard {
    folder: PathBuf,
    name: String,
    tar: TarWriter<HashedFile>,
    /// What the archive will have when it ends now.
    tar_bytes: u64,
    /// Lines of the index.
    index: String,
    digest: UnitDigest,
    image_bytes: u64,
    labels: BTreeMap<String, u64>,
    formats: BTreeMap<String, u64>,
}

impl Shard {
    fn create(folder: &Path, name: String) -> Result<Self, ExportError> {
        Ok(Self {
            folder: folder.to_owned(),
            tar: TarWriter::new(HashedFile::create(folder, &format!("{name}.tar"))?),
            name,
            tar_bytes: TRAILER_BYTES,
            index: String::new(),
            digest: UnitDigest::default(),
            image_bytes: 0,
            labels: BTreeMap::new(),
            formats: BTreeMap::new(),
        })
    }

    fn has_room_for(&self, sample: &Sample<'_>, options: &WebdatasetOptions) -> bool {
        let sample_bytes: u64 = sample
            .members
            .iter()
            .map(|(suffix, bytes)| member_bytes(&sample.path(suffix), bytes.len() as u64))
            .sum();
        let num_images = self.digest.num_images;
        num_images == 0
            || (num_images < options.max_shard_images
                && self.tar_bytes + sample_bytes <= options.max_shard_bytes)
    }

    fn append(&mut self, sample: &Sample<'_>) -> Result<(), ExportError> {
        let path = self.folder.join(format!("{}.tar", self.name));
        for (at, (suffix, bytes)) in sample.members.iter().enumerate() {
            let name = sample.path(suffix);
            let offset = self
                .tar
                .append(&name, bytes)
                .map_err(|source| ExportError::Write { path: path.clone(), source })?;
            self.tar_bytes += member_bytes(&name, bytes.len() as u64);
            let space = if at == 0 { "" } else { " " };
            let _ = write!(self.index, "{space}{suffix} {offset} {} {name}", bytes.len());
        }
        self.index.push('\n');
        let (format, image) = &sample.members[0];
        self.image_bytes += image.len() as u64;
        *self.formats.entry(format.to_string()).or_default() += 1;
        if let Some(label) = sample.label {
            *self.labels.entry(label.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Gives the files their names, the archive first.
    fn finish(self, is_last: bool) -> Result<Unit, ExportError> {
        let Self { folder, name, tar, index, digest, image_bytes, labels, formats, .. } = self;
        let path = folder.join(format!("{name}.tar"));
        let tar = tar.finish().map_err(|source| ExportError::Write { path, source })?.commit()?;
        let num_images = digest.num_images;
        write_whole(&folder, &format!("{name}.idx"), format!("v1.2 {num_images}\n{index}").as_bytes())?;
        let statistics = json!({
            "shard": tar.name, "num_images": num_images, "image_bytes": image_bytes, "bytes": tar.bytes,
            "sha256": tar.sha256, "formats": formats, "labels": labels,
        });
        write_json(&folder, &format!("{name}.json"), &statistics)?;
        Ok(Unit { num_images, digest: digest.hex(), image_bytes, files: vec![tar], is_last })
    }
}

impl Sample<'_> {
    fn path(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.key)
    }
}
