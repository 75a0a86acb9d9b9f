//! Lays out the demo's rows and pages one by one, from dice.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::list::{LICENSES, ListRow, SPECIES};
use super::options::ServerBehaviour;
use super::photos::{PhotoEdit, PhotoFormat, PhotoSpec};
use super::random::Dice;
use super::set::Page;
use crate::model::{FailureCause, RecordState, SkipReason};

/// Names of the demo's servers and how many of 100 rows each has.
pub(super) const SERVERS: [(&str, u32); 8] = [
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

/// How the servers that are not ordinary behave.
pub(super) fn behaviours() -> BTreeMap<String, ServerBehaviour> {
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

/// The plan as far as it is made.
pub(super) struct Planner {
    dice: Dice,
    pub(super) rows: Vec<ListRow>,
    pub(super) pages: HashMap<String, Page>,
    /// Rows so far of each server.
    counts: [u32; SERVERS.len()],
    /// JPEGs of the museums, to make duplicates of.
    originals: Vec<PhotoSpec>,
}

impl Planner {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            rows: Vec::new(),
            pages: HashMap::new(),
            counts: [0; SERVERS.len()],
            originals: Vec::new(),
        }
    }

    pub(super) fn add_ordinary(&mut self) {
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
    pub(super) fn add_special(&mut self, turn: u32) {
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
