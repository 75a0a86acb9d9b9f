//! `schedules/` and `logs/jobs/`: what was submitted, and how far it is, in the files of distributed-downloader.
//!
//! ```text
//! logs/jobs/NNNN/             a chain of jobs: their scripts and what they print
//!     jobs.csv                the jobs: job_id, name, kind, dependency
//! schedules/current/NNNN/     a big batch: servers that are looked at together
//!     _config.csv             its servers: index, server_name, total_batches, process_per_node, nodes
//!     _jobs_ids.csv           the jobs: job_id, is_verification
//!     _verification.csv       its partitions that are finished: server_name, partition_id, status
//!     _DONE                   all are
//!     _UNCHANGED              a whole job has changed nothing, and some are not
//! schedules/current/_progress.csv   how far the dataset was when each job began
//! schedules/NNNN/             schedules of earlier chains
//! ```
//!
//! The schedules are views of the catalog: what is downloaded does not depend on them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    CsvFile, DatasetLayout, StorageError, create_folder, remove_if_there, rename_durably, write_atomically,
};

/// A job as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedJob {
    pub job_id: u64,
    /// `download-0000`, say: that of its script.
    pub name: String,
    /// `ingest`, `download`, `check` or `tool`.
    pub kind: String,
    /// As `sbatch --dependency` has it.
    pub dependency: String,
}

/// A server of a big batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledServer {
    pub index: u64,
    /// The folder's name, as in `server_name=...`.
    pub server_name: String,
    /// Its partitions.
    pub total_batches: u32,
    pub process_per_node: u32,
    /// Ranks that may work on it at once (`schedule_rules`).
    pub nodes: u64,
}

/// How far the dataset was when a job began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleProgress {
    pub chain: u32,
    pub job_id: u64,
    pub finished_partitions: u64,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub pending: u64,
}

/// A big batch in `schedules/current/`.
#[derive(Clone, Debug)]
pub struct BigBatch {
    pub number: u32,
    pub servers: Vec<ScheduledServer>,
    folder: PathBuf,
}

/// What stands in a big batch's folder beside its configuration.
#[derive(Debug)]
pub struct BatchView<'a> {
    /// Server and partition.
    pub finished: &'a [(String, u32)],
    pub is_done: bool,
    pub is_unchanged: bool,
    /// Job and whether it checks.
    pub jobs: &'a [(u64, bool)],
}

/// The only state of a partition in `_verification.csv`: distributed-downloader's `Failed` counts as done, and there is
/// no such thing here.
const COMPLETED: &str = "Completed";

impl BigBatch {
    /// Of how many partitions.
    #[must_use]
    pub fn num_partitions(&self) -> u64 {
        self.servers.iter().map(|server| u64::from(server.total_batches)).sum()
    }

    /// Brings its files up to date.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, view: &BatchView<'_>) -> Result<(), StorageError> {
        let mut file = CsvFile::create(&self.folder.join("_verification.csv"))?;
        file.row(["server_name", "partition_id", "status"])?;
        for (server, partition) in view.finished {
            file.serialize((server, partition, COMPLETED))?;
        }
        file.finish()?;
        let mut file = CsvFile::create(&self.folder.join("_jobs_ids.csv"))?;
        file.row(["job_id", "is_verification"])?;
        for (job, checks) in view.jobs {
            // As Python writes it.
            file.serialize((job, if *checks { "True" } else { "False" }))?;
        }
        file.finish()?;
        mark(&self.folder.join("_DONE"), view.is_done)?;
        mark(&self.folder.join("_UNCHANGED"), view.is_unchanged)
    }

    /// Whether it has the marker `_DONE`, and `_UNCHANGED`.
    #[must_use]
    pub fn markers(&self) -> (bool, bool) {
        (self.folder.join("_DONE").exists(), self.folder.join("_UNCHANGED").exists())
    }
}

fn mark(path: &Path, is_marked: bool) -> Result<(), StorageError> {
    match (is_marked, path.exists()) {
        (true, false) => write_atomically(path, b""),
        (false, true) => remove_if_there(path),
        _ => Ok(()),
    }
}

