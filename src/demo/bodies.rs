//! The bytes behind the URLs: all of the demo's pictures, made once, and plain pictures by the number.
//!
//! Plain pictures are one of a few files with the URL as a JPEG comment, so each URL has bytes (and a
//! hash) of its own at the price of a copy. The pictures themselves repeat: deduplicating them by
//! what they show leaves few.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;

use super::error::DemoError;
use super::photos::PhotoSpec;
use super::random::mix;
use super::set::Page;

/// Different plain pictures.
const NUM_PLAIN: u64 = 8;

/// Everything that is served, in memory.
#[derive(Debug)]
pub(super) struct Bodies {
    photos: HashMap<PhotoSpec, Bytes>,
    plain: Vec<Vec<u8>>,
}

impl Bodies {
    /// Makes each picture that a page needs, and the plain ones, on all cores.
    pub(super) fn render<'a>(
        pages: impl Iterator<Item = &'a Page>,
        picture_side: u16,
    ) -> Result<Self, DemoError> {
        let mut needed: HashSet<PhotoSpec> = pages
            .filter_map(|page| match page {
                Page::Photo { spec, .. } | Page::HalfPhoto(spec) | Page::FlawedPng(spec) => Some(*spec),
                Page::Text { .. } | Page::Redirect { .. } | Page::Status(_) => None,
            })
            .collect();
        let height = (picture_side / 4 * 3).max(1);
        let plain = (0..NUM_PLAIN).map(|number| PhotoSpec::jpeg(mix(number), picture_side, height));
        let plain: Vec<PhotoSpec> = plain.collect();
        needed.extend(&plain);
        let photos = render_all(needed)?;
        let plain = plain.iter().filter_map(|spec| photos.get(spec)).map(|bytes| bytes.to_vec()).collect();
        Ok(Self { photos, plain })
    }

    pub(super) fn photo(&self, spec: &PhotoSpec) -> Bytes {
        self.photos.get(spec).cloned().unwrap_or_default()
    }

    /// The first half of a file.
    pub(super) fn half(&self, spec: &PhotoSpec) -> Bytes {
        let whole = self.photo(spec);
        whole.slice(..whole.len() / 2)
    }

    /// A file with one byte changed in its middle.
    pub(super) fn flawed(&self, spec: &PhotoSpec) -> Bytes {
        let mut bytes = self.photo(spec).to_vec();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x55;
        }
        bytes.into()
    }

    /// The picture of a plain URL.
    pub(super) fn plain(&self, server: &str, path: &str) -> Bytes {
        let url = format!("http://{server}{path}");
        let hash = url.bytes().fold(0u64, |hash, byte| mix(hash ^ u64::from(byte)));
        let picture = &self.plain[(hash % NUM_PLAIN) as usize];
        with_comment(picture, &url).into()
    }
}

/// Puts a comment segment behind the two bytes that start a JPEG.
fn with_comment(jpeg: &[u8], comment: &str) -> Vec<u8> {
    // The length counts its own two bytes; a URL beyond that is cut.
    let comment = &comment.as_bytes()[..comment.len().min(usize::from(u16::MAX) - 2)];
    let length = (comment.len() as u16 + 2).to_be_bytes();
    let (start, rest) = jpeg.split_at(2.min(jpeg.len()));
    [start, &[0xff, 0xfe], &length, comment, rest].concat()
}

/// Renders each picture. Big and small ones are mixed, so threads take them one by one.
fn render_all(needed: HashSet<PhotoSpec>) -> Result<HashMap<PhotoSpec, Bytes>, DemoError> {
    let needed: Vec<PhotoSpec> = needed.into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(spec) = needed.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((*spec, Bytes::from(spec.render()?)));
        }
        Ok(done)
    };
    let num_threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..num_threads).map(|_| scope.spawn(work)).collect();
        let mut photos = HashMap::with_capacity(needed.len());
        for thread in threads {
            // A panic in an encoder stays a panic: there is nobody hostile here.
            photos.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(photos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_pictures_differ_in_bytes_and_decode() {
        let bodies = Bodies::render([].into_iter(), 64).unwrap();
        let one = bodies.plain("a.example", "/plain/1/1.jpg");
        assert_eq!(one, bodies.plain("a.example", "/plain/1/1.jpg"));
        assert_ne!(one, bodies.plain("b.example", "/plain/1/1.jpg"));
        let picture = image::load_from_memory(&one).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 48));
        assert!(one.windows(12).any(|part| part == b"http://a.exa"));
        let long = with_comment(&one, &"x".repeat(100_000));
        assert!(image::load_from_memory(&long).is_ok());
    }

    #[test]
    fn broken_files_are_broken() {
        let png = PhotoSpec { format: crate::demo::PhotoFormat::Png, ..PhotoSpec::jpeg(3, 160, 120) };
        let page = Page::FlawedPng(png);
        let bodies = Bodies::render([&page].into_iter(), 16).unwrap();
        assert!(image::load_from_memory(&bodies.photo(&png)).is_ok());
        assert!(image::load_from_memory(&bodies.flawed(&png)).is_err());
        assert!(image::load_from_memory(&bodies.half(&png)).is_err());
    }
}
