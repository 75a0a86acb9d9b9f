//! The catalog's format number, and the way from older ones.

use super::{CatalogError, tables};

/// The format this build writes. Every change of a table's meaning raises it and adds a step below.
pub const FORMAT: u32 = 1;

/// Reads the format number; `None` in a file that has never been committed to.
pub(super) fn stored_format(
    meta: &impl redb::ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<u32>, CatalogError> {
    let Some(value) = meta.get("format")? else { return Ok(None) };
    let bytes: [u8; 4] = value
        .value()
        .try_into()
        .map_err(|_| CatalogError::inconsistent("the format number is not four bytes"))?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

/// Makes the tables of a new catalog, and would upgrade an older one; format 1 is the first.
pub(super) fn prepare(txn: &redb::WriteTransaction) -> Result<u32, CatalogError> {
    let mut meta = txn.open_table(tables::META)?;
    let found = stored_format(&meta)?;
    if found.is_none() {
        meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
    }
    txn.open_table(tables::SERVERS)?;
    txn.open_table(tables::SERVER_IDS)?;
    txn.open_table(tables::PARTITIONS)?;
    txn.open_table(tables::STATES)?;
    txn.open_table(tables::URL_KEYS)?;
    txn.open_table(tables::DIGESTS)?;
    txn.open_table(tables::SERVER_FACTS)?;
    txn.open_table(tables::TOOLS)?;
    txn.open_table(tables::TOOL_PARTITIONS)?;
    txn.open_table(tables::LEASES)?;
    txn.open_table(tables::RUNS)?;
    txn.open_table(tables::INGESTS)?;
    Ok(found.unwrap_or(FORMAT))
}
