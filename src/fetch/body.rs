//! Bodies: read into memory that was granted first, and never more than the limit.
//!
//! A body has one reservation, also while it stands in memory twice, encoded and decoded: one that held the first
//! and waited for a second could wait for others that do the same. Beyond 512 KiB the buffer grows with what has come, not with what was announced: a server that promises
//! 100 MiB and delivers a byte a minute does not hold 100 MiB. What is left over at the end is given back.

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_ENCODING;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::classify::{self, Phase};
use super::content_encoding::{self, ContentEncoding};
use super::response::Response;
use crate::model::FailureCause;

/// First size of a buffer for a body of unknown length.
const FIRST_BYTES: usize = 64 * 1024;
/// Largest first size of a buffer for an announced length: a usual web photo is read without moving once.
const FIRST_ANNOUNCED_BYTES: usize = 512 * 1024;
/// The most that is read, and waited for, to keep a connection whose body nobody wants.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// A future that the caller's memory hands out.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Memory for bodies. The implementor decides how much there is and who waits.
pub trait BodyMemory: Send + Sync {
    /// Waits until `bytes` may be used for one body.
    fn reserve(&self, bytes: u64) -> Waiting<'_, Box<dyn BodyReservation>>;
}

/// Memory granted to one body; given back when dropped.
pub trait BodyReservation: Send + Sync + fmt::Debug {
    /// Waits until `bytes` more may be used.
    ///
    /// A body that grows keeps what it has while it waits, so the implementor must see to it that not all wait
    /// for each other.
    fn grow(&mut self, bytes: u64) -> Waiting<'_, ()>;

    /// Gives back what is above `bytes`.
    fn shrink(&mut self, bytes: u64);
}

/// Grants everything at once: for tests, and where the number of requests under way bounds memory enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnboundedMemory;

impl BodyMemory for UnboundedMemory {
    fn reserve(&self, _bytes: u64) -> Waiting<'_, Box<dyn BodyReservation>> {
        Box::pin(async { Box::new(*self) as Box<dyn BodyReservation> })
    }
}

impl BodyReservation for UnboundedMemory {
    fn grow(&mut self, _bytes: u64) -> Waiting<'_, ()> {
        Box::pin(async {})
    }

    fn shrink(&mut self, _bytes: u64) {}
}

/// A body and the memory it stands in.
pub(super) struct Body {
    pub bytes: Bytes,
    pub reservation: Box<dyn BodyReservation>,
}

type Failed = (FailureCause, String);

/// Reads a whole body. Adds to `received` what comes over the wire, whether or not all of it does. Waiting for memory moves `deadline` by as long: the server is not to blame for it.
pub(super) async fn read(
    response: Response,
    memory: &dyn BodyMemory,
    max_bytes: u64,
    deadline: &mut Instant,
    received: &mut u64,
) -> Result<Body, Failed> {
    if response.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_large(max_bytes));
    }
    read_as(response, memory, max_bytes, Excess::Refuse, deadline, received).await
}

/// Reads the first `max_bytes` of a body, or all of a shorter one.
pub(super) async fn read_start(
    response: Response,
    memory: &dyn BodyMemory,
    max_bytes: usize,
    deadline: &mut Instant,
    received: &mut u64,
) -> Result<Body, Failed> {
    read_as(response, memory, max_bytes as u64, Excess::Cut, deadline, received).await
}

/// What becomes of the bytes beyond the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Excess {
    /// The body fails.
    Refuse,
    /// They are left out. Of an encoded body, what the first bytes decode to is kept; if these are not all, that fails.
    Cut,
}

async fn read_as(
    mut response: Response,
    memory: &dyn BodyMemory,
    max_bytes: u64,
    excess: Excess,
    deadline: &mut Instant,
    received: &mut u64,
) -> Result<Body, Failed> {
    let announced = response.content_length().map(|length| length.min(max_bytes));
    // Several lines are one list (RFC 9110, 5.3).
    let lines: Vec<_> =
        response.headers().get_all(CONTENT_ENCODING).iter().map(|line| line.as_bytes()).collect();
    let encodings = content_encoding::parse(&lines.join(&b","[..]))?;
    let mut buffer = Buffer::new(memory, announced, max_bytes, deadline).await;
    loop {
        if excess == Excess::Cut && buffer.bytes.len() as u64 == max_bytes {
            break;
        }
        let chunk = match timeout_at(*deadline, response.chunk()).await {
            Err(_) => {
                let message = format!("{} bytes of the body came in time", buffer.bytes.len());
                return Err((FailureCause::RequestTimeout, message));
            }
            Ok(Err(error)) => return Err((classify::cause(&error, Phase::Body), classify::message(&error))),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(chunk))) => chunk,
        };
        *received += chunk.len() as u64;
        let room = to_usize(max_bytes).saturating_sub(buffer.bytes.len());
        let chunk = if excess == Excess::Cut { chunk.slice(..chunk.len().min(room)) } else { chunk };
        buffer.push(&chunk, deadline).await?;
    }
    buffer.fit();
    for encoding in encodings.into_iter().rev() {
        buffer = buffer.decode(encoding, excess, deadline).await?;
    }
    if buffer.bytes.is_empty() {
        return Err((FailureCause::EmptyBody, "the body has no bytes".to_owned()));
    }
    Ok(Body { bytes: buffer.bytes.into(), reservation: buffer.reservation })
}

