//! Names of images that are safe everywhere and do not meet.
//!
//! A name is a stem of letters, digits, `.`, `_` and `-`, without a path, never one that Windows keeps for itself, and the
//! extension of what the bytes are. Where two images of a folder would have names that differ in nothing but case, or in
//! nothing, all of them get `~` and a hash of uuid and URL: no name has a `~` otherwise, and which image has which name does
//! not depend on their order.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ExportError;
use super::select::Selection;
use crate::query::QuerySession;

/// Longest stem, in bytes: with the hash and an extension well below the 255 that file systems take.
const MAX_STEM_BYTES: usize = 180;
/// Longest stem in a tar archive: with the hash and an extension below the 100 that every reader of tar takes.
const MAX_KEY_BYTES: usize = 64;

/// Extensions that the name of a URL may end with, and that tell nothing of what came.
const IMAGE_EXTENSIONS: [&str; 12] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "heic", "avif"];

/// How images are named (`naming_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamingMode {
    /// `00000001`, `00000002` in the order of the export.
    #[default]
    Sequential,
    /// Parts of the URL, by `file_name_pattern`.
    UrlBased,
    /// The uuid.
    Uuid,
}

/// How images are named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamingOptions {
    pub naming_mode: NamingMode,
    /// With `url_based`: text with `{segment[N]}` (of the path of the URL; from the end, if negative), `{segment_first}`,
    /// `{segment_parent}`, `{segment_last}`, `{ext}`, `{key}` (the uuid).
    pub file_name_pattern: String,
}

impl Default for NamingOptions {
    fn default() -> Self {
        Self { naming_mode: NamingMode::Sequential, file_name_pattern: "{segment[-2]}".into() }
    }
}

/// Extension of an image by what it is.
pub(super) fn extension_of(image_format: &str) -> &'static str {
    match image_format {
        "jpeg" => "jpg",
        "png" => "png",
        "webp" => "webp",
        "gif" => "gif",
        "tiff" => "tif",
        "bmp" => "bmp",
        _ => "bin",
    }
}

/// Media type of what has this extension.
pub(super) fn media_type_of(extension: &str) -> &'static str {
    match extension {
        "jpg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "tif" => "image/tiff",
        "bmp" => "image/bmp",
        _ => "application/octet-stream",
    }
}

