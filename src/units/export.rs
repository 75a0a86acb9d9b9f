//! Making units of what is pending: files first, then the leases in one commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::UnitError;
use super::deal::{Lot, Method, deal};
use super::unit_file::{
    BATCH_ROWS, FORMAT, HEADER_KEY, UnitClaim, UnitFact, UnitHeader, UnitSettings, batch, is_unit_name,
    schema, unit_path,
};
use crate::catalog::{
    Catalog, CatalogError, CatalogView, Lease, PartitionRow, PartitionStage, RunRow, ServerFact, ServerRow,
};
use crate::dispatch::{BudgetOf, deal_budget, num_seats};
use crate::model::{Epoch, PartitionKey, RecordState, RunId, ServerBudget, ServerId, ServerName};
use crate::storage::{DatasetLayout, ManifestReader, TableWriter, create_folder, remove_if_there};

/// What the user may set about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Units at most.
    pub groups: u32,
    pub method: Method,
    pub lease: Duration,
    pub host_column: bool,
    /// Only these servers, by the names of their folders; empty: all.
    pub servers: Vec<ServerName>,
}

/// One unit that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedUnit {
    pub path: PathBuf,
    pub servers: u64,
    pub partitions: u64,
    pub records: u64,
}

/// What an export has done, and what it has left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitExport {
    pub units: Vec<ExportedUnit>,
    /// When the leases end, in milliseconds since 1970.
    pub expires_at: u64,
    /// Pending records of servers that earlier units still have.
    pub leased_records: u64,
}

/// Writes units of what is pending into `folder`, and leases their partitions, from when `run` began.
///
/// Servers of which partitions are leased already are left alone: their limits are in those units.
///
/// # Errors
/// `InTheWay` when the folder has partitions; or when a manifest cannot be read or a file not be written: then nothing is
/// leased.
pub fn export_units(
    catalog: &Catalog,
    layout: &DatasetLayout,
    options: &ExportOptions,
    settings: &UnitSettings,
    budget_of: &BudgetOf,
    run: RunRow,
    folder: &Path,
) -> Result<UnitExport, UnitError> {
    let now = run.started_at;
    refuse_partitions_in(folder)?;
    let leased: HashSet<ServerId> =
        catalog.expire_leases(now)?.into_iter().map(|(key, _)| key.server_id).collect();
    let expires_at = now.saturating_add(u64::try_from(options.lease.as_millis()).unwrap_or(u64::MAX));
    let mut export = Export {
        layout,
        options,
        settings,
        budget_of,
        folder,
        now,
        expires_at,
        view: catalog.view()?,
        servers: HashMap::new(),
        rows: BTreeMap::new(),
        leases: Vec::new(),
        holders: HashMap::new(),
        run_id: 0,
    };
    let leased_records = export.find(&leased)?;
    let mut report = UnitExport { leased_records, expires_at, ..UnitExport::default() };
    if export.rows.is_empty() {
        return Ok(report);
    }
    let mut run = RunRow { run_id: catalog.start_run(run.clone())?, ..run };
    export.run_id = run.run_id;
    let written = export.write().and_then(|units| Ok((units, catalog.lease(&export.leases)?)));
    run.ended_at = Some(now);
    run.ending = Some(if written.is_ok() { "done" } else { "failed" }.into());
    match written {
        Ok((units, ())) => report.units = units,
        Err(error) => {
            export.remove_all();
            let _ = catalog.end_run(&run);
            return Err(error);
        }
    }
    run.num_ranks = report.units.len() as u32;
    catalog.end_run(&run)?;
    Ok(report)
}

fn refuse_partitions_in(folder: &Path) -> Result<(), UnitError> {
    create_folder(folder)?;
    for entry in fs::read_dir(folder).map_err(UnitError::io("list", folder))? {
        let name = entry.map_err(UnitError::io("list", folder))?.file_name();
        if let Some(name) = name.to_str().filter(|name| is_unit_name(name)) {
            return Err(UnitError::InTheWay { folder: folder.to_owned(), name: name.to_owned() });
        }
    }
    Ok(())
}

