//! The whole ingest, step by step.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::duplicates_file::duplicates_folder;
use super::error::IngestError;
use super::folders::{KnownServers, plan_folders};
use super::input::{Input, find_inputs};
use super::manifest_file::{sweep, sweep_unfinished};
use super::manifest_schema::UnionSchema;
use super::normalize::Normalizer;
use super::options::IngestOptions;
use super::raw_batch::{ReadContext, ReadMeter};
use super::read_stage::{ReadPlan, read_lists};
use super::report::{IngestProgress, IngestReport};
use super::source::find_source;
use super::uuid_ref::UuidRef;
use super::write_stage::{WritePlan, write_partitions};
use crate::catalog::Catalog;
use crate::model::UrlKey;
use crate::runtime::Shutdown;
use crate::storage::{DatasetLayout, read_server_list};

/// Reads lists into the catalog and the manifest. An input of `-` is standard input.
///
/// Run again with a newer list, it adds what is new; what is gone from the list stays. Killed at any
/// moment and run again with the same list and options, it ends with the catalog and the records that
/// it would have ended with undisturbed. So it does when `shutdown` ends it early.
///
/// # Errors
/// See [`IngestError`]; `Stopped` when `shutdown` asked for it. Until all lists are read to their ends, nothing
/// is committed.
pub fn ingest(
    inputs: &[PathBuf],
    options: &IngestOptions,
    layout: &DatasetLayout,
    catalog: &Catalog,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<IngestReport, IngestError> {
    let started = Instant::now();
    let mut report = run(inputs, options, layout, catalog, shutdown, progress).map_err(|error| {
        // A reader that is stopped half-way fails in words of its own.
        tracing::debug!(%error, "ended early");
        if shutdown.requested().is_some() { IngestError::Stopped } else { error }
    })?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn run(
    inputs: &[PathBuf],
    options: &IngestOptions,
    layout: &DatasetLayout,
    catalog: &Catalog,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<IngestReport, IngestError> {
    check(options)?;
    let source = find_source(&options.initializer_type)?;
    let inputs = find_inputs(inputs, options.input_format)?;
    let normalizer = open_normalizer(options, layout)?;
    let view = catalog.view()?;
    let known = KnownServers::new(view.servers()?, view.server_ids()?);
    let stored_schema = view.manifest_schema()?;

    let temp = TempFolder::new(options, &layout.urls())?;
    sweep(&layout.urls(), &known.rows().map(|row| (row.folder.clone(), row.num_partitions)).collect())?;
    sweep_unfinished(&duplicates_folder(layout))?;
    sweep_unfinished(&uuid_ref_folder(layout))?;

    let mut report = IngestReport::default();
    let context = read_context(options, &temp, shutdown);
    let mut uuid_ref = open_uuid_ref(source.name(), options, layout)?;
    let plan = ReadPlan { inputs: &inputs, source, options, context: &context, normalizer: &normalizer };
    let schema = UnionSchema::new(stored_schema.as_ref());
    let listed = read_lists(&plan, schema, uuid_ref.as_mut(), &mut report, progress)?;
    if report.rows_read == 0 {
        return Err(match report.malformed_examples.into_iter().next() {
            Some(first) => IngestError::AllMalformed { malformed: report.malformed, first },
            None => no_rows(&inputs[0]),
        });
    }
    fs::create_dir_all(layout.urls()).map_err(IngestError::write(&layout.urls()))?;
    let schema = listed.schema.manifest();
    if stored_schema.as_ref() != Some(schema.as_ref()) {
        catalog.set_manifest_schema(&schema)?;
    }
    let options = &IngestOptions { batch_size: settle_batch_size(options, catalog)?, ..options.clone() };
    let folders = plan_folders(&listed.servers, &known, options);
    let plan = WritePlan {
        inputs: &inputs,
        options,
        layout,
        catalog,
        view: &view,
        known: &known,
        folders,
        shutdown,
    };
    write_partitions(&plan, listed, &mut report, progress)?;
    uuid_ref.map_or(Ok(()), UuidRef::finish)?;
    Ok(report)
}

/// The first ingest decides, so that all partitions of a dataset are of one kind.
fn settle_batch_size(options: &IngestOptions, catalog: &Catalog) -> Result<u64, IngestError> {
    let settled = catalog.settle_batch_size(options.batch_size)?;
    if settled != options.batch_size {
        tracing::warn!(
            "this dataset's partitions hold up to {settled} records, as its first ingest had it; \
             `batch_size: {}` is for a new dataset",
            options.batch_size
        );
    }
    Ok(settled)
}

pub(super) fn check(options: &IngestOptions) -> Result<(), IngestError> {
    let bounds = [
        ("batch_size", options.batch_size, 1, i32::MAX as u64, "between 1 and 2147483647"),
        ("max_row_bytes", options.max_row_bytes, 1, 1 << 28, "between 1 byte and 256 MiB"),
        ("max_url_bytes", options.max_url_bytes, 1, 1 << 28, "between 1 byte and 256 MiB"),
        ("memory_bytes", options.memory_bytes, 16 << 20, 1 << 50, "16 MiB or more"),
    ];
    match bounds.into_iter().find(|(_, value, min, max, _)| !(min..=max).contains(&value)) {
        Some((option, .., must)) => Err(IngestError::BadOption { option, must }),
        None => Ok(()),
    }
}

pub(super) fn open_normalizer(
    options: &IngestOptions,
    layout: &DatasetLayout,
) -> Result<Normalizer, IngestError> {
    let excluded_servers = match &options.excluded_servers_path {
        None => Default::default(),
        // Named by the user: here, absence is a mistake.
        Some(path) => {
            fs::metadata(path).map_err(IngestError::read(path)).and_then(|_| Ok(read_server_list(path)?))?
        }
    };
    Ok(Normalizer {
        max_url_bytes: options.max_url_bytes as usize,
        ignored_servers: read_server_list(&layout.ignored_table())?,
        excluded_servers,
    })
}

/// What readers need to know of these options.
pub(super) fn read_context(options: &IngestOptions, temp: &TempFolder, shutdown: &Shutdown) -> ReadContext {
    ReadContext {
        max_row_bytes: options.max_row_bytes as usize,
        memory_bytes: options.memory_bytes,
        temp_folder: temp.path.clone(),
        meter: Arc::new(ReadMeter::new(shutdown.clone())),
        wanted_columns: wanted_columns(options),
    }
}

/// Columns that the user has named: an archive may have them in its core table.
fn wanted_columns(options: &IngestOptions) -> Vec<String> {
    let columns = &options.columns;
    let named = [
        &columns.url,
        &columns.id,
        &columns.label,
        &columns.license,
        &columns.source,
        &columns.title,
        &columns.uuid,
    ];
    named.into_iter().flatten().cloned().collect()
}

fn open_uuid_ref(
    source: &str,
    options: &IngestOptions,
    layout: &DatasetLayout,
) -> Result<Option<UuidRef>, IngestError> {
    match &options.bounding_box_information_path {
        Some(boxes) if source == "tol200m_fathomNet" => {
            UuidRef::open(boxes, &uuid_ref_folder(layout)).map(Some)
        }
        _ => Ok(None),
    }
}

fn uuid_ref_folder(layout: &DatasetLayout) -> PathBuf {
    layout.tools().join("uuid_ref")
}

pub(super) fn no_rows(input: &Input) -> IngestError {
    let is_empty = input.num_bytes() == Some(0);
    IngestError::NoRows { path: input.path.clone(), what: if is_empty { "is empty" } else { "has no rows" } }
}

/// Where rows wait; emptied at the start, gone at the end.
pub(super) struct TempFolder {
    pub(super) path: PathBuf,
}

impl TempFolder {
    fn new(options: &IngestOptions, urls_folder: &Path) -> Result<Self, IngestError> {
        let path = match &options.temp_folder {
            None => urls_folder.join("_ingest-tmp"),
            // Others may use the same folder: ours is named after what it is for.
            Some(folder) => {
                let absolute = std::path::absolute(urls_folder).map_err(IngestError::read(urls_folder))?;
                let key = UrlKey::of_bytes(absolute.as_os_str().as_encoded_bytes());
                folder.join(format!("ddl-ingest-{:016x}", key.0 as u64))
            }
        };
        Self::at(path)
    }

    pub(super) fn at(path: PathBuf) -> Result<Self, IngestError> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(IngestError::write(&path))?;
        }
        Ok(Self { path })
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What stays behind is removed by the next ingest.
        let _ = fs::remove_dir_all(&self.path);
    }
}
