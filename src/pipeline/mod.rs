//! The verbs: what each command does, without a terminal.
//!
//! Here the configuration meets the rooms: every verb turns resolved values into the options of the rooms
//! that it needs, opens the dataset, and lets them work. `cli` puts a terminal around it; the library's two
//! entry points, [`crate::download_images`] and [`crate::apply_tool`], are these verbs too.

mod against;
mod audit;
mod catalog;
mod check;
mod dataset;
mod doctor;
mod download;
mod error;
mod ingest;
mod plan;
mod ranks;
mod retract;
mod retry;
mod status;
mod submit;
mod tool;
mod tool_files;
mod unit;

pub use audit::audit;
pub use catalog::{
    BackupReport, CompactReport, RestoreReport, backup_catalog, check_catalog, compact_catalog,
    restore_catalog,
};
pub use check::{check, repair};
pub use dataset::Dataset;
pub use doctor::doctor;
pub use download::{DownloadEnding, download};
pub use error::PipelineError;
pub use ingest::{ingest, inspect};
pub use plan::{Estimate, EstimateOptions, Interval, PlanReport, RankPlan, ServerEstimate, ServerPlan, plan};
pub use retract::{
    FailedPartition, RecordName, RetractPlan, RetractReport, RetractSelection, plan_retraction, retract,
};
pub use retry::{RetryReport, RetrySelection, retry};
pub use status::{DatasetStatus, ServerStatus, StatusSource, dataset_status, failure_causes};
pub use submit::{
    BatchStatus, JobStatus, ScheduleStatus, ScheduleVerdict, Submission, SubmitError, SubmitMode,
    SubmitRequest, SubmitWhat, schedule_status, submit, verify_schedule,
};
pub use tool::{ToolEnding, ToolRequest, tool};
pub use tool_files::{ListedTool, find_tool, list_tools, tool_name};
pub use unit::{
    UnitRequest, UnitRun, export_unit_files, import_unit_results, remove_work, run_unit, unit_dataset,
};
