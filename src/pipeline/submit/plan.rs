//! Which jobs a chain has, and what each waits for.

use crate::slurm::{Dependency, DependencyKind};

/// What is to be done by jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitWhat {
    Download,
    /// A tool, by its name or the path of its file.
    Tool(String),
    /// Ingest, download, and these tools.
    All {
        tools: Vec<String>,
    },
}

/// What one job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobKind {
    Ingest,
    Download,
    /// `after_download`: the dataset is to be complete by then.
    Check {
        after_download: bool,
    },
    Tool(String),
}

impl JobKind {
    /// As `jobs.csv` has it.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Download => "download",
            Self::Check { .. } => "check",
            Self::Tool(_) => "tool",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedJob {
    pub(super) name: String,
    pub(super) kind: JobKind,
    /// Earlier jobs of the plan, by their positions.
    pub(super) after: Vec<Dependency<usize>>,
}

/// How many jobs follow each other where the configuration says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLengths {
    /// `num_downloads`.
    pub(super) downloads: u32,
    /// `num_workers` of each tool.
    pub(super) tools: u32,
}

/// The jobs of a chain, in the order in which they are submitted.
///
/// ```text
/// ingest --ok--> download --any--> download ... --any--> check --ok--> tool --any--> tool ... --any--> check
/// ```
/// No two of them ever run at once: each writes the catalog.
pub(super) fn plan(what: &SubmitWhat, lengths: ChainLengths) -> Vec<PlannedJob> {
    let mut chain = Chain::default();
    let downloads = |chain: &mut Chain, first: DependencyKind| {
        for n in 0..lengths.downloads {
            let how = if n == 0 { first } else { DependencyKind::AfterAny };
            chain.push(format!("download-{n:04}"), JobKind::Download, how);
        }
        chain.push_check(true);
    };
    match what {
        SubmitWhat::Download => downloads(&mut chain, DependencyKind::AfterAny),
        SubmitWhat::Tool(name) => {
            chain.push_tool(name, lengths.tools);
            chain.push_check(false);
        }
        SubmitWhat::All { tools } => {
            chain.push("ingest".into(), JobKind::Ingest, DependencyKind::AfterAny);
            downloads(&mut chain, DependencyKind::AfterOk);
            // Nothing that follows makes sense on images that are not all there, or not sound.
            chain.only_after = Some(chain.jobs.len() - 1);
            for name in tools {
                chain.push_tool(name, lengths.tools);
            }
            if !tools.is_empty() {
                chain.push_check(false);
            }
        }
    }
    chain.jobs
}

#[derive(Default)]
struct Chain {
    jobs: Vec<PlannedJob>,
    /// All later jobs need that this one ends with 0.
    only_after: Option<usize>,
    num_checks: u32,
}

impl Chain {
    fn push(&mut self, name: String, kind: JobKind, how: DependencyKind) {
        let mut after = Vec::new();
        if let Some(previous) = self.jobs.len().checked_sub(1) {
            let needed = self.only_after.map(|job| Dependency { kind: DependencyKind::AfterOk, job });
            after.extend(needed);
            if self.only_after != Some(previous) {
                after.push(Dependency { kind: how, job: previous });
            }
        }
        self.jobs.push(PlannedJob { name, kind, after });
    }

    fn push_tool(&mut self, name: &str, num_jobs: u32) {
        for n in 0..num_jobs {
            let job = format!("tool-{}-{n:04}", file_word(name));
            self.push(job, JobKind::Tool(name.to_owned()), DependencyKind::AfterAny);
        }
    }

    fn push_check(&mut self, after_download: bool) {
        let name = format!("check-{:04}", self.num_checks);
        self.num_checks += 1;
        self.push(name, JobKind::Check { after_download }, DependencyKind::AfterAny);
    }
}

/// A tool's name, or that of its file, as a part of a file's name.
fn file_word(name: &str) -> String {
    let stem = std::path::Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|c| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(what: &SubmitWhat, downloads: u32, tools: u32) -> String {
        let jobs = plan(what, ChainLengths { downloads, tools });
        let lines = jobs.iter().map(|job| {
            let after = job.after.iter().map(|after| {
                let after = Dependency { kind: after.kind, job: jobs[after.job].name.clone() };
                format!(" {after}")
            });
            format!("{}{}", job.name, after.collect::<String>())
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn all_is_ingest_downloads_check_tools_check() {
        let tools = vec!["size".to_owned(), "./tools/grey scale.yaml".to_owned()];
        insta::assert_snapshot!(shown(&SubmitWhat::All { tools }, 3, 2), @r"
        ingest
        download-0000 afterok:ingest
        download-0001 afterany:download-0000
        download-0002 afterany:download-0001
        check-0000 afterany:download-0002
        tool-size-0000 afterok:check-0000
        tool-size-0001 afterok:check-0000 afterany:tool-size-0000
        tool-grey_scale-0000 afterok:check-0000 afterany:tool-size-0001
        tool-grey_scale-0001 afterok:check-0000 afterany:tool-grey_scale-0000
        check-0001 afterok:check-0000 afterany:tool-grey_scale-0001
        ");
        let without_tools = shown(&SubmitWhat::All { tools: Vec::new() }, 1, 1);
        assert!(without_tools.ends_with("check-0000 afterany:download-0000"), "{without_tools}");
    }

    #[test]
    fn every_chain_ends_with_a_check() {
        assert_eq!(
            shown(&SubmitWhat::Download, 2, 1),
            "download-0000\ndownload-0001 afterany:download-0000\ncheck-0000 afterany:download-0001"
        );
        assert_eq!(
            shown(&SubmitWhat::Tool("resize".into()), 1, 1),
            "tool-resize-0000\ncheck-0000 afterany:tool-resize-0000"
        );
    }
}
