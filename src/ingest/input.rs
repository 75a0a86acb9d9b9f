//! Which files the inputs name, and how their bytes are opened.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::GzDecoder;

use super::delimited::ByteStream;
use super::error::IngestError;
use super::excel::COMPOUND_FILE;
use super::options::InputFormat;
use super::raw_batch::ReadMeter;

/// The input that means standard input.
pub const STDIN: &str = "-";

/// Bytes that tell formats apart.
const SNIFF_BYTES: usize = 512;
/// A part that every workbook has.
const TYPES_PART: &[u8] = b"[Content_Types].xml";

/// One file (or an archive's folder) to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    /// `None`: to be told by its first bytes.
    pub(super) format: Option<InputFormat>,
}

impl Input {
    pub(super) fn is_stdin(&self) -> bool {
        self.path.as_os_str() == STDIN
    }

    /// Bytes on disk; `None` where that has no meaning.
    pub(super) fn num_bytes(&self) -> Option<u64> {
        let metadata = fs::metadata(&self.path).ok().filter(|_| !self.is_stdin())?;
        if metadata.is_file() {
            return Some(metadata.len());
        }
        let entries = fs::read_dir(&self.path).ok()?;
        Some(entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|entry| entry.len()).sum())
    }
}

/// Replaces folders by the lists in them, in order of their names.
///
/// # Errors
/// An input that does not exist, or a folder in which there is nothing to read.
pub(super) fn find_inputs(paths: &[PathBuf], format: Option<InputFormat>) -> Result<Vec<Input>, IngestError> {
    if paths.is_empty() {
        return Err(IngestError::NoInput);
    }
    let mut inputs = Vec::new();
    for path in paths {
        let is_stdin = path.as_os_str() == STDIN;
        if !is_stdin && fs::metadata(path).map_err(IngestError::read(path))?.is_dir() {
            inputs.extend(find_in_folder(path, format)?);
        } else {
            let by_name = || InputFormat::from_name(path.file_name()?.to_str()?);
            inputs.push(Input { path: path.clone(), format: format.or_else(by_name) });
        }
    }
    Ok(inputs)
}

/// An archive's folder is one input. Of any other the files of one format are taken: the first of
/// [`InputFormat::ALL`] that occurs, so a `README.txt` beside tables is no list. Any
/// other files that could be lists are not passed over in silence.
fn find_in_folder(folder: &Path, format: Option<InputFormat>) -> Result<Vec<Input>, IngestError> {
    let is_archive = folder.join("meta.xml").is_file() || folder.join("multimedia.txt").is_file();
    if format == Some(InputFormat::Dwca) || format.is_none() && is_archive {
        return Ok(vec![Input { path: folder.to_owned(), format: Some(InputFormat::Dwca) }]);
    }
    let mut files = Vec::new();
    walk(folder, &mut HashSet::new(), &mut files)?;
    files.sort();
    let (taken, left_out) =
        choose_format(files, format).ok_or_else(|| IngestError::NothingToRead { path: folder.to_owned() })?;
    if format.is_none() && !left_out.is_empty() {
        let taken = taken[0].1.as_str();
        let example = left_out[0].display();
        let num_files = left_out.len();
        let folder = folder.display();
        tracing::warn!(
            "of the folder `{folder}` only the {taken} files are read: {num_files} of other formats are left \
             out, the first of them `{example}`; name it, or say which format with `input_format`"
        );
    }
    Ok(taken.into_iter().map(|(path, format)| Input { path, format: Some(format) }).collect())
}

type Found = (PathBuf, InputFormat);

/// The files of one format, and those of others that may well be lists, too.
fn choose_format(files: Vec<Found>, format: Option<InputFormat>) -> Option<(Vec<Found>, Vec<PathBuf>)> {
    let occurs = |wanted: &InputFormat| files.iter().any(|(_, found)| found == wanted);
    let format =
        InputFormat::ALL.into_iter().filter(|f| format.is_none_or(|format| *f == format)).find(occurs)?;
    let (taken, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, found)| *found == format);
    let lists = others.into_iter().filter(|(_, found)| *found != InputFormat::Txt);
    Some((taken, lists.map(|(path, _)| path).collect()))
}

/// `seen` are the folders so far, by device and inode: links may lead back, or twice to one.
fn walk(
    folder: &Path,
    seen: &mut HashSet<(u64, u64)>,
    files: &mut Vec<(PathBuf, InputFormat)>,
) -> Result<(), IngestError> {
    let itself = fs::metadata(folder).map_err(IngestError::read(folder))?;
    if !seen.insert((itself.dev(), itself.ino())) {
        return Ok(());
    }
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<_> =
        entries.map_err(IngestError::read(folder))?.into_iter().map(|entry| entry.path()).collect();
    // Of several ways to a folder it is always the same that is taken.
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            walk(&path, seen, files)?;
        } else if let Some(format) = InputFormat::from_name(name) {
            files.push((path, format));
        }
    }
    Ok(())
}

