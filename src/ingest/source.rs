//! Kinds of lists: which columns they need, what they mean, and which rows are left out.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::util::display::array_value_to_string;

use super::error::{IngestError, printable};
use super::options::{ColumnsOptions, IngestOptions};
use super::sources::{Eol, FathomNet, Gbif, Generic, Lila, Tol200mFathomNet, Tol200mGeneral};
use crate::model::nearest;

/// One kind of list (`initializer_type`).
pub trait Source: Sync {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Says what the columns of an input mean. Called once per input, before its first row.
    ///
    /// # Errors
    /// When a column or an option is missing that this kind of list cannot do without.
    fn bind(&self, header: &Header<'_>, options: &IngestOptions) -> Result<Binding, IngestError>;
}

/// All kinds of lists. The first is the one meant when none is named.
pub const SOURCES: &[&dyn Source] =
    &[&Generic, &Gbif, &Eol, &FathomNet, &Lila, &Tol200mGeneral, &Tol200mFathomNet];

/// The kind of list of this name; empty means `generic`.
///
/// # Errors
/// When there is none; the error lists all and the nearest.
pub fn find_source(name: &str) -> Result<&'static dyn Source, IngestError> {
    if name.is_empty() {
        return Ok(SOURCES[0]);
    }
    SOURCES.iter().copied().find(|source| source.name() == name).ok_or_else(|| {
        let known: Vec<&str> = SOURCES.iter().map(|source| source.name()).collect();
        IngestError::UnknownSource {
            name: name.to_owned(),
            known: quoted(known.iter().copied()),
            nearest: nearest(name, known.iter().copied()).map(str::to_owned),
        }
    })
}

/// Names under which a URL column is looked for, in this order, whatever their case.
pub(super) const URL_COLUMNS: [&str; 5] = ["identifier", "url", "image_url", "photo_url", "accessURI"];

/// The columns of an input, to be looked up by name.
#[derive(Debug)]
pub struct Header<'a> {
    path: &'a Path,
    schema: &'a Schema,
    /// Where the columns end that were there at first, that came next, and so on: a name that was found
    /// once is found at the same place when more columns come.
    generations: Vec<usize>,
    may_grow: bool,
    missing: RefCell<Option<IngestError>>,
}

/// Stands for a column that is not there, and perhaps will be: all of its values are null.
const ABSENT: usize = usize::MAX;

impl<'a> Header<'a> {
    pub(super) fn new(path: &'a Path, schema: &'a Schema) -> Self {
        let generations = vec![schema.fields().len()];
        Self { path, schema, generations, may_grow: false, missing: RefCell::default() }
    }

    /// Of an input in which columns may appear late: what is required may be absent for now.
    pub(super) fn growing(path: &'a Path, schema: &'a Schema, generations: Vec<usize>) -> Self {
        Self { path, schema, generations, may_grow: true, missing: RefCell::default() }
    }

    /// The first column that was required and is absent.
    pub(super) fn into_missing(self) -> Option<IngestError> {
        self.missing.into_inner()
    }

    /// The column of this name; failing that, of this name in another case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.find_first(&[name])
    }

    /// The first of these names that is a column's, among the columns that came first.
    fn find_first(&self, names: &[&str]) -> Option<usize> {
        let starts = std::iter::once(0).chain(self.generations.iter().copied());
        starts.zip(&self.generations).find_map(|(from, &to)| {
            let fields = &self.schema.fields()[from..to];
            names.iter().find_map(|name| {
                let position =
                    |same: fn(&str, &str) -> bool| fields.iter().position(|f| same(f.name(), name));
                let found = position(|a, b| a == b).or_else(|| position(|a, b| a.eq_ignore_ascii_case(b)));
                found.map(|index| from + index)
            })
        })
    }

    /// Like `find`; `wanted_by` ends the sentence "has no column x, which ...".
    ///
    /// # Errors
    /// When there is none; the error lists the columns and the nearest name.
    pub fn require(&self, name: &str, wanted_by: &str) -> Result<usize, IngestError> {
        let error = || IngestError::MissingColumn {
            path: self.path.to_owned(),
            column: name.to_owned(),
            wanted_by: wanted_by.to_owned(),
            columns: quoted(self.names()),
            nearest: nearest(name, self.names()).map(str::to_owned),
        };
        self.find(name).map_or_else(|| self.absent(error()), Ok)
    }

    fn require_url(&self) -> Result<usize, IngestError> {
        let error = || IngestError::MissingUrlColumn {
            path: self.path.to_owned(),
            columns: quoted(self.names()),
            nearest: URL_COLUMNS.iter().find_map(|name| nearest(name, self.names())).map(str::to_owned),
        };
        self.find_first(&URL_COLUMNS).map_or_else(|| self.absent(error()), Ok)
    }

    fn absent(&self, error: IngestError) -> Result<usize, IngestError> {
        if !self.may_grow {
            return Err(error);
        }
        self.missing.borrow_mut().get_or_insert(error);
        Ok(ABSENT)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.schema.fields().iter().map(|field| field.name().as_str())
    }
}

