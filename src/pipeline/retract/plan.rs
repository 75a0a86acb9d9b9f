//! Which records are chosen.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int32Type;
use tokio::runtime::Builder;
use uuid::Uuid;

use super::super::{Dataset, PipelineError};
use super::partitions::manifest_records;
use super::{RecordName, RetractPlan, RetractSelection};
use crate::catalog::{CatalogError, CatalogView, PartitionRow, PartitionStage};
use crate::model::{PartitionKey, RecordIndex, RecordState, ServerId, ServerName, SkipReason};
use crate::query::{QueryError, QueryOptions, QuerySession};

pub(super) const RETRACTED: RecordState = RecordState::Skipped(SkipReason::Retracted);

/// Records with the same bytes that are named.
const MAX_EXAMPLES: usize = 10;

type ViewSource<'a> = &'a dyn Fn() -> Result<CatalogView, CatalogError>;

pub(super) fn plan(
    dataset: &Dataset,
    selection: &RetractSelection,
    views: ViewSource<'_>,
) -> Result<RetractPlan, PipelineError> {
    let chosen = select(dataset, selection, views()?)?;
    let mut plan = RetractPlan { missing: chosen.missing, ..RetractPlan::default() };
    let mut records = chosen.records;
    let view = views()?;
    let others = same_bytes(&view, &records)?;
    plan.same_bytes = others.values().map(|records| records.len() as u64).sum();
    plan.same_bytes_examples = examples(dataset, &view, &others)?;
    if selection.duplicates {
        for (key, others) in others {
            records.entry(key).or_default().extend(others);
        }
    }
    for (&key, records) in &records {
        let states = view.states(key)?;
        let row = partition_row(&view, key)?;
        let mut has_images = false;
        for &record in records {
            let state = states.get(record as usize).map(|status| status.state);
            let state = state.ok_or_else(|| {
                CatalogError::Inconsistent(format!("{key:?} has no record {record}, but its manifest has"))
            })?;
            has_images |= state == RecordState::Success;
            match state {
                RETRACTED => plan.already += 1,
                state => *plan.counts.get_mut(state.disposition()) += 1,
            }
        }
        plan.partitions += 1;
        if has_images {
            plan.file_bytes += match row.stage {
                PartitionStage::Open => row.parts.iter().map(|part| part.successes.bytes).sum(),
                _ => row.successes.bytes,
            };
        }
    }
    plan.records = records.into_iter().map(|(key, records)| (key, records.into_iter().collect())).collect();
    Ok(plan)
}

type Records = BTreeMap<PartitionKey, BTreeSet<RecordIndex>>;

struct Chosen {
    records: Records,
    missing: Vec<String>,
}

fn select(
    dataset: &Dataset,
    selection: &RetractSelection,
    view: CatalogView,
) -> Result<Chosen, PipelineError> {
    let options: QueryOptions = dataset.resolved.section(&["query_parameters"], &[])?;
    let session = QuerySession::open(&dataset.layout, view, &options)?;
    if let Some(sql) = &selection.where_sql {
        session.check_condition(sql)?;
    }
    session.register_ordered()?;
    let sql = statement(selection);
    let mut wanted: HashSet<String> = selection.uuids.iter().map(|uuid| canonical(uuid)).collect();
    wanted.extend(selection.urls.iter().cloned());
    let mut records = Records::new();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| PipelineError::Io { action: "start the runtime".into(), source })?;
    runtime.block_on(async {
        let mut rows = session.stream(&sql).await?;
        while let Some(batch) = rows.next().await? {
            take_in(&session, &batch, &mut records, &mut wanted)?;
        }
        Ok::<_, QueryError>(())
    })?;
    let is_missing = |name: &&String| wanted.contains(*name) || wanted.contains(&canonical(name));
    let missing = selection.uuids.iter().chain(&selection.urls).filter(is_missing).cloned().collect();
    Ok(Chosen { records, missing })
}

fn take_in(
    session: &QuerySession,
    batch: &RecordBatch,
    records: &mut Records,
    wanted: &mut HashSet<String>,
) -> Result<(), QueryError> {
    let partitions = batch.column(0).as_primitive::<Int32Type>();
    let indices = batch.column(1).as_primitive::<Int32Type>();
    let (uuids, urls) = (batch.column(2).as_string::<i32>(), batch.column(3).as_string::<i32>());
    for row in 0..batch.num_rows() {
        let key = session.partition_key(partitions.value(row) as usize);
        let key = key.ok_or_else(|| QueryError::Execution { message: "an unknown partition".into() })?;
        records.entry(key).or_default().insert(indices.value(row).cast_unsigned());
        if !wanted.is_empty() {
            wanted.remove(&canonical(uuids.value(row)));
            if urls.is_valid(row) {
                wanted.remove(urls.value(row));
            }
        }
    }
    Ok(())
}