/// The big batches of `schedules/current/`, in order.
///
/// # Errors
/// When a file cannot be read.
pub fn current_schedule(layout: &DatasetLayout) -> Result<Vec<BigBatch>, StorageError> {
    let batch = |(number, folder): (u32, PathBuf)| {
        Ok(BigBatch { number, servers: read_rows(&folder.join("_config.csv"))?, folder })
    };
    numbered_folders(&layout.current_schedule())?.into_iter().map(batch).collect()
}

/// Puts a new schedule in place of the current one, which gets the next number.
///
/// # Errors
/// When a folder cannot be renamed, or a file not be written.
pub fn replace_schedule(
    layout: &DatasetLayout,
    batches: Vec<Vec<ScheduledServer>>,
) -> Result<Vec<BigBatch>, StorageError> {
    let current = layout.current_schedule();
    if current.exists() {
        let number = numbered_folders(&layout.schedules())?.last().map_or(0, |(number, _)| number + 1);
        let old = layout.schedules().join(format!("{number:04}"));
        rename_durably(&current, &old)?;
    }
    let new = batches.into_iter().enumerate().map(|(number, servers)| {
        let folder = current.join(format!("{number:04}"));
        let mut file = CsvFile::create(&folder.join("_config.csv"))?;
        file.row(["index", "server_name", "total_batches", "process_per_node", "nodes"])?;
        for server in &servers {
            file.serialize(server)?;
        }
        file.finish()?;
        Ok(BigBatch { number: number as u32, servers, folder })
    });
    new.collect()
}

/// How far the dataset was when each job of the current schedule began.
///
/// # Errors
/// When the file cannot be read.
pub fn read_progress(layout: &DatasetLayout) -> Result<Vec<ScheduleProgress>, StorageError> {
    read_rows(&layout.current_schedule().join("_progress.csv"))
}

/// # Errors
/// When the file cannot be written.
pub fn write_progress(layout: &DatasetLayout, rows: &[ScheduleProgress]) -> Result<(), StorageError> {
    let mut file = CsvFile::create(&layout.current_schedule().join("_progress.csv"))?;
    file.row(["chain", "job_id", "finished_partitions", "success", "failed", "skipped", "pending"])?;
    for row in rows {
        file.serialize(row)?;
    }
    file.finish()
}

/// A chain of jobs, in a folder of its own.
#[derive(Clone, Debug)]
pub struct JobFolder {
    pub number: u32,
    pub folder: PathBuf,
}

impl JobFolder {
    /// The next one, which is not made yet.
    ///
    /// # Errors
    /// When the folder of all of them cannot be read.
    pub fn next(layout: &DatasetLayout) -> Result<Self, StorageError> {
        let parent = layout.jobs();
        let number = numbered_folders(&parent)?.last().map_or(0, |(number, _)| number + 1);
        Ok(Self { number, folder: parent.join(format!("{number:04}")) })
    }

