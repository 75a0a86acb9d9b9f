//! `overview.json`: how the download went and what was exported, under FLOW-DC's names where it has them.

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde_json::{Value, json};

use super::{Description, Facts};
use crate::export::ExportError;
use crate::query::QuerySession;

/// Causes of failures that are listed.
const MAX_ERRORS: usize = 100;

pub(super) async fn overview(
    session: &QuerySession,
    facts: &Facts,
    description: &Description<'_>,
) -> Result<Value, ExportError> {
    let (mut success, mut failed, mut skipped, mut pending, mut bytes) = (0, 0, 0, 0, 0);
    for (_, _, row) in session.partitions() {
        success += row.counts.success;
        failed += row.counts.failed;
        skipped += row.counts.skipped;
        pending += row.counts.pending;
        bytes += row.image_bytes;
    }
    let runs = "select coalesce(sum(cast(ended_at as bigint) - cast(started_at as bigint)), 0) as ms, \
                cast(max(ended_at) as varchar) as ended from runs where kind = 'download'";
    let (mut elapsed_ms, mut ended) = (0, None);
    for batch in session.collect(runs).await? {
        if batch.num_rows() > 0 {
            elapsed_ms = batch["ms"].as_primitive::<Int64Type>().value(0).max(0);
            let texts = batch["ended"].as_string::<i32>();
            ended = texts.is_valid(0).then(|| texts.value(0).to_owned());
        }
    }
    let elapsed_sec = elapsed_ms as f64 / 1000.0;
    let downloaded_mb = bytes as f64 / 1e6;
    let per_second = if elapsed_sec > 0.0 { downloaded_mb / elapsed_sec } else { 0.0 };
    let tried = success + failed;
    let success_rate = if tried > 0 { 100.0 * success as f64 / tried as f64 } else { 0.0 };
    let report = description.report;
    Ok(json!({
        "ddl_version": env!("CARGO_PKG_VERSION"),
        "script_inputs": {
            "output_folder": report.path.file_name().map(|name| name.to_string_lossy()),
            "output_format": description.format,
            "options": description.export_options,
        },
        "summary": {
            "total_urls": success + failed + skipped + pending,
            "successful_downloads": success,
            "failed_downloads": failed,
            "skipped_urls": skipped,
            "pending_urls": pending,
            "success_rate_percent": rounded(success_rate),
            "downloaded_mb": rounded(downloaded_mb),
            "elapsed_sec": rounded(elapsed_sec),
            "avg_speed_MBps": rounded(per_second),
        },
        "error_breakdown": errors(session).await?,
        "export": {
            "images": report.num_images,
            "image_bytes": report.image_bytes,
            "files": report.num_files,
            "labels": description.labels.counts.len(),
            "images_without_label": description.labels.unlabelled,
            "images_by_extension": facts.formats,
            "licenses": facts.licenses.len(),
            "names_of_several_images": report.num_names_met,
            "labels_with_a_hash": report.num_labels_met,
            "removed_by_tools": report.removals,
        },
        "timestamp": ended,
    }))
}

async fn errors(session: &QuerySession) -> Result<Vec<Value>, ExportError> {
    let sql = format!(
        "select http_status, cause, count(*) as num from errors group by 1, 2 order by 3 desc, 1, 2 limit {MAX_ERRORS}"
    );
    let mut errors = Vec::new();
    for batch in session.collect(&sql).await? {
        let status = cast(&batch["http_status"], &DataType::Int64).expect("a number");
        let (status, causes) = (status.as_primitive::<Int64Type>(), batch["cause"].as_string::<i32>());
        let counts = batch["num"].as_primitive::<Int64Type>();
        errors.extend((0..batch.num_rows()).map(|row| {
            json!({
                "status_code": status.is_valid(row).then(|| status.value(row)),
                "error": causes.is_valid(row).then(|| causes.value(row)),
                "count": counts.value(row),
            })
        }));
    }
    Ok(errors)
}

/// Two digits are enough for people, and the same everywhere.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
