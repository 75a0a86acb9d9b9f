//! Walks for orphans: files in the folders of servers that no commit names.
//!
//! No walk follows a symbolic link, not even to a folder of a known partition, for what lies behind it may
//! belong to someone else. Links and other special files are passed over.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::CheckError;
use super::partition::{Committed, is_named};
use crate::catalog::{PartitionStage, ToolPiece};
use crate::model::{PartitionKey, ServerId, ServerName};
use crate::storage::DatasetLayout;

/// Called with each orphan and its length.
pub(super) type OnOrphan<'a> = &'a mut dyn FnMut(PathBuf, u64);

/// Files in the folders of a known partition that no commit names.
pub(super) fn partition_orphans(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    committed: &Committed,
    each: OnOrphan<'_>,
) -> Result<(), CheckError> {
    let Committed { row, tools } = committed;
    let images = layout.images_folder(folder, partition_id);
    let manifest = layout.manifest_folder(folder, partition_id);
    let is_open = row.stage == PartitionStage::Open;

    let mut named: HashSet<PathBuf> =
        row.manifest_files.iter().map(|file| manifest.join(&file.name)).collect();
    if is_open {
        for part in &row.parts {
            for (path, stated) in [
                (layout.success_part(folder, partition_id, part.part), part.successes),
                (layout.error_part(folder, partition_id, part.part), part.errors),
            ] {
                if is_named(stated) {
                    named.insert(path);
                }
            }
        }
    } else {
        // The marker may stand since the partition is compacted.
        named.extend([
            layout.successes(folder, partition_id),
            layout.errors(folder, partition_id),
            layout.completed_marker(folder, partition_id),
        ]);
    }
    for (root, partition) in [(layout.images(), images), (layout.urls(), manifest)] {
        if is_real(&root, &partition) {
            unnamed_files(partition, &|path| named.contains(path), each)?;
        }
    }
    tool_orphans(layout, folder, partition_id, tools, each)
}

/// Files of these tools in the folders of a partition that no commit names.
pub(super) fn tool_orphans(
    layout: &DatasetLayout,
    folder: &ServerName,
    partition_id: u32,
    tools: &[(String, Option<ToolPiece>)],
    each: OnOrphan<'_>,
) -> Result<(), CheckError> {
    for (tool, piece) in tools {
        let files = piece.iter().flat_map(|piece| {
            [
                (layout.tool_verdicts(tool, folder, partition_id), piece.verdicts),
                (layout.tool_images(tool, folder, partition_id), piece.images),
            ]
        });
        let named: Vec<_> = files.filter(|(_, stated)| is_named(*stated)).map(|(path, _)| path).collect();
        let partition = layout.tool_folder(tool, folder, partition_id);
        if is_real(&layout.tool(tool), &partition) {
            unnamed_files(partition, &|path| named.iter().any(|named| named == path), each)?;
        }
    }
    Ok(())
}

/// The folders of a dataset that the catalog knows.
pub(super) struct KnownFolders<'a> {
    servers: HashMap<OsString, ServerId>,
    /// In ascending order.
    partitions: &'a [PartitionKey],
    /// Names of tools that ran.
    tools: &'a [String],
}

impl<'a> KnownFolders<'a> {
    pub(super) fn new(
        layout: &DatasetLayout,
        servers: &HashMap<ServerId, ServerName>,
        partitions: &'a [PartitionKey],
        tools: &'a [String],
    ) -> Self {
        let servers = servers.iter().filter_map(|(id, folder)| {
            let path = layout.images_folder(folder, 0);
            Some((path.parent()?.file_name()?.to_owned(), *id))
        });
        Self { servers: servers.collect(), partitions, tools }
    }

