//! The catalog's format number, and the way from older ones.

use redb::WriteTransaction;

use super::{CatalogError, tables};

/// The format this build writes. Every change of a table's meaning raises it and adds a step below.
pub const FORMAT: u32 = 1;

/// Rewrites what one format has into what the next one has. All steps and the new number are one transaction: killed
/// half-way, the catalog is as it was.
type Step = fn(&WriteTransaction) -> Result<(), CatalogError>;

/// `STEPS[n - 1]` leads from format `n` to `n + 1`. Format 1 is the first.
const STEPS: [Step; FORMAT as usize - 1] = [];

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

/// Makes the tables of a new catalog, and upgrades an older one. Returns the number that was found: of a newer catalog
/// nothing else has been looked at, for its tables may be anything.
pub(super) fn prepare(txn: &WriteTransaction) -> Result<u32, CatalogError> {
    let found = upgrade(txn, &STEPS)?;
    if found > FORMAT {
        return Ok(found);
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
    Ok(found)
}

/// Takes the steps that are missing up to the format after the last of `steps`.
fn upgrade(txn: &WriteTransaction, steps: &[Step]) -> Result<u32, CatalogError> {
    let format = steps.len() as u32 + 1;
    let stored = stored_format(&txn.open_table(tables::META)?)?;
    let found = stored.unwrap_or(format);
    let Some(done) = found.checked_sub(1) else {
        return Err(CatalogError::inconsistent("the format number is 0"));
    };
    let missing = steps.get(done as usize..).unwrap_or_default();
    if !missing.is_empty() {
        tracing::info!(from = found, to = format, "upgrading the catalog");
    }
    for step in missing {
        step(txn)?;
    }
    if stored.is_none_or(|stored| stored < format) {
        txn.open_table(tables::META)?.insert("format", format.to_le_bytes().as_slice())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use redb::{ReadableTable as _, TableDefinition};

    use super::*;
    use crate::catalog::{Catalog, CatalogOptions, CatalogReader};

    fn append(txn: &WriteTransaction, letter: u8) -> Result<(), CatalogError> {
        let mut meta = txn.open_table(tables::META)?;
        let mut text = meta.get("letters")?.map_or(Vec::new(), |value| value.value().to_vec());
        text.push(letter);
        meta.insert("letters", text.as_slice())?;
        Ok(())
    }

    #[test]
    fn an_older_catalog_takes_the_steps_that_it_lacks_and_no_other() {
        let steps: [Step; 3] = [|txn| append(txn, b'2'), |txn| append(txn, b'3'), |txn| append(txn, b'4')];
        for (stored, letters) in
            [(None, ""), (Some(1), "234"), (Some(2), "34"), (Some(3), "4"), (Some(4), ""), (Some(5), "")]
        {
            let backend = redb::backends::InMemoryBackend::new();
            let db = redb::Database::builder().create_with_backend(backend).unwrap();
            let txn = db.begin_write().unwrap();
            if let Some(stored) = stored {
                let number: u32 = stored;
                let mut meta = txn.open_table(tables::META).unwrap();
                meta.insert("format", number.to_le_bytes().as_slice()).unwrap();
            }
            assert_eq!(upgrade(&txn, &steps).unwrap(), stored.unwrap_or(4));
            let meta = txn.open_table(tables::META).unwrap();
            assert_eq!(stored_format(&meta).unwrap(), Some(stored.unwrap_or(4).max(4)));
            let found = meta.get("letters").unwrap().map_or(Vec::new(), |value| value.value().to_vec());
            assert_eq!(found, letters.as_bytes(), "{stored:?}");
        }
    }

    /// A newer format may have other types in tables of the same names.
    #[test]
    fn a_newer_catalog_is_refused_whatever_its_tables_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.redb");
        let db = redb::Database::create(&path).unwrap();
        let txn = db.begin_write().unwrap();
        let newer: TableDefinition<&str, &str> = TableDefinition::new("servers-1");
        txn.open_table(newer).unwrap();
        txn.open_table(tables::META)
            .unwrap()
            .insert("format", (FORMAT + 6).to_le_bytes().as_slice())
            .unwrap();
        txn.commit().unwrap();
        drop(db);
        let before = std::fs::read(&path).unwrap();
        let options = CatalogOptions::default();
        let errors = [
            Catalog::open(&path, &options).err().unwrap(),
            CatalogReader::open(&path, &options).err().unwrap(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("has format 7, this ddl reads up to 1"), "{text}");
            assert!(error.hint().unwrap().contains("a newer one"));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), before.len() as u64);
    }
}
