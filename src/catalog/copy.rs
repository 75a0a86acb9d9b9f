//! Copies of the catalog: made of one view while its writer goes on, looked through, and put in its place.
//!
//! A plain copy of the file beside its writer may hold half a transaction. A view is one committed state, whatever comes
//! after it, so what is copied of it is whole; and copied row by row it has no free pages.

use std::collections::HashSet;
use std::path::Path;

use redb::{
    Key, ReadTransaction, ReadableTable as _, TableDefinition, TableError, TableHandle as _, Value,
    WriteTransaction,
};
use serde::Serialize;

use super::lock::{CatalogLock, live_holder};
use super::writer::FIRST_RUN;
use super::{CatalogError, CatalogOptions, CatalogView, DispositionCounts, FORMAT, store, tables};

/// Does something with the definition of each table there is.
macro_rules! for_each_table {
    ($each:expr) => {{
        let each = $each;
        each.table(tables::META)?;
        each.table(tables::SERVERS)?;
        each.table(tables::SERVER_IDS)?;
        each.table(tables::PARTITIONS)?;
        each.table(tables::STATES)?;
        each.table(tables::URL_KEYS)?;
        each.table(tables::DIGESTS)?;
        each.table(tables::SERVER_FACTS)?;
        each.table(tables::TOOLS)?;
        each.table(tables::LEASES)?;
        each.table(tables::TOOL_PARTITIONS)?;
        each.table(tables::RUNS)?;
        each.table(tables::INGESTS)?;
    }};
}

/// Writes what a view has into a catalog of its own, in a file that is not there or empty. It is closed and whole when
/// this returns; that it is durable is the caller's to see to. Its next run has the number `first_run` or a higher one.
///
/// # Errors
/// `UnknownTable` where a copy would lose something; when the view cannot be read or the file not be written.
pub fn copy_view(
    view: &CatalogView,
    to: &Path,
    first_run: u32,
    options: &CatalogOptions,
) -> Result<(), CatalogError> {
    view.read(|txn| {
        let known = known_tables()?;
        if let Some(table) =
            txn.list_tables()?.map(|table| table.name().to_owned()).find(|name| !known.contains(name))
        {
            return Err(CatalogError::UnknownTable { table });
        }
        let mut db = store::create_alone(to, options)?;
        for_each_table!(Copying { from: txn, to: &db });
        if first_run > 0 {
            let txn = db.begin_write()?;
            txn.open_table(tables::META)?.insert(FIRST_RUN, first_run.to_le_bytes().as_slice())?;
            txn.commit()?;
        }
        // Inserting doubles the file as it grows.
        db.compact()?;
        db.close().map_err(|error| CatalogError::from(redb::Error::from(error)))
    })
}

struct Copying<'a> {
    from: &'a ReadTransaction,
    to: &'a redb::Database,
}

impl Copying<'_> {
    /// One transaction for each table: what a kill leaves is no catalog, and swept.
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<K, V>,
    ) -> Result<(), CatalogError> {
        let rows = match self.from.open_table(definition) {
            // A reader of an older catalog that lacks it.
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            rows => rows?,
        };
        let txn: WriteTransaction = self.to.begin_write()?;
        {
            let mut table = txn.open_table(definition)?;
            for row in rows.iter()? {
                let (key, value) = row?;
                table.insert(key.value(), value.value())?;
            }
        }
        Ok(txn.commit()?)
    }
}

/// Names of all tables.
fn known_tables() -> Result<Vec<String>, CatalogError> {
    let names = Names(std::cell::RefCell::default());
    for_each_table!(&names);
    Ok(names.0.into_inner())
}

struct Names(std::cell::RefCell<Vec<String>>);

impl Names {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<K, V>,
    ) -> Result<(), CatalogError> {
        self.0.borrow_mut().push(redb::TableHandle::name(&definition).to_owned());
        Ok(())
    }
}

