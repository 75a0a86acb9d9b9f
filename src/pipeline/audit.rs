//! `ddl audit`: whether the cluster kept what it promised to each server.

use super::{Dataset, PipelineError};
use crate::audit::{AuditOptions, AuditReport, audit_ledger};

/// Replays the dataset's ledger of requests. Needs no catalog, so also beside a download.
///
/// # Errors
/// As [`audit_ledger`].
pub fn audit(dataset: &Dataset, options: &AuditOptions) -> Result<AuditReport, PipelineError> {
    Ok(audit_ledger(&dataset.layout.ledger(), options)?)
}