    /// Files in the folders of servers and partitions that the catalog does not know, and files beside partitions.
    pub(super) fn unknown_files(&self, layout: &DatasetLayout, each: OnOrphan<'_>) -> Result<(), CheckError> {
        for server in server_folders(layout, self.tools)? {
            let id = server.file_name().and_then(|name| self.servers.get(name)).copied();
            let Some(id) = id else {
                unnamed_files(server, &|_| false, each)?;
                continue;
            };
            for entry in entries(&server)? {
                match entry.kind {
                    Kind::File(bytes) => each(entry.path, bytes),
                    Kind::Folder if !self.has_partition(id, &entry.path) => {
                        unnamed_files(entry.path, &|_| false, each)?;
                    }
                    Kind::Folder => {}
                }
            }
        }
        Ok(())
    }

    fn has_partition(&self, server_id: ServerId, path: &Path) -> bool {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let id = name.strip_prefix("partition_id=").and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|partition_id| {
            // `partition_id=07` is not the folder of partition 7.
            name == format!("partition_id={partition_id}")
                && self.partitions.binary_search(&PartitionKey { server_id, partition_id }).is_ok()
        })
    }
}

/// Every `server_name=...` folder of images, of the manifest and of these tools, in order of their names.
pub(super) fn server_folders(layout: &DatasetLayout, tools: &[String]) -> Result<Vec<PathBuf>, CheckError> {
    let mut folders = Vec::new();
    let tools = tools.iter().map(|tool| layout.tool(tool));
    for root in [layout.images(), layout.urls()].into_iter().chain(tools) {
        if !is_real(&root, &root) {
            continue;
        }
        let is_server = |entry: &Entry| {
            let name = entry.path.file_name().unwrap_or_default().as_encoded_bytes();
            matches!(entry.kind, Kind::Folder) && name.starts_with(b"server_name=")
        };
        folders.extend(entries(&root)?.into_iter().filter(is_server).map(|entry| entry.path));
    }
    Ok(folders)
}

/// A folder and all folders in it, each before those in it.
pub(super) fn folders_within(folder: PathBuf) -> Result<Vec<PathBuf>, CheckError> {
    let mut folders = vec![folder];
    let mut next = 0;
    while let Some(folder) = folders.get(next) {
        let within = entries(folder)?.into_iter().filter(|entry| matches!(entry.kind, Kind::Folder));
        folders.extend(within.map(|entry| entry.path));
        next += 1;
    }
    Ok(folders)
}

/// Whether `path` and all folders above it, up to `root`, are folders and no links to such.
pub(super) fn is_real(root: &Path, path: &Path) -> bool {
    path.ancestors()
        .take_while(|folder| folder.starts_with(root))
        .all(|folder| fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()))
}

fn unnamed_files(
    folder: PathBuf,
    is_named: &dyn Fn(&Path) -> bool,
    each: OnOrphan<'_>,
) -> Result<(), CheckError> {
    // Not by recursion: folders can be nested deeper than the stack.
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder)? {
            match entry.kind {
                Kind::Folder => folders.push(entry.path),
                Kind::File(bytes) if !is_named(&entry.path) => each(entry.path, bytes),
                Kind::File(_) => {}
            }
        }
    }
    Ok(())
}

struct Entry {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Folder,
    /// Of so many bytes.
    File(u64),
}

/// Folders and files that are ddl's to judge, in order of their names; none when there is no such folder.
fn entries(folder: &Path) -> Result<Vec<Entry>, CheckError> {
    let mut entries = Vec::new();
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
        Err(error) => return Err(CheckError::io("read folder", folder)(error)),
    };
    for entry in listing {
        let entry = entry.map_err(CheckError::io("read folder", folder))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".")
            || (name.as_encoded_bytes().starts_with(b"_") && name != "_parts")
        {
            continue;
        }
        let path = entry.path();
        // The entry's own type: a link is neither file nor folder.
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_dir() => Kind::Folder,
            Ok(kind) if kind.is_file() => match entry.metadata() {
                Ok(meta) => Kind::File(meta.len()),
                // Gone since the folder was listed.
                Err(_) => continue,
            },
            _ => continue,
        };
        entries.push(Entry { path, kind });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}