/// The bytes of a file or of standard input, unpacked if gzipped, with the first of them at hand.
pub(super) struct OpenInput {
    pub(super) stream: ByteStream,
    pub(super) first_bytes: Vec<u8>,
    pub(super) is_gzip: bool,
}

pub(super) fn open_bytes(input: &Input, meter: &Arc<ReadMeter>) -> Result<OpenInput, IngestError> {
    let path = &input.path;
    let raw: ByteStream = if input.is_stdin() {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(IngestError::read(path))?)
    };
    let counted = Counted { reader: raw, meter: Arc::clone(meter) };
    let (first_bytes, stream) = peek(Box::new(counted)).map_err(IngestError::read(path))?;
    let is_gzip = first_bytes.starts_with(&[0x1f, 0x8b]);
    if !is_gzip {
        return Ok(OpenInput { stream, first_bytes, is_gzip });
    }
    let members = GzipMembers::new(path, stream);
    let (first_bytes, stream) = peek(Box::new(members)).map_err(IngestError::read(path))?;
    Ok(OpenInput { stream, first_bytes, is_gzip })
}

/// Tells the format by the first bytes; any text may be a delimited table.
pub(super) fn sniff_format(first_bytes: &[u8]) -> Option<InputFormat> {
    let text = first_bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first_bytes).trim_ascii_start();
    if first_bytes.starts_with(b"PAR1") {
        Some(InputFormat::Parquet)
    } else if first_bytes.starts_with(b"PK\x03\x04") {
        // Excel and others that follow ECMA-376 begin with the list of their types.
        let is_package = first_bytes.windows(TYPES_PART.len()).any(|window| window == TYPES_PART);
        Some(if is_package { InputFormat::Excel } else { InputFormat::Dwca })
    } else if first_bytes.starts_with(COMPOUND_FILE) {
        Some(InputFormat::Excel)
    } else if text.starts_with(b"<") {
        Some(InputFormat::Xml)
    } else if text.starts_with(b"{") || text.starts_with(b"[") {
        Some(InputFormat::Jsonl)
    } else {
        let is_text = first_bytes.starts_with(&[0xff, 0xfe]) || !first_bytes.contains(&0);
        is_text.then_some(InputFormat::Txt)
    }
}

fn peek(mut stream: ByteStream) -> io::Result<(Vec<u8>, ByteStream)> {
    let mut first_bytes = Vec::with_capacity(SNIFF_BYTES);
    stream.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut first_bytes)?;
    let stream = Box::new(Cursor::new(first_bytes.clone()).chain(stream));
    Ok((first_bytes, stream))
}

/// Unpacks a gzip file, which may be several, one behind the other (as `cat` and bgzip make them). What
/// follows the last and is none (tapes and some servers pad with zeros) is left, as `gzip` leaves it.
struct GzipMembers {
    path: PathBuf,
    /// Nothing once the last member has ended.
    member: Option<GzDecoder<BufReader<ByteStream>>>,
}

impl GzipMembers {
    fn new(path: &Path, stream: ByteStream) -> Self {
        let buffered = BufReader::with_capacity(256 << 10, stream);
        Self { path: path.to_owned(), member: Some(GzDecoder::new(buffered)) }
    }
}

impl Read for GzipMembers {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(to)?;
            if count > 0 || to.is_empty() {
                return Ok(count);
            }
            let next = member.get_mut().fill_buf()?.first().copied();
            self.member = self
                .member
                .take()
                .filter(|_| next == Some(0x1f))
                .map(|ended| GzDecoder::new(ended.into_inner()));
            if self.member.is_none() && next.is_some() {
                let path = self.path.display();
                tracing::warn!(
                    "`{path}`: what follows the end of the gzip data is no gzip data and is left out"
                );
            }
        }
        Ok(0)
    }
}

