//! `dedup` (`duplication_based`): images that are there more than once. `dedup_against`: images that another dataset
//! has as well, such as those to test with among those to train with.
//!
//! Equal images have the same `hashsum_original` (`exact`), near ones perceptual hashes that differ in few bits
//! (`near`, if `near_distance` is set). Of several images the first in the order of preference ([`Keep`]) stays, and
//! each that goes names the one for which it goes. Near is not transitive, so an image goes only for one that is itself
//! near to it, and that stays. What goes for an equal image takes no part in the search for near ones: its witness is that
//! image, also where this one goes for a near one in its turn.
//!
//! Against another dataset whatever it has goes; of several of its images the witness is the nearest, then the one with
//! the lowest `uuid`.
//!
//! The result depends on the images alone: not on ranks, nor on the order in which they came (but [`Keep::Oldest`] is
//! about that).

mod exact;
mod keep;
mod licence;
mod near;
mod sketch;
mod temp_table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub use self::keep::Keep;
use self::temp_table::TempTable;
use super::filter::selected_schema;
use super::{FilterInput, FilterTable, Selects, Tool, ToolError, ToolOptions};
use crate::query::QuerySession;

/// The tool that compares with another dataset.
pub const AGAINST: &str = "dedup_against";

/// Columns of another dataset's images that are looked at; the first and `hashsum_original` it must have.
pub const OTHER_COLUMNS: [&str; 6] =
    ["uuid", "source_id", "server_name", "partition_id", "hashsum_original", "perceptual_hash"];

/// What is said of each image, here and in another dataset.
const IMAGE: &str = "\"ddl:partition\", record, uuid, source_id, server_name, partition_id";

/// Another dataset, by where it is and what was in it.
struct Other {
    path: Option<PathBuf>,
    fingerprint: u64,
}

pub(super) struct Dedup {
    keep: Keep,
    near_distance: u32,
    /// About how many images are compared at once.
    images_at_once: u64,
    /// Compares with this one, and not within.
    against: Option<Other>,
}

impl Dedup {
    pub fn new(options: &ToolOptions) -> Self {
        let &ToolOptions { keep, near_distance, .. } = options;
        Self { keep, near_distance, images_at_once: exact::MAX_IMAGES, against: None }
    }

    pub fn against(options: &ToolOptions) -> Self {
        let other = Other { path: options.against.clone(), fingerprint: options.against_fingerprint };
        Self { against: Some(other), ..Self::new(options) }
    }

    async fn choose(&self, input: &FilterInput<'_>, table: &mut FilterTable) -> Result<(), ToolError> {
        if matches!(self.against, Some(Other { path: None, .. })) {
            return Err(ToolError::Failed(format!(
                "`{AGAINST}` compares with another dataset: name it with `--against PATH`"
            )));
        }
        let session = input.session();
        session.register_text_function(licence::RANK, |text| licence::rank(text).into());
        table.with_keepers();
        let mut gone = Gone::new(session)?;
        exact::find(self, input, &mut gone).await?;
        near::find(self, input, &mut gone).await?;
        gone.register(session)?;
        let mut rows =
            session.stream_sorted("select * from dedup_gone order by \"ddl:partition\", record").await?;
        while let Some(batch) = rows.next().await? {
            table.write(&batch)?;
        }
        Ok(())
    }
}

impl Tool for Dedup {
    fn name(&self) -> &str {
        if self.against.is_some() { AGAINST } else { "dedup" }
    }

    fn description(&self) -> &str {
        match self.against {
            None => "removes all but one of equal images, and of near ones with `--near`",
            Some(_) => "removes images that another dataset has as well",
        }
    }

    fn parameters(&self) -> String {
        let Self { keep, near_distance, against, .. } = self;
        match against {
            None => format!("keep: {}\nnear_distance: {near_distance}", keep.as_str()),
            Some(Other { path, fingerprint }) => format!(
                "against: {} ({fingerprint:016x})\nnear_distance: {near_distance}",
                path.clone().unwrap_or_default().display()
            ),
        }
    }

