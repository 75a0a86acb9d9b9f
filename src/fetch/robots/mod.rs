//! robots.txt (RFC 9309): fetched once per server and scheme, before its first image, and obeyed.
//!
//! The file is asked for as an image is: through the guard, with a permit of the server, within the deadlines,
//! through `connect_to`. What comes of it (RFC 9309, 2.3.1):
//!
//! | answer | means |
//! |---|---|
//! | 2xx | the rules of the first 500 KiB; none if no line of it can be read |
//! | 301, 302, 303, 307, 308 | followed, five times; then, or if the target cannot be asked, no rules |
//! | 429, 408, 425 | asked again later; until then nothing of the server is asked for |
//! | any other 3xx or 4xx | no rules |
//! | 5xx, none, no HTTP, a body that breaks off | as 429 |
//!
//! Where it is asked again later, the record's attempt has failed with that cause, and the server's pace has been
//! told: its pauses, and giving it up, are those of any other failure, so nobody waits for ever. Who waited for the
//! same answer shares the failure.
//!
//! The rules that hold are those of the groups that name `ddl` or the first word of the user agent, both where
//! both are named, else those of `*`. They are kept for `robots_txt_max_age`, in memory ([`RobotsCache`]). Where there
//! is a landlord, it is told of each file that was read, and the first loan of a server brings those that it knows:
//! they count from when they were read, and no other rank asks for them before they are too old. Of a server whose
//! file cannot be had nothing is told.

mod ask;
mod cache;
mod rules;

pub(super) use cache::RobotsCache;
pub(super) use rules::agents;

use super::options::FetchOptions;
use crate::model::RobotsPolicy;

/// How these options treat robots.txt.
#[must_use]
pub fn robots_policy(options: &FetchOptions) -> RobotsPolicy {
    RobotsPolicy {
        is_respected: options.respect_robots_txt,
        agents: agents(&options.user_agent),
        max_crawl_delay: options.max_crawl_delay,
    }
}
