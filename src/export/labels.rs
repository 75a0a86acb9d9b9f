//! The labels of the chosen images, and the folders that have their names.
//!
//! A folder is called as its label, as far as that is safe on every file system: spaces and slashes are `_`, quotation
//! marks go, as in FLOW-DC; other signs that somebody may take for more than a name are `_`, and none is at an end. Labels
//! that would share a folder so, be it for another case alone, or that are cut, have `~` and a hash behind theirs: no name
//! has a `~` otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Int64Type;

use super::ExportError;
use super::files::write_csv;
use super::journal::UnitFile;
use super::names::{fold_case, hash_of, unreserved};
use super::select::Selection;
use crate::query::QuerySession;

/// Longest name of a folder before a hash, in bytes: file systems take 255, archives and scripts like less.
const MAX_FOLDER_BYTES: usize = 120;

/// What an export has beside folders.
const OWN_FILES: [&str; 7] = [
    "labels.csv",
    "metadata.csv",
    "metadata.jsonl",
    "metadata.parquet",
    "croissant.json",
    "overview.json",
    "README.md",
];

/// Every label with its images. Memory: the labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Labels {
    /// In order of their bytes: the position of a label is its class.
    pub counts: BTreeMap<String, u64>,
    /// Images that have none.
    pub unlabelled: u64,
}

impl Labels {
    /// # Errors
    /// When a file cannot be read.
    pub async fn count(session: &QuerySession, selection: &Selection) -> Result<Self, ExportError> {
        let mut labels = Self::default();
        for &slice in &selection.slices {
            let chosen = selection.sql("label", slice);
            let sql = format!("select label, count(*) as images from ({chosen}) group by label");
            let mut rows = session.stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                let (names, images) =
                    (batch["label"].as_string::<i32>(), batch["images"].as_primitive::<Int64Type>());
                for row in 0..batch.num_rows() {
                    let images = images.value(row).unsigned_abs();
                    if names.is_null(row) {
                        labels.unlabelled += images;
                    } else {
                        *labels.counts.entry(names.value(row).to_owned()).or_default() += images;
                    }
                }
            }
        }
        Ok(labels)
    }
}

/// The folder of each label.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LabelFolders {
    by_label: HashMap<String, String>,
    unlabelled: String,
}

impl LabelFolders {
    /// Folders depend on the set of labels alone.
    pub fn new(labels: &Labels) -> Self {
        // As FLOW-DC calls them.
        let unlabelled = if labels.counts.is_empty() { "output" } else { "unknown" };
        let names = || labels.counts.keys().map(|label| (label, safe_folder(label)));
        let mut uses: HashMap<String, u64> = HashMap::new();
        for file in OWN_FILES {
            uses.insert(fold_case(file), 1);
        }
        if labels.unlabelled > 0 {
            uses.insert(unlabelled.into(), 1);
        }
        for (_, (folder, _)) in names() {
            *uses.entry(fold_case(&folder)).or_default() += 1;
        }
        let mut taken = HashSet::new();
        let mut by_label = HashMap::with_capacity(labels.counts.len());
        for (label, (folder, is_cut)) in names() {
            let mut name = folder.clone();
            let mut digits = 8;
            if is_cut || uses[&fold_case(&folder)] > 1 {
                let hash = hash_of(&[label]);
                // Two hashes that begin alike are possible for somebody who looks for them.
                while {
                    name = format!("{folder}~{}", &hash[..digits]);
                    !taken.insert(fold_case(&name)) && digits < hash.len()
                } {
                    digits *= 2;
                }
            }
            by_label.insert(label.clone(), name);
        }
        Self { by_label, unlabelled: unlabelled.into() }
    }

    pub fn folder(&self, label: Option<&str>) -> &str {
        label.and_then(|label| self.by_label.get(label)).unwrap_or(&self.unlabelled)
    }

    /// Labels that have a hash in the names of their folders.
    pub fn num_met(&self) -> u64 {
        self.by_label.values().filter(|folder| folder.contains('~')).count() as u64
    }

