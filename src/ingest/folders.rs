//! Which folder each server's records go to.
//!
//! Most servers have a folder of their own. Web crawls name millions of servers with a few URLs each:
//! with more than `max_server_folders` servers in list and catalog together, those with fewer than
//! `share_servers_below` rows share folders, filled up to `batch_size` rows in order of their names.
//! What the catalog knows already stays: no server ever moves.

use std::collections::HashMap;

use super::options::IngestOptions;
use super::spill::bucket_of;
use crate::catalog::ServerRow;
use crate::model::{ServerId, ServerName};

/// Names of shared folders begin so; no server's name has capitals.
const SHARED: &str = "SHARED-";

/// What the catalog knows of servers when an ingest begins.
#[derive(Debug)]
pub(super) struct KnownServers {
    rows: HashMap<ServerId, ServerRow>,
    ids: HashMap<ServerName, ServerId>,
}

impl KnownServers {
    pub(super) fn new(rows: Vec<ServerRow>, ids: HashMap<ServerName, ServerId>) -> Self {
        Self { rows: rows.into_iter().map(|row| (row.id, row)).collect(), ids }
    }

    /// The server's own row or that of its shared folder.
    pub(super) fn find(&self, server: &ServerName) -> Option<&ServerRow> {
        self.rows.get(self.ids.get(server)?)
    }

    /// True servers: those with a folder of their own and those in shared ones.
    fn num_servers(&self) -> usize {
        // Shared folders have an entry of their own among the ids.
        let num_shared =
            self.rows.values().filter(|row| row.shared && self.ids.contains_key(&row.folder)).count();
        self.ids.len() - num_shared
    }

    pub(super) fn num_records(&self) -> u64 {
        self.rows.values().map(|row| row.num_records).sum()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &ServerRow> {
        self.rows.values()
    }
}

/// A server of the list.
#[derive(Clone, Debug)]
pub(super) struct ListedServer {
    pub(super) name: ServerName,
    /// Rows of the list, repeated ones included.
    pub(super) num_rows: u64,
}

/// A folder that takes rows of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) name: ServerName,
    pub(super) shared: bool,
    /// Partitions that it has: the number of the next.
    pub(super) num_partitions: u32,
    /// Servers that come into this shared folder with the next partition.
    pub(super) new_members: Vec<ServerName>,
}

/// Folders of a list. Order: as the servers first appear, then new shared folders by number.
#[derive(Debug, Default)]
pub(super) struct FolderPlan {
    pub(super) folders: Vec<Folder>,
    /// For each server of the list, the index of its folder.
    pub(super) folder_of: Vec<u32>,
}

pub(super) fn plan_folders(
    listed: &[ListedServer],
    known: &KnownServers,
    options: &IngestOptions,
) -> FolderPlan {
    let num_new = listed.iter().filter(|server| known.find(&server.name).is_none()).count();
    let sharing = (known.num_servers() + num_new) as u64 > options.max_server_folders;
    let mut plan = FolderPlan { folders: Vec::new(), folder_of: vec![u32::MAX; listed.len()] };
    let mut by_id: HashMap<ServerId, u32> = HashMap::new();
    let mut small = Vec::new();
    for (index, server) in listed.iter().enumerate() {
        plan.folder_of[index] = match known.find(&server.name) {
            Some(row) => *by_id.entry(row.id).or_insert_with(|| {
                plan.folders.push(Folder {
                    name: row.folder.clone(),
                    shared: row.shared,
                    num_partitions: row.num_partitions,
                    new_members: Vec::new(),
                });
                plan.folders.len() as u32 - 1
            }),
            None if sharing
                && server.num_rows < options.share_servers_below
                && server.name.as_str() != ServerName::NULL =>
            {
                small.push((bucket_of(&server.name), &server.name, index));
                continue;
            }
            None => {
                let name = server.name.clone();
                plan.folders.push(Folder { name, shared: false, num_partitions: 0, new_members: Vec::new() });
                plan.folders.len() as u32 - 1
            }
        };
    }
    share(listed, small, next_shared_number(known), options.batch_size, &mut plan);
    plan
}

