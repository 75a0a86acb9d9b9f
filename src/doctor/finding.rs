//! What is found, and how bad it is.

use serde::{Deserialize, Serialize};

use crate::model::Rank;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
    /// A run goes on, but not as it could.
    Warning,
    /// A run would not start, or would not get far.
    Failure,
}

impl Level {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The configuration of a download, and the contact in it.
    Settings,
    Catalog,
    /// Who started the processes, and whether they have found each other.
    Launch,
    Slurm,
    OpenFiles,
    Cores,
    Space,
    Inodes,
    /// A file that is written, synced and removed.
    Writing,
    Locks,
    /// Whether all ranks see what rank 0 has written.
    SharedFolder,
    Clock,
    /// Name resolution.
    Dns,
    Proxy,
    /// A request to a server.
    Egress,
}

impl Check {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Catalog => "catalog",
            Self::Launch => "launch",
            Self::Slurm => "slurm",
            Self::OpenFiles => "open files",
            Self::Cores => "cores",
            Self::Space => "space",
            Self::Inodes => "inodes",
            Self::Writing => "writing",
            Self::Locks => "locks",
            Self::SharedFolder => "shared folder",
            Self::Clock => "clock",
            Self::Dns => "dns",
            Self::Proxy => "proxy",
            Self::Egress => "egress",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub check: Check,
    pub level: Level,
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    #[must_use]
    pub fn ok(check: Check, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into(), advice: None }
    }

    #[must_use]
    pub fn skipped(check: Check, message: impl Into<String>) -> Self {
        Self { check, level: Level::Skipped, message: message.into(), advice: None }
    }

    #[must_use]
    pub fn warning(check: Check, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, message: message.into(), advice: Some(advice.into()) }
    }

    #[must_use]
    pub fn failure(check: Check, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Failure, message: message.into(), advice: Some(advice.into()) }
    }
}

/// What one rank found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFindings {
    pub node: String,
    pub rank: Rank,
    pub findings: Vec<Finding>,
}

/// What was found in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    pub num_ranks: u32,
    pub num_nodes: u32,
    pub failures: usize,
    pub warnings: usize,
    /// What concerns the whole run.
    pub run: Vec<Finding>,
    /// What the first rank of each node has found, and of the others what is a warning or a failure.
    pub nodes: Vec<NodeFindings>,
}

impl DoctorReport {
    pub(super) fn new(num_ranks: u32, run: Vec<Finding>, ranks: Vec<NodeFindings>) -> Self {
        let mut nodes: Vec<NodeFindings> = Vec::new();
        for mut rank in ranks {
            if nodes.iter().any(|seen| seen.node == rank.node) {
                rank.findings.retain(|finding| finding.level >= Level::Warning);
                if rank.findings.is_empty() {
                    continue;
                }
            }
            nodes.push(rank);
        }
        let mut names: Vec<&str> = nodes.iter().map(|rank| rank.node.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let num_nodes = names.len() as u32;
        let all = || run.iter().chain(nodes.iter().flat_map(|rank| &rank.findings));
        let count = |level| all().filter(|finding| finding.level == level).count();
        let (failures, warnings) = (count(Level::Failure), count(Level::Warning));
        Self { num_ranks, num_nodes, failures, warnings, run, nodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ranks_on_one_node_only_trouble_is_told_twice() {
        let rank = |rank, node: &str, findings| NodeFindings { node: node.into(), rank, findings };
        let ok = || Finding::ok(Check::Cores, "8");
        let warning = || Finding::warning(Check::Cores, "1 of 8", "do not bind");
        let report = DoctorReport::new(
            4,
            vec![Finding::failure(Check::Launch, "x", "y")],
            vec![
                rank(0, "a", vec![ok()]),
                rank(1, "a", vec![ok(), warning()]),
                rank(2, "b", vec![ok()]),
                rank(3, "b", vec![ok()]),
            ],
        );
        assert_eq!((report.num_nodes, report.failures, report.warnings), (2, 1, 1));
        let told: Vec<_> = report.nodes.iter().map(|told| (told.rank, told.findings.len())).collect();
        assert_eq!(told, [(0, 1), (1, 1), (2, 1)]);
    }
}