/// Says why a row is left out, or `None` to keep it.
pub type RowFilter = Box<dyn Fn(&Row<'_>) -> Option<&'static str> + Send + Sync>;

/// What the columns of an input mean: indices into its columns.
pub struct Binding {
    /// The URL is the first of these that is not null.
    pub url: Vec<usize>,
    pub source_id: Option<usize>,
    pub license: Value,
    pub source: Value,
    pub title: Value,
    pub label: Value,
    /// `None`: every record gets the UUIDv5 of its URL.
    pub uuid: Option<usize>,
    pub filter: Option<RowFilter>,
    /// What the user should know of how the input is taken.
    pub warning: Option<&'static str>,
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding")
            .field("url", &self.url)
            .field("source_id", &self.source_id)
            .finish_non_exhaustive()
    }
}

/// Where the values of an output column come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Column(usize),
    Literal(&'static str),
}

/// A kind of list's own names, for what the user has not named in `columns`.
#[derive(Clone, Copy, Debug)]
pub struct UsualNames {
    /// `None`: any of the usual URL columns.
    pub url: Option<&'static str>,
    /// `None`: `source_id`, which may be absent.
    pub id: Option<&'static str>,
    pub license: &'static str,
    pub source: &'static str,
    /// `None`: a column `uuid` is not the record's.
    pub uuid: Option<&'static str>,
}

impl Default for UsualNames {
    fn default() -> Self {
        Self { url: None, id: None, license: "license", source: "source", uuid: Some("uuid") }
    }
}

impl Binding {
    /// What `columns` names must be there; of the usual names the URL and the id must be.
    ///
    /// # Errors
    /// When one of these is missing.
    pub fn new(
        header: &Header<'_>,
        columns: &ColumnsOptions,
        usual: &UsualNames,
        wanted_by: &str,
    ) -> Result<Self, IngestError> {
        let named = |name: &Option<String>, key: &str, usual: Option<&str>| match name {
            Some(name) => header.require(name, &format!("`columns.{key}` names")).map(Some),
            None => Ok(usual.and_then(|usual| header.find(usual))),
        };
        let value = |name: &Option<String>, key: &str, usual: &str| {
            named(name, key, Some(usual)).map(|column| column.map_or(Value::Null, Value::Column))
        };
        let url = match (&columns.url, usual.url) {
            (Some(name), _) => header.require(name, "`columns.url` names")?,
            (None, Some(usual)) => header.require(usual, wanted_by)?,
            (None, None) => header.require_url()?,
        };
        let source_id = match (&columns.id, usual.id) {
            (None, Some(usual)) => Some(header.require(usual, wanted_by)?),
            _ => named(&columns.id, "id", Some("source_id"))?,
        };
        Ok(Self {
            url: vec![url],
            source_id,
            license: value(&columns.license, "license", usual.license)?,
            source: value(&columns.source, "source", usual.source)?,
            title: value(&columns.title, "title", "title")?,
            label: value(&columns.label, "label", "label")?,
            uuid: named(&columns.uuid, "uuid", usual.uuid)?,
            filter: None,
            warning: None,
        })
    }

    /// Columns that are not carried along, because they stand under another name already. Of several
    /// URL columns each stays: it is not the same as `identifier`.
    pub(super) fn is_used(&self, column: usize) -> bool {
        self.url == [column]
            || self.source_id == Some(column)
            || self.uuid == Some(column)
            || [self.license, self.source, self.title, self.label].contains(&Value::Column(column))
    }
}

/// One row of an input, for filters.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    rows: &'a RecordBatch,
    index: usize,
}

impl<'a> Row<'a> {
    pub(super) fn new(rows: &'a RecordBatch, index: usize) -> Self {
        Self { rows, index }
    }

    #[must_use]
    pub fn is_null(&self, column: usize) -> bool {
        self.rows.columns().get(column).is_none_or(|column| column.is_null(self.index))
    }

    /// The value as text; `None` for null.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<Cow<'a, str>> {
        if self.is_null(column) {
            return None;
        }
        let array = self.rows.column(column);
        match array.as_string_opt::<i32>() {
            Some(text) => Some(Cow::Borrowed(text.value(self.index))),
            None => array_value_to_string(array, self.index).ok().map(Cow::Owned),
        }
    }

    /// Whether the value is true, in the words that Spark takes for true.
    #[must_use]
    pub fn is_true(&self, column: usize) -> bool {
        if self.is_null(column) {
            return false;
        }
        let array = self.rows.column(column);
        match array.data_type() {
            DataType::Boolean => array.as_boolean().value(self.index),
            DataType::Int64 => array.as_primitive::<Int64Type>().value(self.index) != 0,
            _ => self.text(column).is_some_and(|text| {
                let text = text.trim().to_ascii_lowercase();
                matches!(text.as_str(), "true" | "t" | "yes" | "y" | "1")
            }),
        }
    }
}

/// Names in backticks, the first thirty of them.
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{}`", printable(name))).collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count > 30 => format!("{} and {} more", names[..30].join(", "), count - 30),
        _ => names.join(", "),
    }
}