/// Fills shared folders. One never holds servers of two buckets, now or later: buckets are cut one by one.
fn share(
    listed: &[ListedServer],
    mut small: Vec<(u32, &ServerName, usize)>,
    mut number: u64,
    batch_size: u64,
    plan: &mut FolderPlan,
) {
    small.sort_unstable();
    let mut open: Option<(u32, u64)> = None;
    for (bucket, name, index) in small {
        let num_rows = listed[index].num_rows;
        let fits = open.filter(|&(of, filled)| of == bucket && filled + num_rows <= batch_size);
        if fits.is_none() {
            let name = ServerName::from_catalog(&format!("{SHARED}{number:04}"));
            number += 1;
            plan.folders.push(Folder { name, shared: true, num_partitions: 0, new_members: Vec::new() });
        }
        open = Some((bucket, fits.map_or(0, |(_, filled)| filled) + num_rows));
        let folder = plan.folders.len() - 1;
        plan.folders[folder].new_members.push(name.clone());
        plan.folder_of[index] = folder as u32;
    }
}

fn next_shared_number(known: &KnownServers) -> u64 {
    let numbers =
        known.rows().filter_map(|row| row.folder.as_str().strip_prefix(SHARED)?.parse::<u64>().ok());
    numbers.max().map_or(0, |number| number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(servers: &[(&str, u64)]) -> Vec<ListedServer> {
        let server =
            |&(name, num_rows): &(&str, u64)| ListedServer { name: ServerName::from_catalog(name), num_rows };
        servers.iter().map(server).collect()
    }

    fn known(rows: &[(&str, &[&str])]) -> KnownServers {
        let row = |(id, &(folder, _)): (usize, &(&str, &[&str]))| ServerRow {
            id: ServerId(id as u32),
            folder: ServerName::from_catalog(folder),
            shared: folder.starts_with(SHARED),
            num_partitions: 3,
            num_records: 10,
        };
        let ids = rows.iter().enumerate().flat_map(|(id, (_, members))| {
            members.iter().map(move |member| (ServerName::from_catalog(member), ServerId(id as u32)))
        });
        KnownServers::new(rows.iter().enumerate().map(row).collect(), ids.collect())
    }

    #[test]
    fn few_servers_have_their_own() {
        let plan = plan_folders(&listed(&[("b", 1), ("a", 2)]), &known(&[]), &IngestOptions::default());
        assert_eq!(plan.folder_of, [0, 1]);
        assert!(plan.folders.iter().all(|folder| !folder.shared && folder.num_partitions == 0));
    }

    #[test]
    fn many_small_servers_share_and_known_ones_stay() {
        let options = IngestOptions { max_server_folders: 10, batch_size: 500, ..IngestOptions::default() };
        let known = known(&[("own", &["own"]), ("SHARED-0004", &["small"])]);
        let mut servers = vec![("own".to_owned(), 1), ("small".into(), 1), ("large".into(), 100)];
        servers.push((ServerName::NULL.into(), 1));
        servers.extend((0..5000).map(|n| (format!("s{n}"), 1 + n % 3)));
        let servers: Vec<_> = servers.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
        let listed = listed(&servers);
        let plan = plan_folders(&listed, &known, &options);
        assert_eq!(plan.folders[0].num_partitions, 3);
        assert_eq!(plan.folders[1].name.as_str(), "SHARED-0004");
        assert!(!plan.folders[2].shared && !plan.folders[3].shared);
        let new = &plan.folders[4..];
        assert_eq!(new[0].name.as_str(), "SHARED-0005");
        assert!(new.len() <= 64 + 10_000 / 400, "{}", new.len());
        for (index, folder) in new.iter().enumerate() {
            let members = (0..listed.len()).filter(|&server| plan.folder_of[server] == index as u32 + 4);
            assert!(members.clone().map(|server| listed[server].num_rows).sum::<u64>() <= 500);
            assert_eq!(members.count(), folder.new_members.len());
            assert!(folder.new_members.is_sorted());
            let buckets = folder.new_members.iter().map(bucket_of);
            assert_eq!(buckets.collect::<std::collections::HashSet<_>>().len(), 1);
        }
    }
}
