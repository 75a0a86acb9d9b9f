//! The only place where paths of a dataset are joined.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::{PartId, ServerName};

/// Names of folders and files under the output folder (`output_structure`, names as in distributed-downloader).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayoutOptions {
    pub urls_folder: String,
    pub logs_folder: String,
    pub images_folder: String,
    pub schedules_folder: String,
    pub tools_folder: String,
    pub profiles_table: String,
    pub ignored_table: String,
    pub inner_checkpoint_file: String,
}

impl Default for LayoutOptions {
    fn default() -> Self {
        Self {
            urls_folder: "servers_batched".into(),
            logs_folder: "logs".into(),
            images_folder: "downloaded_images".into(),
            schedules_folder: "schedules".into(),
            tools_folder: "tools".into(),
            profiles_table: "servers_profiles.csv".into(),
            ignored_table: "ignored_servers.csv".into(),
            inner_checkpoint_file: "inner_checkpoint.yaml".into(),
        }
    }
}

/// Paths of one dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetLayout {
    root: PathBuf,
    options: LayoutOptions,
}

impl DatasetLayout {
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, options: LayoutOptions) -> Self {
        Self { root: root.into(), options }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog.redb")
    }

    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join(&self.options.logs_folder)
    }

    /// The ledger: every request that a download has sent.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.logs().join("requests")
    }

    /// Chains of jobs: their scripts and what they print.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.logs().join("jobs")
    }

    #[must_use]
    pub fn schedules(&self) -> PathBuf {
        self.root.join(&self.options.schedules_folder)
    }

    /// What the jobs that were submitted last are to do.
    #[must_use]
    pub fn current_schedule(&self) -> PathBuf {
        self.schedules().join("current")
    }

    /// What was retracted when and why.
    #[must_use]
    pub fn retractions(&self) -> PathBuf {
        self.logs().join("retractions")
    }

    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.root.join(&self.options.tools_folder)
    }

    /// `tools/<name>/`.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools().join(name)
    }

    /// Folder of what a tool made of a partition.
    #[must_use]
    pub fn tool_folder(&self, name: &str, folder: &ServerName, partition_id: u32) -> PathBuf {
        partition_folder(&self.tool(name), folder, partition_id)
    }

    /// What a tool says of single images.
    #[must_use]
    pub fn tool_verdicts(&self, name: &str, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.tool_folder(name, folder, partition_id).join("verdicts.parquet")
    }

    /// Images that a tool has made, with the columns of [`DatasetLayout::successes`].
    #[must_use]
    pub fn tool_images(&self, name: &str, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.tool_folder(name, folder, partition_id).join("successes.parquet")
    }

    /// What the filter of a tool chose.
    #[must_use]
    pub fn filter_table(&self, name: &str) -> PathBuf {
        self.tool(name).join("filter_table").join("filter.parquet")
    }

    /// Whether a path below the folder of a tool is where that keeps what the catalog names.
    #[must_use]
    pub fn is_of_tool(path: &Path) -> bool {
        let first = path.iter().next().unwrap_or_default().to_string_lossy();
        first == "filter_table" || first.starts_with("server_name=")
    }

    #[must_use]
    pub fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// What `ddl report` writes.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// What queries put aside while they run.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    #[must_use]
    pub fn profiles_table(&self) -> PathBuf {
        self.root.join(&self.options.profiles_table)
    }

    #[must_use]
    pub fn ignored_table(&self) -> PathBuf {
        self.root.join(&self.options.ignored_table)
    }

    /// `servers_batched/`: the manifest.
    #[must_use]
    pub fn urls(&self) -> PathBuf {
        self.root.join(&self.options.urls_folder)
    }

    /// `downloaded_images/`.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join(&self.options.images_folder)
    }

    /// Folder of a partition's manifest files.
    #[must_use]
    pub fn manifest_folder(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        partition_folder(&self.urls(), folder, partition_id)
    }

    /// Folder of a partition's images.
    #[must_use]
    pub fn images_folder(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        partition_folder(&self.images(), folder, partition_id)
    }

    #[must_use]
    pub fn successes(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.images_folder(folder, partition_id).join("successes.parquet")
    }

    #[must_use]
    pub fn errors(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.images_folder(folder, partition_id).join("errors.parquet")
    }

    /// The empty file that says that a partition is complete.
    #[must_use]
    pub fn completed_marker(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.images_folder(folder, partition_id).join("completed")
    }

    /// Folder of the parts of a partition that is not complete.
    #[must_use]
    pub fn parts_folder(&self, folder: &ServerName, partition_id: u32) -> PathBuf {
        self.images_folder(folder, partition_id).join("_parts")
    }

    #[must_use]
    pub fn success_part(&self, folder: &ServerName, partition_id: u32, part: PartId) -> PathBuf {
        self.parts_folder(folder, partition_id).join(success_part_name(part))
    }

    #[must_use]
    pub fn error_part(&self, folder: &ServerName, partition_id: u32, part: PartId) -> PathBuf {
        self.parts_folder(folder, partition_id).join(error_part_name(part))
    }
}

pub(super) fn success_part_name(part: PartId) -> String {
    format!("successes-{part}.parquet")
}

pub(super) fn error_part_name(part: PartId) -> String {
    format!("errors-{part}.parquet")
}

fn partition_folder(root: &Path, folder: &ServerName, partition_id: u32) -> PathBuf {
    root.join(format!("server_name={}", escape_hive(folder.as_str())))
        .join(format!("partition_id={partition_id}"))
}

/// Characters that Hive and Spark percent-encode in a directory value (`FileUtils.escapePathName`).
const ESCAPED: &[u8] = b"\"#%'*/:=?\\{}[]^\x7f";

/// A value as Hive, Spark and DuckDB write it into a directory name: `host:8080` becomes `host%3A8080`.
#[must_use]
pub fn escape_hive(value: &str) -> Cow<'_, str> {
    let must_escape = |byte: u8| byte < 0x20 || ESCAPED.contains(&byte);
    if !value.bytes().any(must_escape) {
        return Cow::Borrowed(value);
    }
    let mut escaped = String::with_capacity(value.len() + 8);
    for character in value.chars() {
        match u8::try_from(character) {
            Ok(byte) if byte.is_ascii() && must_escape(byte) => escaped.push_str(&format!("%{byte:02X}")),
            _ => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// Reads what [`escape_hive`] writes; text that is no escape stays as it is.
#[must_use]
pub fn unescape_hive(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut value = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        match hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                value.push(byte);
                at += 3;
            }
            None => {
                value.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&value).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Epoch;

    #[test]
    fn partitions_have_hive_folders() {
        let layout = DatasetLayout::new("/data", LayoutOptions::default());
        let server = ServerName::from_catalog("host:8080");
        assert_eq!(
            layout.successes(&server, 7),
            Path::new("/data/downloaded_images/server_name=host%3A8080/partition_id=7/successes.parquet")
        );
        let part = PartId { epoch: Epoch::new(3, 9), sequence: 2 };
        assert!(layout.success_part(&server, 7, part).ends_with("_parts/successes-3-9-2.parquet"));
    }

    proptest! {
        #[test]
        fn escaping_is_undone(value in "\\PC{0,40}") {
            let escaped = escape_hive(&value);
            prop_assert!(!escaped.contains(['/', ':', '=']));
            prop_assert_eq!(unescape_hive(&escaped), value);
        }
    }
}
