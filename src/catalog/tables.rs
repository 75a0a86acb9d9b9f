//! Every table of the catalog. A name ends in the version of its encoding.
//!
//! `docs/catalog-format.md` gives keys, bytes and costs.

use redb::TableDefinition;

/// `format`, `manifest_schema` and other facts about the whole dataset.
pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta-1");
/// Server id -> `ServerRow`. One per folder: a server, or a folder that small servers share.
pub const SERVERS: TableDefinition<u32, &[u8]> = TableDefinition::new("servers-1");
/// Name of a server -> id of its own or its shared folder.
pub const SERVER_IDS: TableDefinition<&str, u32> = TableDefinition::new("server_ids-1");
/// (server, partition) -> `PartitionRow`.
pub const PARTITIONS: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("partitions-1");
/// (server, partition) -> `PackedStates` of its records.
pub const STATES: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("states-1");
/// (server, partition, chunk) -> 16-byte URL keys in record order.
pub const URL_KEYS: TableDefinition<(u32, u32, u32), &[u8]> = TableDefinition::new("url_keys-1");
/// (server, partition, epoch, sequence, chunk) -> records and digests of a part, in file order.
pub const DIGESTS: TableDefinition<(u32, u32, u64, u32, u32), &[u8]> = TableDefinition::new("digests-1");
/// (name of a server, kind of fact) -> `ServerFact`.
pub const SERVER_FACTS: TableDefinition<(&[u8], u8), &[u8]> = TableDefinition::new("server_facts-1");
/// Name of a tool -> `ToolRow`.
pub const TOOLS: TableDefinition<&str, &[u8]> = TableDefinition::new("tools-1");
/// (tool, server, partition) -> `ToolPartition`.
pub const TOOL_PARTITIONS: TableDefinition<(&str, u32, u32), &[u8]> =
    TableDefinition::new("tool_partitions-1");
/// (server, partition) -> `Lease`.
pub const LEASES: TableDefinition<(u32, u32), &[u8]> = TableDefinition::new("leases-1");
/// Run id -> `RunRow` as JSON.
pub const RUNS: TableDefinition<u32, &[u8]> = TableDefinition::new("runs-1");
/// Ingest number -> `IngestRow` as JSON.
pub const INGESTS: TableDefinition<u32, &[u8]> = TableDefinition::new("ingests-1");