    /// Makes its folder.
    ///
    /// # Errors
    /// When it cannot be made, or another has just done so.
    pub fn create(&self) -> Result<(), StorageError> {
        if let Some(parent) = self.folder.parent() {
            create_folder(parent)?;
        }
        fs::create_dir(&self.folder).map_err(StorageError::io("create folder", &self.folder))
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub fn all(layout: &DatasetLayout) -> Result<Vec<Self>, StorageError> {
        let folders = numbered_folders(&layout.jobs())?.into_iter();
        Ok(folders.map(|(number, folder)| Self { number, folder }).collect())
    }

    /// What was submitted.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn jobs(&self) -> Result<Vec<SubmittedJob>, StorageError> {
        read_rows(&self.folder.join("jobs.csv"))
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write_jobs(&self, jobs: &[SubmittedJob]) -> Result<(), StorageError> {
        let mut file = CsvFile::create(&self.folder.join("jobs.csv"))?;
        file.row(["job_id", "name", "kind", "dependency"])?;
        for job in jobs {
            file.serialize(job)?;
        }
        file.finish()
    }
}

/// Folders that are called by a number, in order. Numbers are never used again, so the last one is the newest.
fn numbered_folders(parent: &Path) -> Result<Vec<(u32, PathBuf)>, StorageError> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StorageError::io("read folder", parent))?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StorageError::io("read folder", parent))?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            folders.push((number, entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

/// The rows of a CSV file with a header. No file: none.
fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StorageError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(StorageError::io("open", path))?,
    };
    let rows = csv::Reader::from_reader(file).into_deserialize();
    rows.map(|row| row.map_err(|error| StorageError::io("read", path)(error.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LayoutOptions;

    fn server(index: u64, name: &str, total_batches: u32) -> ScheduledServer {
        ScheduledServer { index, server_name: name.into(), total_batches, process_per_node: 1, nodes: 2 }
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_schedule_has_distributed_downloaders_files() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        assert!(current_schedule(&layout).unwrap().is_empty());
        let batches =
            vec![vec![server(0, "a.org", 2), server(1, "b.org:81", 1)], vec![server(2, "c.org", 1)]];
        let new = replace_schedule(&layout, batches).unwrap();
        assert_eq!(new[0].num_partitions(), 3);

        let current = layout.current_schedule();
        let config =
            "index,server_name,total_batches,process_per_node,nodes\n0,a.org,2,1,2\n1,b.org:81,1,1,2\n";
        assert_eq!(read(current.join("0000/_config.csv")), config);
        let read_back = current_schedule(&layout).unwrap();
        assert_eq!(read_back[0].servers, new[0].servers);
        assert_eq!(read_back[1].servers, new[1].servers);

        let finished = [("a.org".to_owned(), 1)];
        let jobs = [(35_797_633, false), (35_797_634, true)];
        let view = BatchView { finished: &finished, is_done: false, is_unchanged: true, jobs: &jobs };
        new[0].write(&view).unwrap();
        assert_eq!(
            read(current.join("0000/_verification.csv")),
            "server_name,partition_id,status\na.org,1,Completed\n"
        );
        assert_eq!(
            read(current.join("0000/_jobs_ids.csv")),
            "job_id,is_verification\n35797633,False\n35797634,True\n"
        );
        assert_eq!(new[0].markers(), (false, true));
        new[0].write(&BatchView { finished: &[], is_done: true, is_unchanged: false, jobs: &[] }).unwrap();
        assert_eq!(read(current.join("0000/_verification.csv")), "server_name,partition_id,status\n");
        assert_eq!(new[0].markers(), (true, false));

        let row = ScheduleProgress {
            chain: 3,
            job_id: 9,
            finished_partitions: 1,
            success: 2,
            failed: 0,
            skipped: 0,
            pending: 4,
        };
        write_progress(&layout, &[row]).unwrap();
        assert_eq!(read_progress(&layout).unwrap(), [row]);
    }

    #[test]
    fn earlier_schedules_are_kept_and_numbers_never_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(folder.path(), LayoutOptions::default());
        for n in 0..3 {
            replace_schedule(&layout, vec![vec![server(n, "a.org", 1)]]).unwrap();
        }
        assert_eq!(current_schedule(&layout).unwrap()[0].servers[0].index, 2);
        assert!(read(layout.schedules().join("0001/0000/_config.csv")).contains("\n1,a.org"));
        fs::remove_dir_all(layout.schedules().join("0000")).unwrap();
        replace_schedule(&layout, Vec::new()).unwrap();
        assert!(layout.schedules().join("0002").is_dir(), "0001 stays what it is");

        let first = JobFolder::next(&layout).unwrap();
        first.create().unwrap();
        assert!(first.create().is_err(), "one of two that submit at once");
        let second = JobFolder::next(&layout).unwrap();
        second.create().unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        let job = SubmittedJob {
            job_id: 7,
            name: "download-0000".into(),
            kind: "download".into(),
            dependency: "afterok:6,afterany:5".into(),
        };
        second.write_jobs(std::slice::from_ref(&job)).unwrap();
        let all = JobFolder::all(&layout).unwrap();
        assert_eq!(all[0].jobs().unwrap(), []);
        assert_eq!(all[1].jobs().unwrap(), [job]);
    }
}