    /// Writes `labels.csv`: `label,folder,images`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, labels: &Labels) -> Result<UnitFile, ExportError> {
        let rows = labels.counts.iter();
        let rows = rows
            .map(|(label, images)| [label.clone(), self.folder(Some(label)).to_owned(), images.to_string()]);
        let unlabelled = [String::new(), self.unlabelled.clone(), labels.unlabelled.to_string()];
        let rows = rows.chain((labels.unlabelled > 0).then_some(unlabelled));
        write_csv(folder, "labels.csv", &["label", "folder", "images"], rows)
    }
}

/// A name for a folder, and whether it was cut.
fn safe_folder(label: &str) -> (String, bool) {
    let mut safe = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            '\'' | '"' => {}
            '-' | '.' | '(' | ')' | ',' | '+' | '&' | '=' => safe.push(c),
            // Letters that other signs are put upon are not: file systems differ in what is the same then.
            c if c.is_alphanumeric() => safe.push(c),
            _ => safe.push('_'),
        }
    }
    // Hidden folders are passed over by readers; Windows drops a dot at the end.
    let trimmed = safe.trim_matches(['.', '_']);
    let mut end = trimmed.len().min(MAX_FOLDER_BYTES);
    while !trimmed.is_char_boundary(end) {
        end -= 1;
    }
    let is_cut = end < trimmed.len();
    match trimmed[..end].trim_end_matches(['.', '_']) {
        "" => ("label".into(), is_cut),
        name => (unreserved(name), is_cut),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folders<'a>(labels: impl IntoIterator<Item = &'a str>, unlabelled: u64) -> LabelFolders {
        let counts = labels.into_iter().map(|label| (label.to_owned(), 1)).collect();
        LabelFolders::new(&Labels { counts, unlabelled })
    }

    #[test]
    fn folders_are_called_as_their_labels_where_that_is_safe() {
        let check = |label: &str, expect: &str| {
            assert_eq!(folders([label], 0).folder(Some(label)), expect, "{label:?}");
        };
        check("Quercus robur", "Quercus_robur");
        check("Quercus robur L. (1753)", "Quercus_robur_L._(1753)");
        check("Pardosa \"sp. 1\"", "Pardosa_sp._1");
        check("\u{6a61}", "\u{6a61}");
        check("..", "label");
        check("../../etc", "etc");
        check("a/b\\c", "a_b_c");
        check(".hidden", "hidden");
        check("CON", "CON_");
        check("lpt1.x", "lpt1_.x");
        check("\u{1f98a}", "label");
        check("unknown", "unknown");
        assert_eq!(folders(["a"], 1).folder(None), "unknown");
        assert_eq!(folders([], 1).folder(None), "output");
        assert!(folders(["Readme.md"], 0).folder(Some("Readme.md")).starts_with("Readme.md~"));
        assert!(folders(["unknown"], 1).folder(Some("unknown")).starts_with("unknown~"));
    }

    #[test]
    fn labels_that_would_meet_are_told_apart() {
        let met = ["a b", "a_b", "A b", "a/b"];
        let folders = folders(met, 0);
        assert!(met.iter().all(|label| folders.folder(Some(label)).contains('~')));
        assert_eq!(folders.num_met(), 4);
        // Whatever other labels there are.
        assert_eq!(folders.folder(Some("a b")), self::folders(["a b", "a_b", "z"], 9).folder(Some("a b")));
    }

    proptest! {
        #[test]
        fn distinct_labels_have_distinct_folders(labels in proptest::collection::btree_set("[aA ._/~\u{e9}]{0,5}", 0..40)) {
            let folders = folders(labels.iter().map(String::as_str), 1);
            let mut names: HashSet<String> = labels.iter().map(|label| fold_case(folders.folder(Some(label)))).collect();
            names.insert(fold_case(folders.folder(None)));
            prop_assert_eq!(names.len(), labels.len() + 1);
            for name in names {
                prop_assert!(!name.is_empty() && !name.contains('/') && !name.starts_with('.') && !name.ends_with('.'));
            }
        }
    }
}
