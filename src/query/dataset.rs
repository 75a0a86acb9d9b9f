//! The dataset as one view of the catalog has it: partitions in order and the files that they name.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::catalog::{
    CatalogError, CatalogView, PartitionRow, PartitionStage, ServerRow, ToolPiece, ToolRow,
};
use crate::model::{PartitionKey, ServerId, ServerName};
use crate::storage::DatasetLayout;

/// Which of a partition's files a table is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Urls,
    Images,
    Errors,
    /// What a tool says of single images: its position among [`Dataset::tools`].
    Verdicts(usize),
}

/// A partition and where it stands.
pub(super) struct Partition {
    pub key: PartitionKey,
    pub folder: ServerName,
    pub shared: bool,
    pub row: PartitionRow,
}

impl Partition {
    /// The folder as a column value: `None` for records without a server.
    pub fn folder_value(&self) -> Option<&str> {
        (self.folder.as_str() != ServerName::NULL).then(|| self.folder.as_str())
    }
}

/// A file that the catalog names.
pub(super) struct NamedFile {
    pub path: PathBuf,
    /// Position among the partition's files of this kind; of parts, the order of their commits.
    pub part: i32,
    pub bytes: u64,
    pub num_rows: u64,
}

/// Opens a file of the dataset. What is none is refused: a pipe would be waited for, and for ever.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// What a tool has made.
pub(super) struct ToolFiles {
    pub name: String,
    pub row: ToolRow,
    pub num_partitions: u64,
    /// Of the partitions that are done.
    pub pieces: HashMap<PartitionKey, ToolPiece>,
}

/// Why a file could not be read, noted where it happens: on its way up through the engine an error loses
/// its type.
#[derive(Debug)]
pub(super) struct FileFault {
    pub path: PathBuf,
    pub detail: String,
}

pub(super) struct Dataset {
    pub layout: DatasetLayout,
    /// The output folder by its real name: an object's path has no `..`.
    pub real_root: PathBuf,
    pub view: CatalogView,
    pub servers: Vec<ServerRow>,
    /// By folder, then partition id: the order of everything that has one.
    pub partitions: Vec<Partition>,
    /// Partitions with errors that may no longer be their records' last word.
    pub unsettled: HashSet<usize>,
    /// Tools that ran, by name.
    pub tools: Vec<ToolFiles>,
    /// The tool whose images are the images; else those that were downloaded.
    pub from: Option<usize>,
    members: OnceLock<HashMap<ServerId, Vec<ServerName>>>,
    fault: Mutex<Option<FileFault>>,
}

impl Dataset {
    /// `from` names the tool whose images are to be the images.
    pub fn open(layout: DatasetLayout, view: CatalogView, from: Option<&str>) -> Result<Self, CatalogError> {
        let root = layout.root();
        let find = |source| CatalogError::Io { action: "find", path: root.to_owned(), source };
        let real_root = root.canonicalize().map_err(find)?;
        let servers = view.servers()?;
        let by_id: HashMap<ServerId, &ServerRow> = servers.iter().map(|server| (server.id, server)).collect();
        let mut partitions = Vec::new();
        let mut homeless = None;
        view.for_each_partition(|key, row| match by_id.get(&key.server_id) {
            Some(server) => {
                partitions.push(Partition { key, folder: server.folder.clone(), shared: server.shared, row })
            }
            None => homeless = Some(key),
        })?;
        if let Some(key) = homeless {
            return Err(CatalogError::Inconsistent(format!("{key:?} has no server")));
        }
        partitions.sort_by(|a, b| (&a.folder, a.key.partition_id).cmp(&(&b.folder, b.key.partition_id)));
        let unsettled =
            (0..partitions.len()).filter(|&p| may_hold_stale_errors(&partitions[p].row)).collect();
        let mut tools = Vec::new();
        for (name, row) in view.tools()? {
            let partitions = view.tool_partitions(&name)?;
            let num_partitions = partitions.len() as u64;
            let pieces = partitions.into_iter().filter_map(|(key, row)| Some((key, row.done?))).collect();
            tools.push(ToolFiles { name, row, num_partitions, pieces });
        }
        let from = from.and_then(|name| tools.iter().position(|tool| tool.name == name));
        Ok(Self {
            tools,
            from,
            layout,
            real_root,
            view,
            servers,
            partitions,
            unsettled,
            members: OnceLock::new(),
            fault: Mutex::new(None),
        })
    }