/// A catalog's file that was looked through: the checksum of every page, and every row. Nothing is written to it.
pub struct CatalogCopy {
    db: redb::Database,
    summary: CatalogSummary,
}

/// What a catalog's file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CatalogSummary {
    pub format: u32,
    /// Length of the file; where it is sparse, it takes less.
    pub file_bytes: u64,
    pub num_partitions: u64,
    pub counts: DispositionCounts,
    /// The last run that it knows; 0 before the first.
    pub last_run: u32,
}

impl CatalogCopy {
    /// Opens the catalog at `path`, which nobody may be writing, and looks through it: reads all of the file.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Damaged`, `TooNew`; `Corrupted` or `Inconsistent` where a row is not what it should be.
    pub fn open(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let in_use = || {
            let holder = live_holder(path, options.lock_timeout).map(Box::new);
            holder.map(|holder| CatalogError::InUse { path: path.to_owned(), holder })
        };
        if let Some(error) = in_use() {
            return Err(error);
        }
        // What a writer that has come meanwhile changes would pass for damage.
        Self::look_through(path, options).map_err(|error| in_use().unwrap_or(error))
    }

    fn look_through(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let file_bytes = match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => meta.len(),
            Ok(_) => {
                let detail = "it is an empty file, or none".into();
                return Err(CatalogError::Damaged { path: path.to_owned(), detail });
            }
            Err(_) => return Err(CatalogError::NotFound { path: path.to_owned() }),
        };
        let db = store::open_overlaid(path, options)?;
        let view = CatalogView::begin(&db)?;
        let format = view.format()?;
        if format > FORMAT {
            return Err(CatalogError::TooNew { path: path.to_owned(), found: format, known: FORMAT });
        }
        let summary = CatalogSummary { format, file_bytes, ..summarise(&view)? };
        drop(view);
        Ok(Self { db, summary })
    }

    #[must_use]
    pub fn summary(&self) -> CatalogSummary {
        self.summary
    }

    /// # Errors
    /// When the storage fails.
    pub fn view(&self) -> Result<CatalogView, CatalogError> {
        CatalogView::begin(&self.db)
    }
}

/// Reads every row: those that do not decode, or contradict each other, are errors.
fn summarise(view: &CatalogView) -> Result<CatalogSummary, CatalogError> {
    let servers: HashSet<_> = view.servers()?.into_iter().map(|server| server.id).collect();
    view.server_ids()?;
    let mut partitions = Vec::new();
    view.for_each_partition(|key, row| partitions.push((key, row.counts)))?;
    let mut counts = DispositionCounts::default();
    for (key, row) in &partitions {
        let states = view.states(*key)?;
        let num_keys = view.url_keys(*key)?.len();
        view.digests(*key)?;
        if DispositionCounts::of(states.iter().map(|status| status.state)) != *row
            || num_keys != states.len()
            || !servers.contains(&key.server_id)
        {
            return Err(CatalogError::inconsistent(format!("{key:?} contradicts its records")));
        }
        counts += *row;
    }
    for (tool, _) in view.tools()? {
        view.tool_partitions(&tool)?;
    }
    view.manifest_schema()?;
    view.hash_algorithm()?;
    view.ingests()?;
    Ok(CatalogSummary {
        num_partitions: partitions.len() as u64,
        counts,
        last_run: view.runs()?.last().map_or(0, |run| run.run_id),
        ..CatalogSummary::default()
    })
}

/// Keeps every writer out while the file of a catalog is replaced.
pub struct CatalogHold(CatalogLock);

impl CatalogHold {
    /// # Errors
    /// `InUse` when another process writes it.
    pub fn take(path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        CatalogLock::acquire(path, options.job.clone(), options.lock_timeout).map(Self)
    }

    /// # Errors
    /// `LockLost` when another has taken it over.
    pub fn confirm(&self, path: &Path) -> Result<(), CatalogError> {
        self.0.confirm(path)
    }
}
