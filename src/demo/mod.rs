//! The demo: made-up photos, a list in GBIF's form, and a farm of image servers on the loopback
//! interface, so that the whole pipeline can be tried without a network.
//!
//! ```no_run
//! use ddl::demo::{DemoFarm, DemoOptions, FarmOptions};
//!
//! let options = FarmOptions { demo: Some(DemoOptions::default()), ..FarmOptions::default() };
//! let farm = DemoFarm::start(options)?;
//! if let Some(demo) = farm.demo() {
//!     demo.write_list("multimedia.tsv".as_ref())?;
//! }
//! println!("connect {:?} to {}", farm.server_names(), farm.addr());
//! # Ok::<(), ddl::demo::DemoError>(())
//! ```
//!
//! Two kinds of servers live on one farm: the eight of the demo ([`DemoSet`] tells what each shows),
//! and any number of plain ones that answer each `/plain/...` path of any name with a small picture;
//! [`farm_list`] makes lists for them. Names end in `.example`, which no DNS knows (RFC 2606): a
//! client reaches them by connecting each name to [`DemoFarm::addr`].
//!
//! The same seed gives the same list and the same bytes on every machine of one architecture;
//! floating point may differ in the last bit between architectures.

mod bodies;
mod canvas;
mod error;
mod limits;
mod list;
mod log;
mod options;
mod photos;
mod planner;
mod random;
mod server;
mod set;
#[cfg(test)]
mod tests;

pub use error::DemoError;
pub use list::{LIST_COLUMNS, ListFormat, ListRow, farm_list, plain_server, write_list};
pub use log::{LogEntry, ServerCounts};
pub use options::{DemoOptions, FarmOptions, ServerBehaviour};
pub use photos::{PhotoEdit, PhotoFormat, PhotoSpec};
pub use server::DemoFarm;
pub use set::DemoSet;
