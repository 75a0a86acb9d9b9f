//! FLOW-DC's JSON files: names of ours for its keys, and its keys that have no effect here.
//!
//! FLOW-DC ignores keys that it does not know. ddl does not, so the list holds what its programs,
//! notebooks and `TaskVine` manager read, in all their versions.

use super::value::Value;

/// A FLOW-DC key at the top level and the key of ours that means the same. Of several for the same, FLOW-DC reads
/// the first that is there.
const ALIASES: &[(&str, &str)] = &[
    ("input", "path_to_input"),
    ("parquets_directory", "path_to_input"),
    ("parquet", "path_to_input"),
    ("output", "path_to_output_folder"),
    ("output_folder", "path_to_output_folder"),
    ("output_directory", "path_to_output_folder"),
    ("input_format", "ingest_parameters.input_format"),
    ("url_col", "columns.url"),
    ("url", "columns.url"),
    ("label_col", "columns.label"),
    ("label", "columns.label"),
    ("concurrent_downloads", "downloader_parameters.max_in_flight"),
    ("timeout_sec", "downloader_parameters.request_timeout"),
    ("timeout", "downloader_parameters.request_timeout"),
    ("max_retry_attempts", "downloader_parameters.max_attempts"),
    ("retry_backoff_sec", "downloader_parameters.retry_backoff"),
    ("enable_paarc", "paarc.enable_paarc"),
    ("C_init", "paarc.C_init"),
    ("C_min", "paarc.C_min"),
    ("C_max", "paarc.C_max"),
    ("mu", "paarc.mu"),
    ("beta", "paarc.beta"),
    ("theta_50", "paarc.theta_50"),
    ("theta_95", "paarc.theta_95"),
    ("startup_theta_50", "paarc.startup_theta_50"),
    ("startup_theta_95", "paarc.startup_theta_95"),
    ("probe_rtt_period", "paarc.probe_rtt_period"),
    ("rtprop_window", "paarc.rtprop_window"),
    ("cooldown_floor", "paarc.cooldown_floor"),
    ("alpha_ema", "paarc.alpha_ema"),
    ("startup_additive_increase", "paarc.startup_additive_increase"),
    ("probe_bw_additive_increase", "paarc.probe_bw_additive_increase"),
    ("rate_limit", "aimd.rate_limit"),
    ("rate_capacity", "aimd.rate_capacity"),
    ("enable_rate_limiting", "aimd.enable_rate_limiting"),
];

const EXPORT: &str = "the layout of files is chosen by `ddl export`";
const RESUME: &str = "ddl always resumes and never deletes an output";
const RATE: &str = "ddl does not have this controller; `rate_control` has those that there are";
const SPLIT: &str = "`ddl ingest` cuts lists by server, and ranks share them";
const JOBS: &str = "ddl is started under `mpirun` or `srun`, and needs no manager";

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
    (SPLIT, &["groups", "method", "grouping_col", "add_host_column", "no_host_column"]),
    (RESUME, &["force_overwrite", "force", "resume", "reconcile"]),
    (
        RATE,
        &[
            "efficiency_threshold",
            "efficiency_window",
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

/// FLOW-DC's other names for the same, and whether it reads them first.
pub(super) fn synonyms(name: &str) -> impl Iterator<Item = (&'static str, bool)> {
    let own = ALIASES.iter().position(|(legacy, _)| *legacy == name);
    let of_same = own.map(|own| {
        let same =
            ALIASES.iter().enumerate().filter(move |(at, (_, key))| *at != own && *key == ALIASES[own].1);
        same.map(move |(at, (legacy, _))| (*legacy, at < own))
    });
    of_same.into_iter().flatten()
}

/// What a value of a FLOW-DC key is called here, where that is something else.
pub(super) fn translate(name: &str, text: &str) -> Option<&'static str> {
    match (name, text.trim()) {
        ("input_format", "auto") => Some(""),
        // It counts passes over the list; the first is made in any case.
        ("max_retry_attempts", "0") => Some("1"),
        _ => None,
    }
}

/// What a value of distributed-downloader counts as where it is more than it can be here, and why.
pub(super) fn counts_as(path: &str, value: &Value) -> Option<(Value, &'static str)> {
    match value {
        Value::Number(number) if path == "downloader_parameters.rate_multiplier" && *number > 1.0 => {
            Some((Value::Number(1.0), "no rate falls below 0"))
        }
        _ => None,
    }
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
