//! Which of several images stays.

use serde::Deserialize;

use super::licence;

/// The order of preference. Whatever it says first, the last word has distributed-downloader's: the lowest
/// `partition_id`, then `server_name`, then (as ties were left to chance there) `uuid`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Nothing else.
    #[default]
    First,
    /// Most pixels as downloaded, then most bytes as stored.
    Largest,
    /// First fetched.
    Oldest,
    /// Most freely licensed.
    LicenceOpen,
}

impl Keep {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Largest => "largest",
            Self::Oldest => "oldest",
            Self::LicenceOpen => "licence-open",
        }
    }

    /// What is looked at first, the lower the better: two expressions over `images`. Where nothing is known, the image
    /// comes last.
    fn preferences(self) -> [String; 2] {
        let (first, second) = match self {
            Self::First => ("0".into(), "0"),
            Self::Largest => ("-original_size[1] * original_size[2]".into(), "-image_bytes"),
            Self::Oldest => ("fetched_at".into(), "0"),
            Self::LicenceOpen => (format!("{}(license)", licence::RANK), "0"),
        };
        [first.as_str(), second].map(|sql| format!("coalesce(cast({sql} as bigint), {})", i64::MAX))
    }

    /// These as columns.
    pub(super) fn columns(self) -> String {
        let [first, second] = self.preferences();
        format!("{first} as \"ddl:first\", {second} as \"ddl:second\"")
    }

    /// What `images` are to be ordered by, in SQL. A total order: where even `uuid`s are equal, by place.
    pub(super) fn order(self) -> String {
        let [first, second] = self.preferences();
        format!("{first}, {second}, partition_id, server_name, uuid, \"ddl:partition\", record")
    }
}
