//! The chosen images in order, with their bytes: what every format but the manifest is made of.
//!
//! Rows come as those of the manifest do, by partition and record; a window of them has 16 MiB of images at most, or one
//! image. The bytes of the next window are read while one is written. Memory: three windows, and the rows of a slice as
//! far as queries may have it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::ExportError;
use super::journal::{Journal, Unit};
use super::names::extension_of;
use super::select::Selection;
use super::subset::draw;
use crate::imaging::{ImagingOptions, process_raw};
use crate::model::{ImageEncoding, PixelSize};
use crate::query::output::RowWriter;
use crate::query::{
    ImagePlace, OutputFormat, OutputOptions, QueryError, QuerySession, RowStream, StoredImages,
};

/// Bytes of images of a window, as the column `image_bytes` has them.
const WINDOW_BYTES: u64 = 16 << 20;
/// Images of a window at most.
const WINDOW_IMAGES: usize = 1_000;

/// What every export says of an image: expression and name.
const COLUMNS: [(&str, &str); 14] = [
    ("c.uuid", "uuid"),
    ("c.source_id", "source_id"),
    ("c.identifier", "identifier"),
    ("c.server_name", "server_name"),
    ("c.label", "label"),
    ("c.license", "license"),
    ("c.source", "source"),
    ("c.title", "title"),
    ("c.resized_size[1]", "height"),
    ("c.resized_size[2]", "width"),
    ("c.hashsum_original", "hashsum_original"),
    ("c.hashsum_resized", "hashsum_resized"),
    // Raw pixels become PNG.
    ("case when c.image_format = 'raw' then 'png' else c.image_format end", "image_format"),
    ("c.image_bytes", "image_bytes"),
];
/// What is read of an image beside, for the export itself.
const PLACE: &str = "c.\"ddl:partition\" as \"ddl:partition\", c.\"ddl:part\" as \"ddl:part\", c.\"row\" as \"ddl:row\", \
     c.image_format = 'raw' as \"ddl:raw\"";
const NUM_PLACE: usize = 4;

/// Names of images: a text of the row that is its first column.
type Naming<'a> = Box<dyn FnMut(RowTexts<'_>) -> String + Send + 'a>;

/// What a name is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowTexts<'a> {
    pub uuid: &'a str,
    pub identifier: &'a str,
    pub label: Option<&'a str>,
    pub extension: &'static str,
}

/// How the rows of an export are made.
pub(super) struct RowsPlan<'a> {
    /// Name of the first column, and what stands there.
    pub name_column: &'static str,
    pub naming: Naming<'a>,
    /// Further columns, of the images or the list.
    pub columns: Vec<String>,
    /// A seed, to have the rows in another order.
    pub shuffle: Option<u64>,
    /// A condition on the columns of `ordered_images`.
    pub condition: String,
}

/// The rows of the chosen images, without their bytes.
pub(super) struct ImageRows<'a> {
    session: &'a QuerySession,
    queries: VecDeque<String>,
    is_shuffled: bool,
    stream: Option<RowStream>,
    /// Rows that have come and are in no window yet.
    rest: Option<RecordBatch>,
    name_column: &'static str,
    naming: Naming<'a>,
}

impl<'a> ImageRows<'a> {
    /// # Errors
    /// `NoColumn` when neither images nor lists have a column.
    pub async fn new(
        session: &'a QuerySession,
        selection: &Selection,
        plan: RowsPlan<'a>,
    ) -> Result<Self, ExportError> {
        let tables = session.tables().await?;
        let has = |table: &str, name: &str| {
            tables.iter().any(|t| t.name == table && t.columns.iter().any(|column| column.name == name))
        };
        let mut columns: Vec<String> =
            COLUMNS.iter().map(|(sql, name)| format!("{sql} as \"{name}\"")).collect();
        let mut reads_lists = false;
        for (at, name) in plan.columns.iter().enumerate() {
            let is_double = plan.columns[..at].contains(name) || *name == plan.name_column;
            if is_double || COLUMNS.iter().any(|(_, known)| known == name) {
                continue;
            }
            let quoted = name.replace('"', "\"\"");
            if name == "image" {
                return Err(ExportError::NoColumn { name: name.clone() });
            }
            if has("images", name) {
                columns.push(format!("c.\"{quoted}\" as \"{quoted}\""));
            } else if has("urls", name) {
                columns.push(format!("u.\"{quoted}\" as \"{quoted}\""));
                reads_lists = true;
            } else {
                return Err(ExportError::NoColumn { name: name.clone() });
            }
        }
        let columns = columns.join(", ");
        let query = |slice: (usize, usize), order: &str| {
            let chosen = selection.sql("*", slice);
            let (first, last) = slice;
            let lists = if reads_lists {
                format!(
                    "join ordered_urls as u on u.\"ddl:partition\" = c.\"ddl:partition\" and u.record = c.record \
                     and u.\"ddl:partition\" between {first} and {last}"
                )
            } else {
                String::new()
            };
            format!(
                "select {columns}, {PLACE} from (select * from ({chosen}) as images where {}) as c {lists} \
                 order by {order}",
                plan.condition
            )
        };
        let queries = match plan.shuffle {
            None => {
                selection.slices.iter().map(|&slice| query(slice, "c.\"ddl:partition\", c.record")).collect()
            }
            Some(seed) => {
                session.register_texts_function("ddl_shuffle", 1, move |texts| {
                    draw("shuffle", seed, texts[0].unwrap_or_default()).cast_signed()
                });
                [query(selection.whole(), "ddl_shuffle(c.uuid), c.uuid, c.identifier")].into()
            }
        };
        Ok(Self {
            session,
            queries,
            is_shuffled: plan.shuffle.is_some(),
            stream: None,
            rest: None,
            name_column: plan.name_column,
            naming: plan.naming,
        })
    }

