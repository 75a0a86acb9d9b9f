//! What a list has in it, without a dataset: the reading half of an ingest, and counts in place of the writing half.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::{Array, AsArray};

use super::duplicates::find_duplicates;
use super::error::{IngestError, keep_going};
use super::ingest::{TempFolder, check, no_rows, open_normalizer, read_context};
use super::input::find_inputs;
use super::manifest_schema::{LEADING_COLUMNS, UnionSchema};
use super::options::IngestOptions;
use super::read_stage::{ReadPlan, read_lists};
use super::report::{Count, IngestProgress, IngestReport, Inspection};
use super::source::find_source;
use crate::model::{RecordState, ServerName, SkipReason};
use crate::runtime::Shutdown;
use crate::storage::DatasetLayout;

/// With more labels than that they are ids or titles, and not counted one by one.
const MAX_LABELS: usize = 100_000;

/// Reads lists to their ends and counts what they have. Rows that do not fit into memory wait in a folder of their own
/// below `temp_folder`, by default below the working folder, which is gone in the end; nothing else is written.
///
/// # Errors
/// As an ingest, as far as it reads.
pub fn inspect(
    inputs: &[PathBuf],
    options: &IngestOptions,
    layout: &DatasetLayout,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Inspection, IngestError> {
    let started = Instant::now();
    let mut inspection = run(inputs, options, layout, shutdown, progress)
        .map_err(|error| if shutdown.requested().is_some() { IngestError::Stopped } else { error })?;
    inspection.seconds = started.elapsed().as_secs_f64();
    Ok(inspection)
}

fn run(
    inputs: &[PathBuf],
    options: &IngestOptions,
    layout: &DatasetLayout,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Inspection, IngestError> {
    check(options)?;
    let source = find_source(&options.initializer_type)?;
    let inputs = find_inputs(inputs, options.input_format)?;
    let normalizer = open_normalizer(options, layout)?;
    let around = options.temp_folder.as_deref().unwrap_or(Path::new("."));
    let temp = TempFolder::at(around.join(format!("ddl-inspect-{}", std::process::id())))?;
    let context = read_context(options, &temp, shutdown);
    let plan = ReadPlan { inputs: &inputs, source, options, context: &context, normalizer: &normalizer };
    let mut report = IngestReport::default();
    let listed = read_lists(&plan, UnionSchema::new(None), None, &mut report, progress)?;
    if report.rows_read == 0 && report.malformed == 0 {
        return Err(no_rows(&inputs[0]));
    }
    let (mut skipped, mut labels) = (HashMap::new(), Some(HashMap::new()));
    let mut duplicates = 0;
    for mut bucket in listed.buckets {
        let marks = find_duplicates(
            bucket.num_rows,
            0,
            options.memory_bytes / 4,
            |each| {
                keep_going(shutdown)?;
                bucket.for_each_key(each)
            },
            |_| Ok(()),
        )?;
        let mut first_row = 0;
        bucket.for_each_chunk(listed.schema.rows(), |chunk| {
            let of_chunk = chunk.rows.column(LABEL).as_string::<i32>();
            for row in 0..chunk.keys.len() {
                if marks.is_repeat(first_row + row as u64) {
                    duplicates += 1;
                    continue;
                }
                if let Some(RecordState::Skipped(reason)) = RecordState::from_byte(chunk.states.value(row)) {
                    *skipped.entry(reason).or_default() += 1;
                }
                count_label(&mut labels, of_chunk.is_valid(row).then(|| of_chunk.value(row)));
            }
            first_row += chunk.keys.len() as u64;
            Ok(())
        })?;
    }
    let servers = listed.servers.iter().filter(|server| server.name.as_str() != ServerName::NULL);
    let by_name = |(reason, count): (SkipReason, u64)| (reason.as_str().to_owned(), count);
    Ok(Inspection {
        num_inputs: inputs.len() as u64,
        rows_read: report.rows_read,
        columns: report.columns,
        duplicates,
        skipped: skipped.into_iter().map(by_name).collect(),
        filtered: report.filtered,
        bad_uuids: report.bad_uuids,
        malformed: report.malformed,
        malformed_examples: report.malformed_examples,
        servers: Count::most_first(servers.map(|server| (server.name.to_string(), server.num_rows))),
        labels: labels.map(Count::most_first),
        seconds: 0.0,
    })
}

/// Where the label stands among the leading columns.
const LABEL: usize = 6;
const _: () = assert!(matches!(LEADING_COLUMNS[LABEL].as_bytes(), b"label"));

fn count_label(labels: &mut Option<HashMap<String, u64>>, label: Option<&str>) {
    let (Some(label), Some(counts)) = (label, labels.as_mut()) else { return };
    if let Some(count) = counts.get_mut(label) {
        *count += 1;
    } else if counts.len() < MAX_LABELS {
        counts.insert(label.to_owned(), 1);
    } else {
        *labels = None;
    }
}