/// A UUID in its usual form; other text as it is.
fn canonical(text: &str) -> String {
    Uuid::try_parse(text.trim()).map_or_else(|_| text.to_owned(), |uuid| uuid.to_string())
}

fn statement(selection: &RetractSelection) -> String {
    let list = |column: &str, values: &mut dyn Iterator<Item = String>| {
        let values: Vec<_> = values.map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
        (!values.is_empty()).then(|| format!("{column} IN ({})", values.join(", ")))
    };
    // The list's spelling is kept.
    let spellings = |uuid: &String| [uuid.clone(), canonical(uuid), canonical(uuid).to_uppercase()];
    let conditions: Vec<String> = [
        list("uuid", &mut selection.uuids.iter().flat_map(spellings)),
        list("identifier", &mut selection.urls.iter().cloned()),
        list("server_name", &mut selection.servers.iter().map(ServerName::to_string)),
        // Lines of its own, so that a comment in the condition ends.
        selection.where_sql.as_ref().map(|sql| format!("(\n{sql}\n)")),
        // Nothing is set: nothing is chosen.
        (selection.uuids.is_empty()
            && selection.urls.is_empty()
            && selection.servers.is_empty()
            && selection.where_sql.is_none())
        .then(|| "false".into()),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!(
        "SELECT \"ddl:partition\", record, uuid, identifier FROM ordered_urls AS urls WHERE {}",
        conditions.join(" AND ")
    )
}

/// Images with the bytes of chosen ones, as downloaded, that are not chosen themselves. Digests of retracted records
/// are kept, so those that were chosen before count as well.
fn same_bytes(view: &CatalogView, chosen: &Records) -> Result<Records, PipelineError> {
    let mut digests = HashSet::new();
    for (&key, records) in chosen {
        for (record, digest) in view.digests(key)?.into_iter().flat_map(|(_, rows)| rows) {
            if records.contains(&record) {
                digests.insert(digest);
            }
        }
    }
    let mut found = Records::new();
    if digests.is_empty() {
        return Ok(found);
    }
    let mut partitions = Vec::new();
    view.for_each_partition(|key, row| {
        if row.counts.success > 0 {
            partitions.push(key);
        }
    })?;
    for key in partitions {
        let rows = view.digests(key)?.into_iter().flat_map(|(_, rows)| rows);
        let same: Vec<_> =
            rows.filter(|(_, digest)| digests.contains(digest)).map(|(record, _)| record).collect();
        if same.is_empty() {
            continue;
        }
        let states = view.states(key)?;
        for record in same {
            let is_chosen = chosen.get(&key).is_some_and(|records| records.contains(&record));
            let is_image =
                states.get(record as usize).is_some_and(|status| status.state == RecordState::Success);
            if is_image && !is_chosen {
                found.entry(key).or_default().insert(record);
            }
        }
    }
    Ok(found)
}

fn examples(
    dataset: &Dataset,
    view: &CatalogView,
    records: &Records,
) -> Result<Vec<RecordName>, PipelineError> {
    let folders: HashMap<ServerId, ServerName> =
        view.servers()?.into_iter().map(|server| (server.id, server.folder)).collect();
    let mut examples = Vec::new();
    for (key, records) in records {
        let left = MAX_EXAMPLES - examples.len();
        if left == 0 {
            break;
        }
        let Some(folder) = folders.get(&key.server_id) else { continue };
        let row = partition_row(view, *key)?;
        let wanted = records.iter().copied().take(left).collect();
        match manifest_records(&dataset.layout, folder, key.partition_id, &row, &wanted) {
            Ok(found) => examples.extend(found.iter().map(RecordName::of)),
            Err(error) => tracing::warn!(%error, "some records with the same bytes cannot be named"),
        }
    }
    Ok(examples)
}

pub(super) fn partition_row(view: &CatalogView, key: PartitionKey) -> Result<PartitionRow, CatalogError> {
    view.partition(key)?.ok_or_else(|| CatalogError::Inconsistent(format!("there is no {key:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_set_must_hold() {
        let check = |selection: &RetractSelection, condition: &str| {
            let sql = statement(selection);
            assert_eq!(sql.split_once(" WHERE ").unwrap().1, condition);
        };
        check(&RetractSelection::default(), "false");
        let selection = RetractSelection {
            urls: vec!["http://a/it's".into()],
            servers: vec![ServerName::from_catalog("a.example")],
            where_sql: Some("true -- all".into()),
            ..RetractSelection::default()
        };
        check(
            &selection,
            "identifier IN ('http://a/it''s') AND server_name IN ('a.example') AND (\ntrue -- all\n)",
        );
        let uuid = "F64FF270-9EAB-5D74-96A9-BE77DD78294B";
        let selection = RetractSelection { uuids: vec![uuid.into()], ..RetractSelection::default() };
        check(&selection, &format!("uuid IN ('{uuid}', '{}', '{uuid}')", uuid.to_lowercase()));
    }
}