    /// The files of a kind that a partition has; files without rows need not be opened and are left out.
    pub fn files(&self, kind: FileKind, partition: usize) -> Vec<NamedFile> {
        let Partition { key, folder, row, .. } = &self.partitions[partition];
        let (layout, id) = (&self.layout, key.partition_id);
        let parts = |file: fn(&crate::model::PartRow) -> crate::model::DataFile| {
            row.parts.iter().map(move |part| (part.part, file(part)))
        };
        let of_tool = |tool: usize, file: fn(&ToolPiece) -> crate::model::DataFile| {
            let tool = self.tools.get(tool)?;
            let file = file(tool.pieces.get(key)?);
            Some((tool.name.as_str(), file.bytes, file.num_rows))
        };
        let files: Vec<(PathBuf, u64, u64)> = match (kind, row.stage) {
            (FileKind::Verdicts(tool), _) => of_tool(tool, |piece| piece.verdicts)
                .map(|(tool, bytes, rows)| (layout.tool_verdicts(tool, folder, id), bytes, rows))
                .into_iter()
                .collect(),
            (FileKind::Images, _) if self.from.is_some() => self
                .from
                .and_then(|tool| of_tool(tool, |piece| piece.images))
                .map(|(tool, bytes, rows)| (layout.tool_images(tool, folder, id), bytes, rows))
                .into_iter()
                .collect(),
            (FileKind::Urls, _) => {
                let home = layout.manifest_folder(folder, id);
                row.manifest_files
                    .iter()
                    .map(|file| (home.join(&file.name), file.bytes, u64::from(file.num_records)))
                    .collect()
            }
            (FileKind::Images, PartitionStage::Open) => parts(|part| part.successes)
                .map(|(part, file)| (layout.success_part(folder, id, part), file.bytes, file.num_rows))
                .collect(),
            (FileKind::Errors, PartitionStage::Open) => parts(|part| part.errors)
                .map(|(part, file)| (layout.error_part(folder, id, part), file.bytes, file.num_rows))
                .collect(),
            (FileKind::Images, _) => {
                vec![(layout.successes(folder, id), row.successes.bytes, row.successes.num_rows)]
            }
            (FileKind::Errors, _) => vec![(layout.errors(folder, id), row.errors.bytes, row.errors.num_rows)],
        };
        files
            .into_iter()
            .enumerate()
            .filter(|(_, (_, _, num_rows))| *num_rows > 0)
            .map(|(part, (path, bytes, num_rows))| NamedFile { path, part: part as i32, bytes, num_rows })
            .collect()
    }

    /// Whether the tool that `from` names has made images.
    pub fn has_images_of_tool(&self) -> bool {
        let pieces = self.from.and_then(|tool| self.tools.get(tool)).map(|tool| &tool.pieces);
        pieces.is_some_and(|pieces| pieces.values().any(|piece| piece.images.num_rows > 0))
    }

    /// Rows of all files of a kind that a partition has.
    pub fn num_rows(&self, kind: FileKind, partition: usize) -> u64 {
        self.files(kind, partition).iter().map(|file| file.num_rows).sum()
    }

    /// Whether any folder is shared by several servers.
    pub fn has_shared(&self) -> bool {
        self.partitions.iter().any(|partition| partition.shared)
    }

    /// The servers that live in a shared folder. Read when first asked for: there may be millions.
    pub fn members(&self, folder: ServerId) -> Result<&[ServerName], CatalogError> {
        let members = match self.members.get() {
            Some(members) => members,
            None => {
                let shared: HashMap<ServerId, &ServerName> =
                    self.servers.iter().filter(|s| s.shared).map(|s| (s.id, &s.folder)).collect();
                let mut members: HashMap<ServerId, Vec<ServerName>> = HashMap::new();
                for (name, id) in self.view.server_ids()? {
                    if shared.get(&id).is_some_and(|folder| **folder != name) {
                        members.entry(id).or_default().push(name);
                    }
                }
                self.members.get_or_init(|| members)
            }
        };
        Ok(members.get(&folder).map_or(&[], Vec::as_slice))
    }

    /// Remembers the first fault of a query.
    pub fn note_fault(&self, fault: FileFault) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    pub fn take_fault(&self) -> Option<FileFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// In an open partition, an error stays in its part when its record is retried. Each failed record has one
/// error, so as many errors as failures means that all are still true.
fn may_hold_stale_errors(row: &PartitionRow) -> bool {
    let errors: u64 = row.parts.iter().map(|part| part.errors.num_rows).sum();
    row.stage == PartitionStage::Open && errors != row.counts.failed
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset({})", self.layout.root().display())
    }
}

/// The dataset as part of a query plan, where things must be comparable: equal if it is the same one.
#[derive(Clone, Debug)]
pub(super) struct SharedDataset(pub Arc<Dataset>);

impl PartialEq for SharedDataset {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedDataset {}

impl Hash for SharedDataset {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What was last derived from a few partitions. A scan reads a partition after the other on each thread, so
/// a handful is as good as all.
#[derive(Debug)]
pub(super) struct PartitionCache<T> {
    recent: Mutex<VecDeque<(usize, Arc<T>)>>,
}

impl<T> PartitionCache<T> {
    const CAPACITY: usize = 64;

    pub fn new() -> Self {
        Self { recent: Mutex::new(VecDeque::new()) }
    }

    pub fn get_or<E>(&self, partition: usize, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let lock = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = lock().iter().find(|(key, _)| *key == partition) {
            return Ok(value.clone());
        }
        // Made outside the lock: two threads may both make it, none waits.
        let value = Arc::new(make()?);
        let mut recent = lock();
        if recent.len() == Self::CAPACITY {
            recent.pop_front();
        }
        recent.push_back((partition, value.clone()));
        Ok(value)
    }
}
