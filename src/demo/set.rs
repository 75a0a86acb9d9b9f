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
use std::time::Duration;

use super::error::DemoError;
use super::list::{LICENSES, ListFormat, ListRow, SPECIES, write_list};
use super::options::{DemoOptions, ServerBehaviour};
use super::photos::{PhotoEdit, PhotoFormat, PhotoSpec};
use super::random::Dice;
use crate::model::{FailureCause, RecordState, SkipReason};

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

/// Names of the demo's servers and how many of 100 rows each has.
const SERVERS: [(&str, u32); 8] = [
    ("museum-a.example", 24),
    ("museum-b.example", 18),
    ("herbarium-c.example", 14),
    ("garden-d.example", 12),
    ("photos-e.example", 10),
    ("archive-f.example", 7),
    ("attic-g.example", 8),
    ("portal-h.example", 7),
];
const MUSEUM_A: usize = 0;
const MUSEUM_B: usize = 1;
const HERBARIUM: usize = 2;
const GARDEN: usize = 3;
const PHOTOS: usize = 4;
const ARCHIVE: usize = 5;
const ATTIC: usize = 6;
const PORTAL: usize = 7;

/// Width and height, and how many of 100 pictures have them.
const SIZES: [((u16, u16), u32); 10] = [
    ((100, 75), 8),
    ((160, 120), 18),
    ((240, 180), 26),
    ((320, 240), 25),
    ((400, 300), 11),
    ((480, 360), 5),
    ((640, 480), 3),
    ((800, 600), 2),
    ((1200, 900), 1),
    ((2000, 1500), 1),
];

impl DemoSet {
    /// Lays out the demo; makes no picture yet.
    #[must_use]
    pub fn plan(options: &DemoOptions) -> Self {
        let mut planner = Planner::new(options.seed);
        for index in 0..options.num_records {
            if index % 25 == 24 { planner.add_special(index / 25) } else { planner.add_ordinary() }
        }
        Self { rows: planner.rows, pages: planner.pages, behaviours: behaviours() }
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

fn behaviours() -> BTreeMap<String, ServerBehaviour> {
    let name = |index: usize| SERVERS[index].0.to_owned();
    let robots = "User-agent: *\nDisallow: /private/\n".to_owned();
    BTreeMap::from([
        (name(GARDEN), ServerBehaviour { robots_txt: Some(robots), ..ServerBehaviour::default() }),
        (
            name(PHOTOS),
            ServerBehaviour { requests_per_second: Some(20.0), burst: 10, ..ServerBehaviour::default() },
        ),
        (
            name(ARCHIVE),
            ServerBehaviour { latency: Duration::from_millis(300), ..ServerBehaviour::default() },
        ),
    ])
}

struct Planner {
    dice: Dice,
    rows: Vec<ListRow>,
    pages: HashMap<String, Page>,
    /// Rows so far of each server.
    counts: [u32; SERVERS.len()],
    /// JPEGs of the museums, to make duplicates of.
    originals: Vec<PhotoSpec>,
}

impl Planner {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            rows: Vec::new(),
            pages: HashMap::new(),
            counts: [0; SERVERS.len()],
            originals: Vec::new(),
        }
    }

    fn add_ordinary(&mut self) {
        let server = self.weighted(&SERVERS.map(|(_, weight)| weight));
        let number = self.counts[server];
        self.counts[server] += 1;
        match server {
            HERBARIUM if number % 5 == 2 && !self.originals.is_empty() => {
                let original = self.dice.pick(&self.originals);
                let spec = match number % 4 {
                    0 => original,
                    1 => PhotoSpec { quality: 60, ..original },
                    2 => PhotoSpec { edit: PhotoEdit::Cropped, ..original },
                    _ => PhotoSpec { edit: PhotoEdit::Brightened, ..original },
                };
                self.add_photo(server, number, spec);
            }
            ATTIC => self.add_broken(number),
            PORTAL => self.add_redirect(number),
            _ => {
                let spec = self.photo(number);
                if server <= MUSEUM_B && spec.format == PhotoFormat::Jpeg {
                    self.originals.push(spec);
                }
                self.add_photo(server, number, spec);
            }
        }
    }