/// What differs in case only, as file systems that ignore it see it.
pub(super) fn fold_case(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// The name with a `_`, if Windows keeps it for a device, whatever its extension.
pub(super) fn unreserved(name: &str) -> String {
    if !is_reserved(name) {
        return name.to_owned();
    }
    let (base, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
    format!("{base}_{rest}")
}

fn is_reserved(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(base.as_str(), "con" | "prn" | "aux" | "nul")
        || base
            .strip_prefix("com")
            .or_else(|| base.strip_prefix("lpt"))
            .is_some_and(|number| number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A hash of texts, to tell apart what has one name.
pub(super) fn hash_of(texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Segment(i64),
    Extension,
    Key,
}

fn parse_pattern(pattern: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while let Some((text, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        pieces.push(Piece::Text(text.into()));
        pieces.push(match name {
            "segment" | "segment_last" => Piece::Segment(-1),
            "segment_first" => Piece::Segment(0),
            // The last one, if it is the only one.
            "segment_parent" => Piece::Segment(-2),
            "ext" => Piece::Extension,
            "key" | "uuid" => Piece::Key,
            _ => Piece::Segment(name.strip_prefix("segment[")?.strip_suffix(']')?.parse().ok()?),
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest.into()));
    (!rest.contains('}')).then_some(pieces)
}

/// Names images by what is known of each.
#[derive(Clone, Debug)]
pub(super) struct Namer {
    mode: NamingMode,
    pattern: Arc<[Piece]>,
    /// A key of a WebDataset: no dots, and short.
    as_key: bool,
    /// Names that several images have, by what [`Namer::meeting_key`] makes of them.
    meeting: Arc<HashSet<i64>>,
    named: u64,
}

impl Namer {
    /// # Errors
    /// When the pattern is none.
    pub fn new(options: &NamingOptions, as_key: bool) -> Result<Self, ExportError> {
        let pattern = &options.file_name_pattern;
        let unknown = || ExportError::Pattern { pattern: pattern.clone() };
        Ok(Self {
            mode: options.naming_mode,
            pattern: parse_pattern(pattern).ok_or_else(unknown)?.into(),
            as_key,
            meeting: Arc::default(),
            named: 0,
        })
    }

    /// Looks for names that several images have; with `by_label`, only those of one label meet.
    ///
    /// Memory: eight bytes for each such name. The grouping spills to disk.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn find_meeting(
        &mut self,
        session: &QuerySession,
        selection: &Selection,
        by_label: bool,
    ) -> Result<(), ExportError> {
        if self.mode == NamingMode::Sequential {
            return Ok(());
        }
        let namer = self.clone();
        session.register_texts_function("ddl_name", 3, move |texts| {
            let text = |at: usize| texts[at].unwrap_or_default();
            let label = if by_label { texts[2] } else { None };
            namer.meeting_key(label, &namer.stem(text(0), text(1)))
        });
        let names = selection.sql("ddl_name(uuid, identifier, label) as name", selection.whole());
        let sql = format!("select name from ({names}) group by name having count(*) > 1");
        let mut rows = session.stream(&sql).await?;
        let mut meeting = HashSet::new();
        while let Some(batch) = rows.next().await? {
            use arrow::array::AsArray as _;
            meeting.extend(batch["name"].as_primitive::<arrow::datatypes::Int64Type>().values());
        }
        self.meeting = Arc::new(meeting);
        Ok(())
    }

    fn meeting_key(&self, label: Option<&str>, stem: &str) -> i64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[u8::from(label.is_some())]).update(label.unwrap_or_default().as_bytes());
        hasher.update(&[0xff]).update(fold_case(stem).as_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        i64::from_le_bytes(bytes)
    }

    /// How many names several images had.
    pub fn num_meeting(&self) -> u64 {
        self.meeting.len() as u64
    }

    /// The stem of the next image. `label`: of those that share its folder, if there are folders.
    pub fn name(&mut self, uuid: &str, identifier: &str, label: Option<&str>) -> String {
        self.named += 1;
        if self.mode == NamingMode::Sequential {
            return format!("{:08}", self.named);
        }
        let stem = self.stem(uuid, identifier);
        if self.meeting.is_empty() || !self.meeting.contains(&self.meeting_key(label, &stem)) {
            return stem;
        }
        format!("{stem}~{}", &hash_of(&[uuid, identifier])[..16])
    }

    fn stem(&self, uuid: &str, identifier: &str) -> String {
        let text = match self.mode {
            NamingMode::UrlBased => self.render(uuid, identifier),
            _ => uuid.to_owned(),
        };
        self.safe(&text)
    }

    fn render(&self, uuid: &str, identifier: &str) -> String {
        let path =
            url::Url::parse(identifier).map_or_else(|_| identifier.to_owned(), |url| url.path().to_owned());
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let mut text = String::new();
        for piece in self.pattern.iter() {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Key => text.push_str(uuid),
                Piece::Extension => {
                    let last = segments.last().and_then(|segment| segment.rsplit_once('.'));
                    text.extend(last.into_iter().flat_map(|(_, extension)| [".", extension]));
                }
                &Piece::Segment(at) => {
                    let num = segments.len() as i64;
                    let at = if at < 0 { num + at } else { at };
                    // What a URL does not have: the nearest that it has.
                    let segment = segments.get(at.clamp(0, (num - 1).max(0)) as usize);
                    text.push_str(segment.copied().unwrap_or_default());
                }
            }
        }
        text
    }

    fn safe(&self, text: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let mut safe = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '.' if self.as_key => safe.push('_'),
                c if is_plain(c) => safe.push(c),
                _ if safe.ends_with('_') => {}
                _ => safe.push('_'),
            }
        }
        let without_extension = safe.rsplit_once(if self.as_key { '_' } else { '.' });
        if let Some((stem, extension)) = without_extension
            && IMAGE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
        {
            safe.truncate(stem.len());
        }
        let max_bytes = if self.as_key { MAX_KEY_BYTES } else { MAX_STEM_BYTES };
        let mut safe = safe.trim_matches(['.', '_']).to_owned();
        safe.truncate(max_bytes);
        let safe = safe.trim_end_matches(['.', '_']);
        match safe {
            "" => "file".into(),
            safe => unreserved(safe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namer(pattern: &str, as_key: bool) -> Namer {
        let options =
            NamingOptions { naming_mode: NamingMode::UrlBased, file_name_pattern: pattern.to_owned() };
        Namer::new(&options, as_key).unwrap()
    }

    #[test]
    fn patterns_pick_parts_of_the_url() {
        let check = |pattern: &str, url: &str, expect: &str| {
            assert_eq!(namer(pattern, false).stem("uuid-1", url), expect, "{pattern} {url}");
        };
        let photo = "https://x.example/photos/123/medium.jpeg?size=1";
        check("{segment[-2]}", photo, "123");
        check("{segment_parent}_{segment_last}", photo, "123_medium");
        check("{segment_first}-{segment[1]}", photo, "photos-123");
        check("{key}{ext}", photo, "uuid-1");
        check("{segment[-2]}", "https://x.example/a.jpg", "a");
        check("{segment[7]}", "https://x.example", "file");
        for wrong in ["{segment[x]}", "{nothing}", "{segment", "}"] {
            assert!(
                Namer::new(
                    &NamingOptions { file_name_pattern: wrong.into(), ..NamingOptions::default() },
                    false
                )
                .is_err()
            );
        }
    }

    #[test]
    fn stems_are_safe() {
        let check =
            |text: &str, expect: &str| assert_eq!(namer("{key}", false).stem(text, ""), expect, "{text}");
        check("..", "file");
        check("../../etc/passwd", "etc_passwd");
        check("a\0b", "a_b");
        check("\u{1f98a}", "file");
        check("CON", "CON_");
        check("nul.tar", "nul_.tar");
        check("com1.jpg", "com1_");
        check("a.b.jpg.", "a.b.jpg");
        check(&"x".repeat(300), &"x".repeat(180));
        assert_eq!(namer("{key}", true).stem("a.b.JPG", ""), "a_b");
    }

    #[test]
    fn those_that_meet_are_told_apart() {
        let mut namer = namer("{segment_last}", false);
        let key = namer.meeting_key(Some("Oak"), "Medium");
        assert_eq!(key, namer.meeting_key(Some("Oak"), "medium"));
        assert_ne!(key, namer.meeting_key(None, "medium"));
        namer.meeting = Arc::new(HashSet::from([key]));
        let first = namer.name("u1", "http://x/1/medium.jpg", Some("Oak"));
        let second = namer.name("u2", "http://x/2/Medium.jpg", Some("Oak"));
        assert!(first.starts_with("medium~") && second.starts_with("Medium~"), "{first} {second}");
        assert_ne!(fold_case(&first), fold_case(&second));
        assert_eq!(namer.name("u3", "http://x/3/medium.jpg", Some("Elm")), "medium");
    }
}
