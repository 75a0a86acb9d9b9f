//! FLOW-DC's JSON files: names of ours for its keys, and its keys that have no effect here.
//!
//! Its `output` is two things here: where the images go in the end, and (with `.ddl` behind it) the dataset.
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
    ("output", EXPORT_OUTPUT),
    ("output_folder", EXPORT_OUTPUT),
    ("output_directory", EXPORT_OUTPUT),
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
    ("output_format", "export_parameters.output_format"),
    ("naming_mode", "export_parameters.naming_mode"),
    ("file_name_pattern", "export_parameters.file_name_pattern"),
    ("create_tar", "export_parameters.create_tar"),
    ("compress_tar", "export_parameters.compress_tar"),
    ("create_overview", "export_parameters.create_overview"),
    ("croissant", "export_parameters.croissant"),
    ("dataset_name", "export_parameters.dataset_name"),
    ("dataset_description", "export_parameters.dataset_description"),
    ("dataset_license", "export_parameters.dataset_license"),
    ("dataset_creator", "export_parameters.dataset_creator"),
    ("dataset_url", "export_parameters.dataset_url"),
    ("dataset_version", "export_parameters.dataset_version"),
    ("dataset_citation", "export_parameters.dataset_citation"),
    ("dataset_keywords", "export_parameters.dataset_keywords"),
];

/// Key of the folder that FLOW-DC fills with images. ddl's dataset has more in it than these.
pub(super) const EXPORT_OUTPUT: &str = "export_parameters.output";
/// What the dataset's folder has behind that name.
const DATASET_SUFFIX: &str = ".ddl";

const RESUME: &str = "ddl always resumes and never deletes an output";
const RATE: &str = "ddl does not have this controller; `rate_control` has those that there are";
const SPLIT: &str = "`ddl ingest` cuts lists by server, and ranks share them";
const JOBS: &str = "ddl is started under `mpirun` or `srun`, and needs no manager";

/// A FLOW-DC key at the top level and why it has no effect here.
const UNUSED: &[(&str, &[&str])] = &[
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
        // What its SplitParquet writes; a download of it has folders of images all the same.
        ("output_format", "csv") => Some(""),
        ("naming_mode", "row_id") => Some("uuid"),
        // It counts passes over the list; the first is made in any case.
        ("max_retry_attempts", "0") => Some("1"),
        _ => None,
    }
}

/// Where the dataset is whose images go to this folder of FLOW-DC's.
pub(super) fn dataset_of(output: &str) -> String {
    format!("{}{DATASET_SUFFIX}", output.trim_end_matches('/'))
}

/// The folder that images go to. The manager has one for each of its partitions, `output_PARTITION`; here all are one.
pub(super) fn output_folder(name: &str, output: &str) -> String {
    let folder = match name {
        "output_directory" => format!("{}/output", output.trim_end_matches('/')),
        _ => output.trim_end_matches('/').to_owned(),
    };
    let archive = folder.strip_suffix(".tar.gz").or_else(|| folder.strip_suffix(".tar"));
    archive.map_or(folder.clone(), str::to_owned)
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