    fn selects(&self) -> Selects {
        Selects::Images
    }

    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        self.choose(input, table).boxed()
    }
}

/// Makes `other_images` of a table `other` that has some of [`OTHER_COLUMNS`]: what is compared, in our types.
///
/// # Errors
/// When a column is missing or its type does not convert.
pub async fn register_other(session: &QuerySession, columns: &[String]) -> Result<(), ToolError> {
    let has = |name: &str| columns.iter().any(|column| column == name);
    for needed in ["uuid", "hashsum_original"] {
        if !has(needed) {
            return Err(ToolError::Failed(format!(
                "the other dataset has no column `{needed}`; an exported manifest has it"
            )));
        }
    }
    let column = |name: &str, sql_type: &str| match has(name) {
        true => format!("cast({name} as {sql_type}) as {name}"),
        false => format!("cast(null as {sql_type}) as {name}"),
    };
    let sql = format!(
        "select cast(-1 as int) as \"ddl:partition\", cast(0 as int) as record, {}, {}, {}, {}, {}, {} from other",
        column("uuid", "varchar"),
        column("source_id", "varchar"),
        column("server_name", "varchar"),
        column("partition_id", "int"),
        column("hashsum_original", "varchar"),
        if has("perceptual_hash") { "perceptual_hash" } else { "cast(null as bytea) as perceptual_hash" },
    );
    Ok(session.register_view("other_images", &sql).await?)
}

/// The columns of a filter table, after where the image is.
fn gone_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let place = Arc::new(Field::new("ddl:partition", DataType::Int32, true));
        let fields: Vec<_> =
            std::iter::once(place).chain(selected_schema().fields().iter().cloned()).collect();
        Arc::new(Schema::new(fields))
    });
    SCHEMA.clone()
}

/// Takes the images that go.
struct Gone {
    table: TempTable,
    places: Places,
}

impl Gone {
    fn new(session: &QuerySession) -> Result<Self, ToolError> {
        let table = TempTable::create(session, "dedup_gone", gone_schema())?;
        Ok(Self { table, places: Places::default() })
    }

    /// Rows with the columns of [`gone_schema`], each image once, in any order.
    fn add(&mut self, batch: &RecordBatch) -> Result<(), ToolError> {
        let numbers = |name: &str| batch[name].as_primitive::<Int32Type>().values();
        for (&position, &record) in numbers("ddl:partition").iter().zip(numbers("record")) {
            self.places.add(position, record);
        }
        self.table.write(batch)
    }

    fn register(self, session: &QuerySession) -> Result<(), ToolError> {
        self.table.register(session)
    }
}

/// Images by where they are: for each partition, a bit for each record.
#[derive(Default)]
struct Places(Vec<Vec<u64>>);

impl Places {
    fn add(&mut self, position: i32, record: i32) {
        let (position, word) = (position as usize, record as usize / 64);
        if self.0.len() <= position {
            self.0.resize_with(position + 1, Vec::new);
        }
        let records = &mut self.0[position];
        if records.len() <= word {
            records.resize(word + 1, 0);
        }
        records[word] |= 1 << (record % 64);
    }

    fn has(&self, position: i32, record: i32) -> bool {
        let word = self.0.get(position as usize).and_then(|records| records.get(record as usize / 64));
        word.is_some_and(|word| word >> (record % 64) & 1 == 1)
    }
}

/// A column as texts.
fn texts(batch: &RecordBatch, column: &str) -> Result<StringArray, ToolError> {
    let column = cast(&batch[column], &DataType::Utf8).map_err(|error| failed(&error))?;
    Ok(column.as_string::<i32>().clone())
}

/// What only a wrong type or the like in our own statements can cause.
fn failed(error: &arrow::error::ArrowError) -> ToolError {
    ToolError::Failed(format!("the images cannot be compared: {error}"))
}
