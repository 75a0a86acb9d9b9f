//! The demo's contents: which rows its list has, and what each URL answers.
//!
//! Eight servers, each with a character of its own:
//!
//! | server | what it shows |
//! |---|---|
//! | `museum-a.example`, `museum-b.example` | ordinary servers; every format and size |
//! | `herbarium-c.example` | exact and near duplicates of the museums' pictures |
//! | `garden-d.example` | a robots.txt, opt-out headers, URLs that are not ASCII |
//! | `photos-e.example` | 429 with `Retry-After` above 20 requests a second |
//! | `archive-f.example` | 300 ms before each answer |
//! | `attic-g.example` | broken files and missing ones |
//! | `portal-h.example` | redirects: to itself, to another server, in a circle |
//!
//! Each 25th row is a special one: a URL that the list already has, an unusable URL, a sound, and
//! the like. Everything follows from the seed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::error::DemoError;
use super::list::{ListFormat, ListRow, write_list};
use super::options::{DemoOptions, ServerBehaviour};
use super::photos::PhotoSpec;
use super::planner::{self, Planner, SERVERS};

/// What a demo server answers to one path.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// A picture, announced as `media_type`; `opt_out` adds `X-Robots-Tag: noai, noimageai`.
    Photo {
        spec: PhotoSpec,
        media_type: &'static str,
        opt_out: bool,
    },
    /// The first half of a picture, with the length of the half.
    HalfPhoto(PhotoSpec),
    /// A PNG with one byte of its pixels changed, which its checksums reveal.
    FlawedPng(PhotoSpec),
    Text {
        body: &'static str,
        media_type: &'static str,
    },
    Redirect {
        status: u16,
        location: String,
    },
    Status(u16),
}

/// The demo's list and its servers.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoSet {
    rows: Vec<ListRow>,
    /// By `server` + path, the path as it is in a request.
    pages: HashMap<String, Page>,
    behaviours: BTreeMap<String, ServerBehaviour>,
}

impl DemoSet {
    /// Lays out the demo; makes no picture yet.
    #[must_use]
    pub fn plan(options: &DemoOptions) -> Self {
        let mut planner = Planner::new(options.seed);
        for index in 0..options.num_records {
            if index % 25 == 24 { planner.add_special(index / 25) } else { planner.add_ordinary() }
        }
        Self { rows: planner.rows, pages: planner.pages, behaviours: planner::behaviours() }
    }

    /// The rows of the list, in order.
    #[must_use]
    pub fn rows(&self) -> &[ListRow] {
        &self.rows
    }

    /// The servers' names.
    pub fn server_names(&self) -> impl Iterator<Item = &'static str> {
        SERVERS.iter().map(|(name, _)| *name)
    }

    /// Writes the list, with commas if the name ends in `.csv`, else with tabs.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_list(&self, path: &Path) -> Result<(), DemoError> {
        let comma = path.extension().is_some_and(|extension| extension == "csv");
        let format = if comma { ListFormat::Csv } else { ListFormat::Tsv };
        write_list(path, format, self.rows.iter().cloned())
    }

    pub(super) fn pages(&self) -> &HashMap<String, Page> {
        &self.pages
    }

    pub(super) fn behaviours(&self) -> &BTreeMap<String, ServerBehaviour> {
        &self.behaviours
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::demo::PhotoFormat;
    use crate::model::{FailureCause, RecordState, RecordUrl};

    fn plan() -> DemoSet {
        DemoSet::plan(&DemoOptions::default())
    }

    #[test]
    fn a_seed_gives_one_demo() {
        assert_eq!(plan(), plan());
        assert_ne!(plan(), DemoSet::plan(&DemoOptions { seed: 2, ..DemoOptions::default() }));
        assert_eq!(plan().rows().len(), 600);
        assert!(DemoSet::plan(&DemoOptions { num_records: 0, seed: 1 }).rows().is_empty());
    }

    #[test]
    fn unusable_urls_are_skipped_for_the_expected_reason() {
        for row in plan().rows() {
            let parsed = RecordUrl::parse(&row.identifier, 8192).map(|_| ()).map_err(RecordState::Skipped);
            match (parsed, row.expected) {
                (Err(reason), expected) => assert_eq!(Some(reason), expected, "{}", row.identifier),
                (Ok(()), Some(RecordState::Skipped(_))) => panic!("{} is usable", row.identifier),
                (Ok(()), _) => {}
            }
        }
    }

    #[test]
    fn every_usable_url_has_its_page() {
        let set = plan();
        for row in set.rows() {
            if let Ok(url) = url::Url::parse(&row.identifier)
                && url.scheme() == "http"
                && let Some(server) = url.host_str()
            {
                let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
                assert!(set.pages().contains_key(&format!("{server}{target}")), "{}", row.identifier);
            }
        }
    }

    #[test]
    fn every_special_case_occurs() {
        let set = plan();
        let states: HashSet<_> = set.rows().iter().map(|row| row.expected).collect();
        for cause in [
            FailureCause::TruncatedImage,
            FailureCause::NotAnImage,
            FailureCause::EmptyBody,
            FailureCause::BadImage,
            FailureCause::HttpStatus,
            FailureCause::TooManyRedirects,
        ] {
            assert!(states.contains(&Some(RecordState::Failed(cause))), "{cause}");
        }
        assert!(states.contains(&None));
        let urls: HashSet<_> = set.rows().iter().map(|row| &row.identifier).collect();
        assert!(urls.len() < set.rows().len(), "no URL occurs twice");
        for server in set.server_names() {
            let rows = set.rows().iter().filter(|row| row.identifier.contains(server)).count();
            assert!(rows >= 20, "{server} has {rows}");
        }
        let photos: Vec<_> = set
            .pages()
            .values()
            .filter_map(|page| if let Page::Photo { spec, .. } = page { Some(*spec) } else { None })
            .collect();
        let formats: HashSet<_> = photos.iter().map(|spec| spec.format).collect();
        assert_eq!(formats.len(), PhotoFormat::ALL.len());
        let (distinct, scenes): (HashSet<_>, HashSet<_>) =
            photos.iter().map(|spec| (*spec, spec.seed)).unzip();
        assert!(distinct.len() < photos.len(), "no exact duplicate");
        assert!(scenes.len() + 5 < distinct.len(), "too few near-duplicates");
        assert!(photos.iter().any(|spec| spec.width.max(spec.height) == 2000));
        assert!(photos.iter().any(|spec| spec.width.max(spec.height) == 100));
    }
}