/// Reads the rest of a response that is of no interest, if it is short, so that its connection can be reused.
pub(super) async fn drain(mut response: Response, received: &mut u64) {
    if response.content_length().is_some_and(|length| length > DRAIN_BYTES as u64) {
        return;
    }
    let deadline = Instant::now() + DRAIN_TIME;
    let mut left = DRAIN_BYTES;
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        *received += chunk.len() as u64;
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn too_large(max_bytes: u64) -> Failed {
    (FailureCause::BodyTooLarge, format!("the body exceeds {max_bytes} bytes"))
}

/// Bytes whose capacity never exceeds what is reserved.
struct Buffer {
    bytes: Vec<u8>,
    /// The capacity that growing stops at: the announced length, or the limit.
    most: usize,
    max_bytes: u64,
    reservation: Box<dyn BodyReservation>,
}

impl Buffer {
    async fn new(
        memory: &dyn BodyMemory,
        announced: Option<u64>,
        max_bytes: u64,
        deadline: &mut Instant,
    ) -> Self {
        let most = to_usize(announced.unwrap_or(max_bytes));
        let first = most.min(if announced.is_some() { FIRST_ANNOUNCED_BYTES } else { FIRST_BYTES });
        let asked = Instant::now();
        let reservation = memory.reserve(first as u64).await;
        *deadline += asked.elapsed();
        Self { bytes: Vec::with_capacity(first), most, max_bytes, reservation }
    }

    async fn push(&mut self, chunk: &[u8], deadline: &mut Instant) -> Result<(), Failed> {
        let length = self.bytes.len() + chunk.len();
        if length as u64 > self.max_bytes {
            return Err(too_large(self.max_bytes));
        }
        self.make_room(length, deadline).await;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Sees to a capacity of at least `length`.
    async fn make_room(&mut self, length: usize, deadline: &mut Instant) {
        let capacity = self.bytes.capacity();
        if length > capacity {
            // By four, then exactly: few copies, and what is announced truly ends in a buffer of its own size.
            let wanted = length.max(capacity.saturating_mul(4).min(self.most));
            let asked = Instant::now();
            self.reservation.grow((wanted - capacity) as u64).await;
            *deadline += asked.elapsed();
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }

    /// Undoes one encoding. Decoding takes long and may look at much for a few bytes, so it is done on a thread
    /// that may block: up to the end of the room that there is, then again when there is more.
    async fn decode(
        self,
        encoding: ContentEncoding,
        excess: Excess,
        deadline: &mut Instant,
    ) -> Result<Self, Failed> {
        // One byte more than may be there tells that there are more.
        let most = to_usize(self.max_bytes.saturating_add(1));
        let mut decoder = encoding.decoder(self.bytes.into());
        let mut decoded = Self { bytes: Vec::new(), most, ..self };
        loop {
            let length = decoded.bytes.len().saturating_add(FIRST_BYTES).min(most);
            decoded.make_room(length, deadline).await;
            let is_over;
            (decoder, decoded, is_over) = spawn_blocking(move || {
                let is_over = fill(&mut decoder, &mut decoded.bytes);
                (decoder, decoded, is_over)
            })
            .await
            .map_err(|error| (FailureCause::DecoderPanic, error.to_string()))?;
            let is_over = is_over.map_err(|error| content_encoding::failure(&error))?;
            let is_cut = decoded.bytes.len() as u64 > decoded.max_bytes;
            if is_cut && excess == Excess::Refuse {
                return Err(too_large(decoded.max_bytes));
            }
            if is_over || is_cut {
                decoded.bytes.truncate(to_usize(decoded.max_bytes));
                drop(decoder);
                decoded.fit();
                return Ok(decoded);
            }
        }
    }

    /// Gives back all that is reserved beyond these bytes.
    fn fit(&mut self) {
        // Moving them is not worth less than an eighth.
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 8 {
            self.bytes.shrink_to_fit();
        }
        self.reservation.shrink(self.bytes.capacity() as u64);
    }
}

/// Reads until the capacity is used up; whether that is all.
fn fill(reader: &mut dyn Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let room = bytes.capacity() - bytes.len();
    Ok(reader.take(room as u64).read_to_end(bytes)? < room)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
