//! Near-duplicates: records whose perceptual hashes differ in few of their 256 bits.
//!
//! 1. [`HashesBuilder`] takes the hashes of a set of records and keeps each once. Records of an equal hash are copies
//!    of the first; flat hashes ([`is_flat`]), which say nothing, are left out and counted.
//! 2. [`Search`] finds all pairs within a distance (a multi-index join: `plan` has why none is missed), within a set or
//!    between two, alone or as one shard of many.
//! 3. [`stars`] says which records go, and for which; [`matches()`] which records of one set another has already.
//!
//! The result depends on hashes and numbers alone: not on the order in which records come, on shards, threads or
//! memory. It is exact, but for what [`SearchReport::left_out`] says.
//!
//! Memory is what [`NearOptions::memory_bytes`] says, beside the tables of keys (64 MiB for each thread at most, between two
//! sets 128 MiB) and a bit for each record in [`stars`]; the rest lies on disk, in files without a name that end with the process.
//!
//! ```
//! use ddl::near::{HashesBuilder, NearError, NearOptions, Search, Shard, stars};
//!
//! let folder = std::env::temp_dir();
//! let options = NearOptions::default();
//! let mut hashes = HashesBuilder::new(&folder, &options);
//! let picture = [0x5a; 32];
//! let mut recoded = picture;
//! recoded[7] ^= 0b0110;
//! hashes.push(0, &picture)?;
//! hashes.push(1, &recoded)?;
//! hashes.push(2, &[0x3c; 32])?;
//! let hashes = hashes.finish()?;
//! let shutdown = ddl::runtime::Shutdown::new();
//! let search = Search { options: &options, folder: &folder, shard: Shard::WHOLE, shutdown: &shutdown };
//! let found = search.pairs_within(&hashes)?;
//! let mut removed = Vec::new();
//! stars(found.pairs, hashes.copies(), 3, |gone| {
//!     removed.push((gone.record, gone.witness, gone.distance));
//!     Ok::<(), NearError>(())
//! })?;
//! assert_eq!(removed, [(1, 0, 2)]);
//! # Ok::<(), NearError>(())
//! ```

mod bits;
mod error;
mod hashes;
mod options;
mod pairs;
mod part;
mod plan;
mod search;
mod sorter;
mod spill;
mod stars;
#[cfg(test)]
mod tests;

pub use bits::is_flat;
pub use error::NearError;
pub use hashes::{HashCopy, HashCounts, Hashes, HashesBuilder};
pub use options::{MAX_DISTANCE, NearOptions};
pub use pairs::{Pair, PairSorter, SortedPairs};
pub use search::{Found, HotBucket, Search, SearchReport, Shard};
pub use stars::{Match, matches, stars};
