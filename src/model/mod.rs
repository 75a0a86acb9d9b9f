//! The vocabulary: ids, records, outcomes. Plain data that every other room speaks.
//!
//! Nothing here does I/O or knows a crate of the outside world but `serde` and `url`.

mod data_file;
mod digest;
mod ids;
mod image_info;
mod nearest;
mod outcome;
mod record_url;
mod request;
mod server_loan;
mod told;

pub use data_file::{DataFile, PartRow};
pub use digest::{ContentDigest, HashAlgorithm, PerceptualHash};
pub use ids::{Epoch, PartId, PartitionKey, Rank, RecordIndex, RunId, ServerId};
pub use image_info::{ImageEncoding, ImageFormat, PixelSize};
pub use nearest::{nearest, num_typos};
pub use outcome::{Disposition, FailureCause, RecordState, SkipReason};
pub use record_url::{RecordUrl, ServerName, UrlKey, mask_credentials, without_credentials};
pub use request::{RequestEntry, RequestPurpose, RobotsPolicy, RobotsRequest};
pub use server_loan::{
    Complaints, Embargo, LearntLimit, Loan, RobotsTxt, ServerBudget, ServerKnowledge, ServerNews,
};
pub use told::{told_bytes, told_count, told_percent};