/// Counts what is read of a file.
pub(super) struct Counted {
    pub(super) reader: ByteStream,
    pub(super) meter: Arc<ReadMeter>,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.meter.keep_reading()?;
        let count = self.reader.read(to)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
    }

    #[test]
    fn folders_give_the_files_of_one_format_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(root, &["b/2.parquet", "b/1.parquet", "a.parquet", "README.txt", "_x/0.parquet", ".h.parquet"]);
        let found = find_inputs(&[root.to_owned()], None).unwrap();
        let names: Vec<_> = found.iter().map(|input| input.path.strip_prefix(root).unwrap()).collect();
        assert_eq!(names, [Path::new("a.parquet"), Path::new("b/1.parquet"), Path::new("b/2.parquet")]);
        let found = find_inputs(&[root.to_owned()], Some(InputFormat::Txt)).unwrap();
        assert_eq!(found, [Input { path: root.join("README.txt"), format: Some(InputFormat::Txt) }]);
        touch(root, &["meta.xml"]);
        let found = find_inputs(&[root.to_owned()], None).unwrap();
        assert_eq!(found, [Input { path: root.to_owned(), format: Some(InputFormat::Dwca) }]);
    }

    /// With two links that lead back, a search by depth alone takes 2 to the power of the depth.
    #[test]
    fn links_that_lead_back_end_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(root, &["sub/a.csv"]);
        for link in ["sub/one", "sub/two", "three", "zero"] {
            std::os::unix::fs::symlink(root, root.join(link)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("sub"), root.join("z")).unwrap();
        let found = find_inputs(&[root.to_owned()], None).unwrap();
        assert_eq!(found, [Input { path: root.join("sub/a.csv"), format: Some(InputFormat::Csv) }]);
    }

    #[test]
    fn files_of_other_formats_are_not_forgotten() {
        use InputFormat::{Csv, Jsonl, Parquet, Txt};
        let files = [("1.csv", Csv), ("2.csv", Csv), ("README.txt", Txt), ("x.json", Jsonl)];
        let files: Vec<Found> = files.map(|(name, format)| (PathBuf::from(name), format)).into();
        let (taken, left_out) = choose_format(files.clone(), None).unwrap();
        assert_eq!(taken, files[..2]);
        assert_eq!(left_out, [PathBuf::from("x.json")]);
        assert_eq!(choose_format(files.clone(), Some(Txt)).unwrap().0, files[2..3]);
        assert_eq!(choose_format(files, Some(Parquet)), None);
    }

    #[test]
    fn nothing_to_read_is_said() {
        assert!(matches!(find_inputs(&[], None), Err(IngestError::NoInput)));
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["photo.jpg"]);
        let error = find_inputs(&[folder.path().to_owned()], None).unwrap_err();
        assert!(matches!(error, IngestError::NothingToRead { .. }), "{error}");
        let error = find_inputs(&[folder.path().join("absent.csv")], None).unwrap_err();
        assert!(error.to_string().contains("absent.csv"), "{error}");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read_file(bytes: &[u8]) -> Result<Vec<u8>, IngestError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let meter: Arc<ReadMeter> = Arc::default();
        let mut opened = open_bytes(&Input { path: file.path().to_owned(), format: None }, &meter)?;
        let mut text = Vec::new();
        opened.stream.read_to_end(&mut text).map_err(IngestError::read(file.path()))?;
        assert!(meter.bytes_read() <= bytes.len() as u64);
        Ok(text)
    }

    #[test]
    fn gzip_of_several_members_is_read_and_a_truncated_one_refused() {
        let text = b"url\nhttp://a/\n".repeat(2000);
        let two = [gzip(&text), gzip(b"more")].concat();
        assert_eq!(read_file(&two).unwrap(), [&text[..], b"more"].concat());
        // Zeros or other bytes behind a whole member are no reason to refuse it.
        for behind in [&[0; 9][..], b"garbage", &[0; 300_000]] {
            assert_eq!(read_file(&[&two[..], behind].concat()).unwrap(), [&text[..], b"more"].concat());
        }
        for cut in [5, 20, gzip(&text).len() - 3] {
            let error = read_file(&gzip(&text)[..cut]).unwrap_err();
            assert!(matches!(error, IngestError::Truncated { .. }), "{cut}: {error}");
        }
        let mut damaged = gzip(&text);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        let error = read_file(&damaged).unwrap_err();
        assert!(matches!(error, IngestError::Damaged { .. } | IngestError::Truncated { .. }), "{error}");
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let check = |bytes: &[u8], expect| assert_eq!(sniff_format(bytes), expect);
        check(b"PAR1\x15", Some(InputFormat::Parquet));
        check(b"PK\x03\x04", Some(InputFormat::Dwca));
        check(b"PK\x03\x04\x14\0\x06\0[Content_Types].xml", Some(InputFormat::Excel));
        check(COMPOUND_FILE, Some(InputFormat::Excel));
        check(b"\xef\xbb\xbf\n<?xml version='1.0'?>", Some(InputFormat::Xml));
        check(b"\xef\xbb\xbf {\"a\"", Some(InputFormat::Jsonl));
        check(b"url,label\n", Some(InputFormat::Txt));
        check(b"", Some(InputFormat::Txt));
        check(b"\x7fELF\0", None);
    }
}