    /// Whether there is a row after those of the windows.
    pub async fn has_next(&mut self) -> Result<bool, ExportError> {
        loop {
            if self.rest.as_ref().is_some_and(|rest| rest.num_rows() > 0) {
                return Ok(true);
            }
            self.rest = match &mut self.stream {
                Some(stream) => stream.next().await?,
                None => None,
            };
            if self.rest.is_none() {
                let Some(sql) = self.queries.pop_front() else { return Ok(false) };
                let stream = if self.is_shuffled {
                    self.session.stream_sorted(&sql).await?
                } else {
                    self.session.stream(&sql).await?
                };
                self.stream = Some(stream);
            }
        }
    }

    /// The next window, with no more rows than that.
    pub async fn next(&mut self, max_rows: usize) -> Result<Option<Window>, ExportError> {
        if !self.has_next().await? {
            return Ok(None);
        }
        let rest = self.rest.take().expect("has rows");
        let image_bytes = rest["image_bytes"].as_primitive::<Int64Type>();
        let (mut rows, mut bytes) = (0, 0);
        while rows < rest.num_rows().min(max_rows).min(WINDOW_IMAGES) {
            bytes += if image_bytes.is_valid(rows) { image_bytes.value(rows).unsigned_abs() } else { 0 };
            if rows > 0 && bytes > WINDOW_BYTES {
                break;
            }
            rows += 1;
        }
        self.rest = Some(rest.slice(rows, rest.num_rows() - rows));
        Window::new(&rest.slice(0, rows), self.name_column, &mut self.naming).map(Some)
    }
}

/// Some rows of an export.
pub(super) struct Window {
    /// The name, and what is known of each image.
    pub rows: RecordBatch,
    /// By what each image is.
    pub extensions: Vec<&'static str>,
    places: Vec<ImagePlace>,
    /// Sizes of raw pixels.
    raw: Vec<Option<PixelSize>>,
    /// Each row as a JSON object, and where it ends.
    json: Vec<u8>,
    json_ends: Vec<usize>,
}

impl Window {
    fn new(batch: &RecordBatch, name_column: &str, naming: &mut Naming<'_>) -> Result<Self, ExportError> {
        let num_rows = batch.num_rows();
        let number = |name: &str| batch[name].as_primitive::<Int32Type>().clone();
        let long = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
        let (partition, part, row) = (number("ddl:partition"), number("ddl:part"), long("ddl:row"));
        let places = (0..num_rows)
            .map(|at| ImagePlace { partition: partition.value(at), part: part.value(at), row: row.value(at) })
            .collect();
        let (is_raw, height, width) = (batch["ddl:raw"].as_boolean(), long("height"), long("width"));
        let raw = (0..num_rows).map(|at| {
            let size = |side: i64| u32::try_from(side).unwrap_or_default();
            let is_raw = is_raw.is_valid(at) && is_raw.value(at);
            is_raw.then(|| PixelSize { height: size(height.value(at)), width: size(width.value(at)) })
        });
        let raw = raw.collect();
        let formats = batch["image_format"].as_string::<i32>();
        let extensions: Vec<_> = (0..num_rows)
            .map(|at| extension_of(if formats.is_valid(at) { formats.value(at) } else { "" }))
            .collect();
        let (uuids, identifiers, labels) =
            (text_of(batch, "uuid"), text_of(batch, "identifier"), text_of(batch, "label"));
        let names = (0..num_rows).map(|at| {
            let label = labels.is_valid(at).then(|| labels.value(at));
            let (uuid, identifier, extension) = (uuids.value(at), identifiers.value(at), extensions[at]);
            Some(naming(RowTexts { uuid, identifier, label, extension }))
        });
        let names: StringArray = names.collect();
        let mut fields = vec![Arc::new(Field::new(name_column, DataType::Utf8, true))];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(names)];
        let num_shown = batch.num_columns() - NUM_PLACE;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()).take(num_shown) {
            // What the engine notes on its columns is no matter of the export.
            let plain = Field::new(field.name(), field.data_type().clone(), true);
            fields.push(Arc::new(plain));
            columns.push(column.clone());
        }
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| QueryError::Execution { message: error.to_string() })?;
        let options = OutputOptions { format: OutputFormat::Ndjson, table_width: None };
        let mut writer = RowWriter::of_schema(Vec::new(), rows.schema(), options)?;
        writer.write(&rows)?;
        let json = writer.finish()?;
        let json_ends = memchr::memchr_iter(b'\n', &json).map(|end| end + 1).collect();
        Ok(Self { rows, extensions, places, raw, json, json_ends })
    }

    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// The text that [`RowsPlan::naming`] gave a row.
    pub fn name(&self, row: usize) -> &str {
        self.rows.column(0).as_string::<i32>().value(row)
    }

    pub fn label(&self, row: usize) -> Option<&str> {
        let labels = self.rows["label"].as_string::<i32>();
        labels.is_valid(row).then(|| labels.value(row))
    }

    /// A row as a JSON object in a line.
    pub fn json(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.json_ends[row - 1] };
        &self.json[start..self.json_ends[row]]
    }
}