    /// The kinds come in turn, so 250 rows have each of them.
    fn add_special(&mut self, turn: u32) {
        let unusable = [
            ("ftp://museum-a.example/media/0001.jpg", SkipReason::BadScheme),
            ("", SkipReason::EmptyUrl),
            ("http://", SkipReason::NoHost),
            ("http://museum a.example/media/0001.jpg", SkipReason::BadUrl),
            ("media/0001.jpg", SkipReason::BadScheme),
        ];
        let number = 9_000 + turn;
        match turn % 10 {
            0 | 3 => {
                // The latest row that has an image.
                let original = self.rows.iter().rev().find(|row| row.expected == Some(RecordState::Success));
                let Some(original) = original.cloned() else { return };
                self.add_row(original.identifier, original.format, original.expected);
            }
            1 | 6 => {
                let (url, reason) = unusable[(turn / 5) as usize % unusable.len()];
                self.add_row(url.to_owned(), "image/jpeg", Some(RecordState::Skipped(reason)));
            }
            2 => {
                let page = Page::Text { body: "RIFF\0\0\0\0WAVEfmt ", media_type: "audio/wav" };
                let expected = RecordState::Failed(FailureCause::NotAnImage);
                let target = format!("/sounds/{number}.wav");
                self.add_page(MUSEUM_A, &target, page, "audio/wav", Some(expected));
                self.last().media_type = "Sound";
            }
            4 => {
                let spec = self.photo(0);
                self.add_photo(MUSEUM_B, number, spec);
                self.last().media_type = "";
            }
            5 => {
                let spec = self.photo(0);
                self.add_photo(MUSEUM_A, number, spec);
                self.last().basis_of_record = "MATERIAL_CITATION";
            }
            7 => {
                let expected = RecordState::Failed(FailureCause::HttpStatus);
                let target = format!("/media/{number}.jpg");
                self.add_page(MUSEUM_A, &target, Page::Status(404), "image/jpeg", Some(expected));
            }
            kind => {
                let opt_out = kind == 8;
                let target = format!("/{}/{number}.jpg", if opt_out { "plants" } else { "private" });
                let page = Page::Photo { spec: self.photo(0), media_type: "image/jpeg", opt_out };
                self.add_page(GARDEN, &target, page, "image/jpeg", None);
            }
        }
    }

    fn add_broken(&mut self, number: u32) {
        let spec = self.photo(0);
        let png = PhotoSpec { width: 160, height: 120, format: PhotoFormat::Png, ..spec };
        let good = RecordState::Success;
        let (page, expected) = match number % 10 {
            0 => (Page::HalfPhoto(spec), RecordState::Failed(FailureCause::TruncatedImage)),
            1 => {
                let body = "<!DOCTYPE html><title>Sign in</title><p>Please sign in to see this image.</p>";
                (Page::Text { body, media_type: "text/html" }, RecordState::Failed(FailureCause::NotAnImage))
            }
            2 => (
                Page::Text { body: "", media_type: "image/jpeg" },
                RecordState::Failed(FailureCause::EmptyBody),
            ),
            3 => (Page::Photo { spec: png, media_type: "image/jpeg", opt_out: false }, good),
            4 => (Page::Status(404), RecordState::Failed(FailureCause::HttpStatus)),
            5 => (Page::Status(410), RecordState::Failed(FailureCause::HttpStatus)),
            6 => (
                Page::Text { body: "error: file is on tape\n", media_type: "image/jpeg" },
                RecordState::Failed(FailureCause::NotAnImage),
            ),
            7 => (Page::FlawedPng(png), RecordState::Failed(FailureCause::BadImage)),
            8 => (Page::Status(403), RecordState::Failed(FailureCause::HttpStatus)),
            _ => (Page::Photo { spec, media_type: "image/jpeg", opt_out: false }, good),
        };
        self.add_page(ATTIC, &format!("/box/{number}.jpg"), page, "image/jpeg", Some(expected));
    }

    fn add_redirect(&mut self, number: u32) {
        let (portal, museum) = (SERVERS[PORTAL].0, SERVERS[MUSEUM_A].0);
        let from = format!("/object/{number}");
        let mut expected = RecordState::Success;
        let photo = Page::Photo { spec: self.photo(0), media_type: "image/jpeg", opt_out: false };
        let redirect = |status, location: String| Page::Redirect { status, location };
        let page = match number % 6 {
            0 | 1 => {
                let to = format!("/files/{number}.jpg");
                self.pages.insert(format!("{portal}{to}"), photo);
                redirect(302, to)
            }
            2 => {
                let to = format!("/shared/{number}.jpg");
                self.pages.insert(format!("{museum}{to}"), photo);
                redirect(301, format!("http://{museum}{to}"))
            }
            3 => {
                let (over, to) = (format!("/moved/{number}"), format!("/files/{number}.jpg"));
                self.pages.insert(format!("{portal}{over}"), redirect(307, to.clone()));
                self.pages.insert(format!("{portal}{to}"), photo);
                redirect(302, over)
            }
            4 => {
                expected = RecordState::Failed(FailureCause::TooManyRedirects);
                redirect(302, from.clone())
            }
            _ => photo,
        };
        self.add_page(PORTAL, &from, page, "image/jpeg", Some(expected));
    }

