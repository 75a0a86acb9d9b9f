//! One URL in, one outcome out, and manners on the way.
//!
//! [`Fetcher::fetch`] makes one attempt at a URL. In this order, for the URL and again for each redirect:
//! 1. *guard*: only http and https, no address that the user did not mean ([`guard`]);
//! 2. *robots.txt*: what the server's rules disallow is skipped unasked (`robots/`);
//! 3. *permit*: the [`Server`] of this hop says when (its rate, its connections, its pauses), and the address that it
//!    is at (`addresses.rs`: many small servers share one);
//! 4. *request*: connect, first byte and total time are bounded; the resolver refuses forbidden addresses;
//! 5. *header*: redirects are followed by hand, statuses become failures, an image that its owner keeps out of
//!    datasets is skipped (`opt_out.rs`), bodies announced as too large are refused unread;
//! 6. *body*: read into memory that the caller's [`BodyMemory`] has granted, never beyond `max_body_bytes`. What comes
//!    before it is granted stays with the connection, which holds little (`client.rs`).
//!
//! Names and passwords in a URL go to that URL's server as Basic authentication, and nowhere else: no redirect,
//! no robots.txt, no message and no log has them.
//!
//! What a server or a list can do wrong is a [`FetchFailure`] with a cause and an advice on trying again; an
//! `Err` exists only where the options themselves do not work ([`FetchError`]). Retrying is the caller's:
//! [`Attempts`] counts for it.
//!
//! | answer | outcome | the server's pauses | its rate controller hears |
//! |---|---|---|---|
//! | 200, 203 | body | a streak of complaints is over | success |
//! | 301, 302, 303, 307, 308 | next hop, or `bad_redirect`, `too_many_redirects` | the same | answered |
//! | 429, 503; 408, 425 and 5xx with `Retry-After` | `http_status`, again when the server's pause is over; costs the URL no attempt | paused | refused |
//! | 408, 425, 500, 502, 504, 509, 520-530 | `http_status`, again after a backoff | complaint | failed |
//! | any other | `http_status`, final | a streak of complaints is over | answered |
//! | none, no HTTP, or a body that breaks off | its cause, again after a backoff | complaint | failed (`dns`: nothing) |
//!
//! [`Fetcher::size_of`] asks for the size of an image in the same manner: guard, robots.txt, permit and pauses are those
//! of a fetch (`size.rs`).
//!
//! Within the limits that the user has set, a [`rate`] controller decides how many requests to a server are under
//! way and how far apart they leave. A server that has not answered yet, or whose last request came to no answer, is
//! a *newcomer*: it gets one request at a time, and all newcomers together half of `max_in_flight`, so that servers
//! which are mute until a deadline cannot hold up those that answer.
//!
//! Any answer may say how much more is granted (`RateLimit` and its kin, `rate_limit_headers.rs`): when nothing is,
//! the server is paused until the reset, which is no complaint; a quota per time is a least gap like Crawl-delay.
//!
//! The limits belong to the cluster. A [`Fetcher`] that has a [`Landlord`] works on its part of them: it borrows a
//! server when it is first to ask it something, keeps to the loan that it has at the moment, and gives the server
//! back when it has not asked it anything for ten seconds. With the first loan comes what others know: an embargo,
//! the limits that a controller has learnt, robots.txt; what this one hears, it tells. No request leaves before the
//! first loan, while another rank has its turn, or while the bytes that may be received are used up: whoever asks
//! waits in line, and holds nothing that other servers need. Without a landlord all of each server is ours.
//!
//! From the 20th complaint in a row on a server is parked: paused for 15 s, doubling to 5 min. When a pause of
//! either kind is over, one request goes out as a probe. While a server is paused nobody waits for it: a fetch
//! fails at once with [`Retry::ServerPaused`], which costs no attempt, and callers can ask first
//! ([`Server::pause`]). A server that has done nothing but complain for longer than `server_patience`, and through
//! three pauses, is given up: while it is paused its URLs fail for good, unasked. After each pause it is probed
//! once more, and a success takes everything back. `pause.rs` says why. The other ranks leave a server alone that has
//! asked this one for a pause, or is parked here, and so does this one for theirs; each ends it a little later than it
//! was told, by chance, so that not all probe at once. Only what is heard here gives a server up here.
//!
//! No compression is asked for (`Accept-Encoding: identity`: images do not shrink), but what comes
//! compressed all the same is decoded within the same limit.
//!
//! A forward proxy (`proxy.rs`) resolves names by itself. What is forbidden is refused before the proxy is asked:
//! literals on every hop, and names that lead to a forbidden address as far as they resolve here; of names that do not
//! the proxy decides. The proxy's own address may be any.
//!
//! Invariants: nothing here knows the catalog or a file but `ca_certificate`; a request that leaves has a
//! permit of its server; a body in memory has a reservation.

mod address_range;
mod addresses;
mod body;
mod classify;
mod client;
mod connect_to;
mod connector;
mod content_encoding;
mod dns;
mod error;
mod failed;
mod fetcher;
mod gap;
pub mod guard;
mod landlord;
mod opt_out;
mod options;
mod outcome;
mod pause;
mod probe;
mod proxy;
pub mod rate;
mod rate_limit_headers;
mod request_log;
mod response;
mod retry;
mod robots;
mod rules;
mod server;
mod servers;
mod size;
mod tls;
mod told_to_wait;

#[cfg(test)]
mod tests;

pub use address_range::{AddressRange, ParseAddressRangeError};
pub use body::{BodyMemory, BodyReservation, UnboundedMemory, Waiting};
pub use connect_to::{ConnectTo, ParseConnectToError};
pub use error::FetchError;
pub use fetcher::Fetcher;
pub use landlord::Landlord;
pub use options::FetchOptions;
pub use outcome::{FetchFailure, FetchOutcome, FetchSkip, FetchedBody, Retry, SizeOutcome};
pub use pause::Pause;
pub use probe::{Route, reach_proxy};
pub use proxy::ProxyUrl;
pub use request_log::RequestLog;
pub use retry::{Attempts, Next};
pub use robots::robots_policy;
pub use rules::{ServerRule, ServerRules};
pub use server::Server;