fn text_of<'a>(batch: &'a RecordBatch, name: &str) -> &'a StringArray {
    batch[name].as_string::<i32>()
}

/// The digest of the rows of a unit.
#[derive(Default)]
pub(super) struct UnitDigest {
    hasher: blake3::Hasher,
    pub num_images: u64,
}

impl UnitDigest {
    pub fn add(&mut self, window: &Window, row: usize) {
        self.hasher.update(window.json(row));
        self.num_images += 1;
    }

    pub fn hex(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// A window with the bytes of its images.
pub(super) struct ReadWindow {
    pub window: Window,
    pub images: Vec<Buffer>,
}

/// The windows of an export, each read while the one before is written.
pub(super) struct ImageWindows<'a> {
    rows: ImageRows<'a>,
    stored: Arc<StoredImages>,
    next: Option<JoinHandle<Result<ReadWindow, ExportError>>>,
}

impl<'a> ImageWindows<'a> {
    pub fn new(session: &QuerySession, rows: ImageRows<'a>) -> Self {
        Self { rows, stored: Arc::new(session.stored_images()), next: None }
    }

    /// Goes past what an export that was begun has finished. `each` sees the rows.
    ///
    /// # Errors
    /// `OtherExport` when there are other rows now.
    pub async fn take_over(
        &mut self,
        unit: Unit,
        journal: &mut Journal,
        mut each: impl FnMut(&Window) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut digest = UnitDigest::default();
        while digest.num_images < unit.num_images {
            let max_rows = usize::try_from(unit.num_images - digest.num_images).unwrap_or(usize::MAX);
            let Some(window) = self.rows.next(max_rows).await? else { break };
            (0..window.num_rows()).for_each(|row| digest.add(&window, row));
            each(&window)?;
        }
        let is_last = !self.rows.has_next().await?;
        journal.take_over(unit, digest.num_images, &digest.hex(), is_last)
    }

    /// # Errors
    /// When a file of images is damaged, or has moved so that a fresh view is needed.
    pub async fn next(&mut self) -> Result<Option<ReadWindow>, ExportError> {
        if self.next.is_none() {
            self.next = self.start().await?;
        }
        let Some(read) = self.next.take() else { return Ok(None) };
        self.next = self.start().await?;
        let read = read.await.map_err(|error| QueryError::Execution { message: error.to_string() })?;
        read.map(Some)
    }

    async fn start(&mut self) -> Result<Option<JoinHandle<Result<ReadWindow, ExportError>>>, ExportError> {
        let Some(window) = self.rows.next(usize::MAX).await? else { return Ok(None) };
        let stored = self.stored.clone();
        Ok(Some(tokio::task::spawn_blocking(move || {
            let mut images = stored.read(&window.places)?;
            for (image, size) in images.iter_mut().zip(&window.raw) {
                if let Some(size) = *size {
                    *image = png_of(image, size)?;
                }
            }
            Ok(ReadWindow { window, images })
        })))
    }
}

/// Raw pixels as a picture that others can read.
fn png_of(pixels: &Buffer, size: PixelSize) -> Result<Buffer, ExportError> {
    let options = ImagingOptions {
        image_encoding: ImageEncoding::Png,
        image_size: 0,
        max_image_pixels: u64::MAX,
        ..ImagingOptions::default()
    };
    let body = Bytes::copy_from_slice(pixels);
    let image = process_raw(&body, size, &options);
    let image = image.map_err(|error| QueryError::Execution { message: error.message })?.image;
    Ok(Buffer::from_vec(Vec::from(image)))
}