    /// A new picture; the flavour follows from the number, so that each server has all of them.
    fn photo(&mut self, number: u32) -> PhotoSpec {
        let format = match number % 20 {
            9 => PhotoFormat::JpegTurned,
            11 => PhotoFormat::JpegProgressive,
            12 => PhotoFormat::JpegGrey,
            13 => PhotoFormat::PngAlpha,
            14 => PhotoFormat::Png,
            15 => PhotoFormat::Webp,
            16 => PhotoFormat::Gif,
            17 => PhotoFormat::Tiff,
            18 => PhotoFormat::Bmp,
            19 => PhotoFormat::Png16,
            _ => PhotoFormat::Jpeg,
        };
        let (mut width, mut height) = SIZES[self.weighted(&SIZES.map(|(_, weight)| weight))].0;
        if format.media_type() != "image/jpeg" {
            // Lossless files of larger pictures would be most of the demo's bytes.
            (width, height) = (width.min(320), height.min(240));
        }
        if format == PhotoFormat::Gif {
            // Choosing a palette costs more than all else.
            (width, height) = (width.min(160), height.min(120));
        }
        if self.dice.below(3) == 0 {
            (width, height) = (height, width);
        }
        let quality = self.dice.pick(&[75, 85, 92]);
        PhotoSpec { format, quality, ..PhotoSpec::jpeg(self.dice.next(), width, height) }
    }

    fn add_photo(&mut self, server: usize, number: u32, spec: PhotoSpec) {
        let media_type = spec.format.media_type();
        let extension = spec.format.extension();
        let target = match server {
            MUSEUM_B => format!("/image?id={number}&size=full"),
            HERBARIUM => format!("/sheets/C%20{number:04}.{extension}"),
            GARDEN => format!("/plants/bl\u{fc}te-{number:04}.{extension}"),
            ARCHIVE => format!("/archive/{}/{number:04}.{extension}", number % 7),
            _ => format!("/media/{number:04}.{extension}"),
        };
        let page = Page::Photo { spec, media_type, opt_out: false };
        self.add_page(server, &target, page, media_type, Some(RecordState::Success));
    }

    /// Adds a page and the row that names it.
    fn add_page(
        &mut self,
        server: usize,
        target: &str,
        page: Page,
        format: &'static str,
        expected: Option<RecordState>,
    ) {
        let server = SERVERS[server].0;
        // Clients send letters beyond ASCII percent-encoded; the list has them as people write them.
        self.pages.insert(format!("{server}{}", target.replace('\u{fc}', "%C3%BC")), page);
        self.add_row(format!("http://{server}{target}"), format, expected);
    }

    fn add_row(&mut self, identifier: String, format: &'static str, expected: Option<RecordState>) {
        let number = self.rows.len() as u64;
        let title = match number % 7 {
            0 => format!("Specimen {number}, dorsal view"),
            1 => format!("Specimen {number}, \"type\" sheet"),
            2 => format!("Beleg Nr. {number} \u{2014} \u{dc}bersicht"),
            3 => String::new(),
            _ => format!("Specimen {number}"),
        };
        self.rows.push(ListRow {
            gbif_id: 4_000_000_000 + number,
            identifier,
            media_type: "StillImage",
            format,
            title,
            creator: self.dice.pick(&["A. Collector", "B. Botanist", "C. Curator", ""]),
            license: self.dice.pick(&LICENSES),
            rights_holder: self.dice.pick(&["Example Museum", "Garden, Herbarium & Co.", ""]),
            basis_of_record: self.dice.pick(&["PRESERVED_SPECIMEN", "HUMAN_OBSERVATION"]),
            scientific_name: self.dice.pick(&SPECIES),
            expected,
        });
    }

    fn last(&mut self) -> &mut ListRow {
        self.rows.last_mut().expect("a row was just added")
    }

    /// An index, as often as its weight says.
    fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.dice.below(weights.iter().sum());
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::RecordUrl;

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
