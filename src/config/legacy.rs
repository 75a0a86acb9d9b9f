//! FLOW-DC's JSON files: names of ours for its keys, and its keys that have no effect here.
//!
//! FLOW-DC ignores keys that it does not know. ddl does not, so the list holds what its programs,
//! notebooks and `TaskVine` manager read, in all their versions.

/// A FLOW-DC key at the top level and the key of ours that means the same.
const ALIASES: &[(&str, &str)] = &[
    ("input", "path_to_input"),
    ("parquets_directory", "path_to_input"),
    ("output", "path_to_output_folder"),
    ("output_folder", "path_to_output_folder"),
    ("output_directory", "path_to_output_folder"),
    ("input_format", "ingest_parameters.input_format"),
    ("url", "columns.url"),
    ("url_col", "columns.url"),
    ("label", "columns.label"),
    ("label_col", "columns.label"),
    ("concurrent_downloads", "downloader_parameters.max_in_flight"),
    ("timeout", "downloader_parameters.request_timeout"),
    ("timeout_sec", "downloader_parameters.request_timeout"),
    ("max_retry_attempts", "downloader_parameters.max_attempts"),
    ("retry_backoff_sec", "downloader_parameters.retry_backoff"),
];

const EXPORT: &str = "the layout of files is chosen by `ddl export`";
const RESUME: &str = "ddl always resumes and never deletes an output";
const RATE: &str = "ddl finds each server's rate by itself, below `default_rate_limit`";
const JOBS: &str = "jobs are described by `downloader_parameters` and made by `ddl submit`";

/// A FLOW-DC key at the top level and why it has no effect here.
const UNUSED: &[(&str, &[&str])] = &[
    (
        EXPORT,
        &[
            "output_format",
            "naming_mode",
            "file_name_pattern",
            "create_tar",
            "compress_tar",
            "create_overview",
            "croissant",
            "dataset_name",
            "dataset_description",
            "dataset_license",
            "dataset_creator",
            "dataset_url",
            "dataset_version",
            "dataset_citation",
            "dataset_keywords",
        ],
    ),
    (RESUME, &["force_overwrite", "force", "resume", "reconcile"]),
    (
        RATE,
        &[
            "enable_paarc",
            "C_init",
            "C_min",
            "C_max",
            "mu",
            "beta",
            "theta_50",
            "theta_95",
            "startup_theta_50",
            "startup_theta_95",
            "probe_rtt_period",
            "rtprop_window",
            "cooldown_floor",
            "alpha_ema",
            "startup_additive_increase",
            "probe_bw_additive_increase",
            "efficiency_threshold",
            "efficiency_window",
            "rate_limit",
            "rate_capacity",
            "enable_rate_limiting",
            "initial_rate",
            "research_profile",
            "control_method",
            "method_options",
            "shared_control_file",
        ],
    ),
    (
        JOBS,
        &[
            "port_number",
            "task_cores",
            "task_memory_mb",
            "task_disk_mb",
            "timeout_minutes",
            "max_retries",
            "ulimit_nofile",
            "cloud_tool",
            "cloud_destination",
            "cloud_put_command",
        ],
    ),
];

/// The key of ours that a FLOW-DC key means.
pub(super) fn alias(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(legacy, _)| *legacy == name).map(|(_, key)| *key)
}

/// Why a FLOW-DC key is accepted and not used.
pub(super) fn unused_reason(name: &str) -> Option<&'static str> {
    let listed = UNUSED.iter().find(|(_, names)| names.contains(&name)).map(|(reason, _)| *reason);
    // Parameters of a controller that FLOW-DC itself has given up.
    listed.or_else(|| name.starts_with("gamma_").then_some(RATE))
}

/// FLOW-DC's names beside ours, for the reference.
pub(super) fn aliases() -> &'static [(&'static str, &'static str)] {
    ALIASES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn names_mean_one_thing() {
        for (legacy, key) in ALIASES {
            assert!(keys::position(key).is_some(), "{key}");
            assert!(keys::position(legacy).is_none() && keys::group_doc(legacy).is_none(), "{legacy}");
        }
        for name in UNUSED.iter().flat_map(|(_, names)| *names) {
            assert!(keys::position(name).is_none() && alias(name).is_none(), "{name}");
        }
        assert_eq!(unused_reason("gamma_2"), Some(RATE));
        assert_eq!(unused_reason("gama_2"), None);
    }
}