struct Export<'a> {
    layout: &'a DatasetLayout,
    options: &'a ExportOptions,
    settings: &'a UnitSettings,
    budget_of: &'a BudgetOf,
    folder: &'a Path,
    now: u64,
    expires_at: u64,
    view: CatalogView,
    servers: HashMap<ServerId, ServerRow>,
    /// What is to be exported.
    rows: BTreeMap<PartitionKey, PartitionRow>,
    leases: Vec<(PartitionKey, Lease)>,
    /// Units that have partitions of a server.
    holders: HashMap<ServerId, Vec<u32>>,
    run_id: RunId,
}

impl Export<'_> {
    /// Finds what is to be exported. Returns the number of pending records of servers that are leased.
    fn find(&mut self, leased: &HashSet<ServerId>) -> Result<u64, UnitError> {
        self.servers = self.view.servers()?.into_iter().map(|row| (row.id, row)).collect();
        let wanted = |id: ServerId| {
            let server = self.servers.get(&id);
            self.options.servers.is_empty()
                || server.is_some_and(|server| self.options.servers.contains(&server.folder))
        };
        let (mut rows, mut leased_records) = (BTreeMap::new(), 0);
        self.view.for_each_partition(|key, row| {
            if row.stage != PartitionStage::Open || row.counts.pending == 0 || !wanted(key.server_id) {
                return;
            }
            if leased.contains(&key.server_id) {
                leased_records += row.counts.pending;
            } else {
                rows.insert(key, row);
            }
        })?;
        self.rows = rows;
        Ok(leased_records)
    }

    fn write(&mut self) -> Result<Vec<ExportedUnit>, UnitError> {
        let lots: Vec<_> = self
            .rows
            .iter()
            .map(|(&partition, row)| Lot { partition, records: row.counts.pending })
            .collect();
        let servers: BTreeSet<_> = self.rows.keys().map(|key| key.server_id).collect();
        let seats: HashMap<_, _> = servers
            .into_iter()
            .map(|server| Ok((server, self.seats(server)?)))
            .collect::<Result<_, UnitError>>()?;
        let units = deal(&lots, self.options.groups, self.options.method, &|server| {
            seats.get(&server).copied().unwrap_or(1)
        });
        let numbered = || (1..).zip(&units);
        for (number, partitions) in numbered() {
            let servers: BTreeSet<_> = partitions.iter().map(|key| key.server_id).collect();
            servers.into_iter().for_each(|server| self.holders.entry(server).or_default().push(number));
        }
        let num_units = units.len() as u32;
        numbered().map(|(number, partitions)| self.write_unit(number, num_units, partitions)).collect()
    }

    fn server(&self, id: ServerId) -> Result<&ServerRow, UnitError> {
        let missing = || CatalogError::Inconsistent(format!("{id:?} is not there"));
        Ok(self.servers.get(&id).ok_or_else(missing)?)
    }

    /// Units that may ask a server at once. Servers that share a folder stay together, and a Crawl-delay is not divided.
    fn seats(&self, id: ServerId) -> Result<u32, UnitError> {
        let server = self.server(id)?;
        if server.shared {
            return Ok(1);
        }
        let facts = self.view.server_facts(&server.folder, self.now)?;
        let asks_for_delay = facts
            .iter()
            .any(|fact| matches!(fact, ServerFact::RobotsTxt(robots) if !robots.crawl_delay.is_zero()));
        Ok(if asks_for_delay { 1 } else { num_seats(&(self.budget_of)(&server.folder)) })
    }

    fn write_unit(
        &mut self,
        number: u32,
        num_units: u32,
        partitions: &[PartitionKey],
    ) -> Result<ExportedUnit, UnitError> {
        let unit = Uuid::new_v4();
        let path = unit_path(self.folder, number);
        let mut writer =
            TableWriter::plain(&path, schema(self.options.host_column), &self.run_id.to_string())?;
        let mut claims = Vec::with_capacity(partitions.len());
        let mut members = BTreeSet::new();
        for &partition in partitions {
            let server = self.server(partition.server_id)?;
            let row = &self.rows[&partition];
            let claim = UnitClaim {
                server_id: partition.server_id.0,
                partition_id: partition.partition_id,
                server_name: server.folder.to_string(),
                shared: server.shared,
                epoch: Epoch::new(self.run_id, self.leases.len() as u32 + 1),
                num_records: row.num_records(),
                num_pending: row.counts.pending as u32,
            };
            self.write_records(&claim, row, &mut writer, &mut members)?;
            let lease = Lease {
                epoch: claim.epoch,
                unit: unit.as_u128(),
                expires_at: self.expires_at,
                is_settled: false,
            };
            self.leases.push((partition, lease));
            claims.push(claim);
        }
        let header = UnitHeader {
            format: FORMAT,
            ddl_version: env!("CARGO_PKG_VERSION").into(),
            unit: unit.simple().to_string(),
            number,
            num_units,
            run: self.run_id,
            method: self.options.method,
            expires_at: self.expires_at,
            budgets: self.budgets(number, partitions, &members)?,
            facts: Vec::new(),
            settings: self.settings.clone(),
            claims,
        };
        let header = UnitHeader { facts: self.facts(&header)?, ..header };
        let text = serde_json::to_string(&header).expect("headers are plain data");
        writer.set_metadata(HEADER_KEY, text);
        writer.seal()?;
        Ok(ExportedUnit {
            path,
            servers: header.num_servers() as u64,
            partitions: partitions.len() as u64,
            records: header.num_pending(),
        })
    }

    /// Writes the pending records of a partition; notes the servers of a shared one.
    fn write_records(
        &self,
        claim: &UnitClaim,
        row: &PartitionRow,
        writer: &mut TableWriter,
        members: &mut BTreeSet<ServerName>,
    ) -> Result<(), UnitError> {
        let states = self.view.states(claim.partition())?;
        let folder = self.layout.manifest_folder(&claim.folder(), claim.partition_id);
        let files = row.manifest_files.iter().map(|file| folder.join(&file.name)).collect();
        let mut reader = ManifestReader::new(files, BATCH_ROWS);
        let before = writer.num_rows();
        while let Some(mut records) = reader.next_batch()? {
            records.retain(|record| {
                states.get(record.record as usize).is_some_and(|status| status.state == RecordState::Pending)
            });
            members.extend(
                records.iter().filter_map(|record| {
                    Some(ServerName::from_catalog(record.shared_server_name.as_deref()?))
                }),
            );
            writer.write(&batch(&records, claim, self.options.host_column))?;
        }
        let written = writer.num_rows() - before;
        if written == u64::from(claim.num_pending) {
            return Ok(());
        }
        Err(CatalogError::Inconsistent(format!(
            "of {} pending records the manifest of partition {} of `{}` has {written}",
            claim.num_pending, claim.partition_id, claim.server_name
        ))
        .into())
    }

    /// The unit's part of the limits of each server.
    fn budgets(
        &self,
        number: u32,
        partitions: &[PartitionKey],
        members: &BTreeSet<ServerName>,
    ) -> Result<BTreeMap<String, ServerBudget>, UnitError> {
        let whole = |name: &ServerName| (name.to_string(), (self.budget_of)(name));
        let mut budgets: BTreeMap<_, _> = members.iter().map(whole).collect();
        for id in partitions.iter().map(|key| key.server_id).collect::<BTreeSet<_>>() {
            let server = self.server(id)?;
            if !server.shared {
                let holders = &self.holders[&id];
                let nth = holders.iter().position(|holder| *holder == number).unwrap_or_default();
                let budget = (self.budget_of)(&server.folder);
                let budget = deal_budget(&budget, nth as u32, holders.len() as u32);
                budgets.insert(server.folder.to_string(), budget);
            }
        }
        Ok(budgets)
    }

    /// What is known of the unit's servers. It asks for robots.txt itself, so that its own ledger has it.
    fn facts(&self, header: &UnitHeader) -> Result<Vec<UnitFact>, UnitError> {
        let mut facts = Vec::new();
        for name in header.budgets.keys() {
            let server = ServerName::from_catalog(name);
            let known = self.view.server_facts(&server, self.now)?;
            let known = known.iter().filter(|fact| !matches!(fact, ServerFact::RobotsTxt(_)));
            facts.extend(known.map(|fact| UnitFact::new(&server, fact)));
        }
        Ok(facts)
    }

    /// Removes what was written, for nothing of it is leased.
    fn remove_all(&self) {
        for number in 1..=self.options.groups.min(self.rows.len() as u32) {
            let _ = remove_if_there(&unit_path(self.folder, number));
        }
    }
}
