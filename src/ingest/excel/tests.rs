//! Workbooks of other programs, and those that nobody would make but to do harm.
//!
//! `tests/fixtures/list.xls` was written with xlwt 1.3, `list.xlsx` with openpyxl 3.1: two sheets, the first with ids that
//! are numbers or texts, dates, an empty row and, in `.xls`, a text that two records share.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::raw_batch::ReadMeter;
use super::*;

fn context(memory_bytes: u64) -> ReadContext {
    ReadContext {
        max_row_bytes: 20_000,
        memory_bytes,
        temp_folder: PathBuf::new(),
        meter: Arc::new(ReadMeter::default()),
        wanted_columns: Vec::new(),
    }
}

type Rows = (Vec<String>, Vec<Vec<Option<String>>>, Vec<u64>, MalformedLog);

fn read(path: &Path) -> Result<Rows, IngestError> {
    let mut reader = ExcelReader::open(path, Path::new("list"), &context(64 << 20))?;
    let mut malformed = MalformedLog::default();
    let (mut rows, mut positions) = (Vec::new(), Vec::new());
    let names = reader.schema.fields().iter().map(|field| field.name().clone()).collect();
    while let Some(batch) = reader.next_batch(&mut malformed)? {
        let columns: Vec<_> = batch.rows.columns().iter().map(|column| column.as_string::<i32>()).collect();
        rows.extend((0..batch.rows.num_rows()).map(|row| {
            columns.iter().map(|c| c.is_valid(row).then(|| c.value(row).to_owned())).collect::<Vec<_>>()
        }));
        positions.extend(batch.positions);
    }
    Ok((names, rows, positions, malformed))
}

fn read_bytes(bytes: &[u8]) -> Result<Rows, IngestError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    read(file.path())
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

#[test]
fn workbooks_of_other_programs_are_read() {
    let some = |cells: [&str; 7]| -> Vec<Option<String>> {
        cells.iter().map(|cell| (!cell.is_empty()).then(|| (*cell).to_owned())).collect()
    };
    let expect = [
        some([
            "http://a.example/1.jpg",
            "Puma concolor",
            "4000000001",
            "2024-05-01",
            "über Größe",
            "1",
            "0.25",
        ]),
        some(["http://a.example/2.jpg", "Quercus robur", "007", "2023-12-31T23:59:30", "日本", "true", ""]),
        some(["http://b.example/3.jpg", "Quercus robur", "12", "", "", "false", "-3.5"]),
    ];
    let names = ["photo_url", "taxon_name", "gbifID", "seen", "note", "column_6", "share"];
    for file in ["list.xlsx", "list.xls"] {
        let (found_names, rows, positions, malformed) = read_bytes(&fixture(file)).unwrap();
        assert_eq!(found_names, names, "{file}");
        assert_eq!(rows[..3], expect, "{file}");
        assert_eq!(positions[..3], [2, 3, 5], "{file}");
        assert_eq!(malformed.count, 0);
    }
    // A formula that xlwt has not worked out, and the text of 9,000 characters.
    let (_, rows, ..) = read_bytes(&fixture("list.xls")).unwrap();
    assert_eq!((rows.len(), rows[3][1].as_ref().unwrap().len()), (4, 9000));
}

#[test]
fn damaged_workbooks_are_refused_or_read_but_never_more() {
    let mut rng = fastrand::Rng::with_seed(1);
    for file in ["list.xlsx", "list.xls"] {
        let whole = fixture(file);
        for cut in (0..whole.len()).step_by(whole.len() / 60) {
            let error = read_bytes(&whole[..cut]).err();
            assert!(error.is_some() || file == "list.xls", "{file}: cut at {cut}");
        }
        for _ in 0..400 {
            let mut damaged = whole.clone();
            for _ in 0..rng.usize(1..20) {
                let at = rng.usize(..damaged.len());
                damaged[at] = rng.u8(..);
            }
            let _ = read_bytes(&damaged);
        }
    }
}

/// A workbook of these parts beside the usual ones.
fn workbook(parts: &[(&str, &[u8])]) -> Vec<u8> {
    const RELATIONSHIPS: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let relationships = |list: &[(&str, &str)]| {
        let list = list.iter().enumerate().map(|(nth, (kind, target))| {
            format!("<Relationship Id='r{nth}' Type='{RELATIONSHIPS}/{kind}' Target='{target}'/>")
        });
        format!("<Relationships>{}</Relationships>", list.collect::<String>())
    };
    let usual = [
        ("[Content_Types].xml", "<Types/>".to_owned()),
        ("_rels/.rels", relationships(&[("officeDocument", "xl/workbook.xml")])),
        (
            "xl/_rels/workbook.xml.rels",
            relationships(&[
                ("worksheet", "worksheets/sheet1.xml"),
                ("sharedStrings", "/xl/sharedStrings.xml"),
            ]),
        ),
        ("xl/workbook.xml", "<workbook><sheets><sheet name='s' id='r0'/></sheets></workbook>".to_owned()),
        ("xl/sharedStrings.xml", "<sst><si><t>url</t></si><si><t>http://a/</t></si></sst>".to_owned()),
    ];
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let usual = usual.iter().map(|(name, text)| (*name, text.as_bytes()));
    let mut all: std::collections::BTreeMap<&str, &[u8]> = usual.collect();
    all.extend(parts.iter().copied());
    for (name, bytes) in all {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn sheet(rows: &str) -> Vec<u8> {
    let text = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
    workbook(&[("xl/worksheets/sheet1.xml", text.as_bytes())])
}

#[test]
fn sheets_need_no_references_and_may_have_gaps() {
    let rows = "<row><c t='s'><v>0</v></c><c r='C1' t='inlineStr'><is><r><t>la</t></r><r><t>bel</t></r><rPh><t>no</t></rPh></is></c></row>\
                <row r='9'><c t='s'><v>1</v></c><c/><c><v>7</v></c><c><v>8</v></c></row>\
                <row><c t='e'><v>#N/A</v></c></row><row/><row><c r='A20' t='str'><f>x</f><v>http://b/</v></c></row>";
    let (names, rows, positions, _) = read_bytes(&sheet(rows)).unwrap();
    assert_eq!(names, ["url", "column_2", "label"]);
    let text = |cells: &[Option<String>]| {
        cells.iter().map(|c| c.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(rows.iter().map(|row| text(row)).collect::<Vec<_>>(), ["http://a/ - 7", "http://b/ - -"]);
    assert_eq!(positions, [9, 12]);
}

#[test]
fn what_does_harm_is_refused() {
    let check = |bytes: &[u8], expect: &str| {
        let error = read_bytes(bytes).err().unwrap_or_else(|| panic!("{expect}")).to_string();
        assert!(error.contains(expect), "{error}");
    };
    let head = "<row><c t='s'><v>0</v></c></row>";
    check(&sheet(&format!("{head}<row r='5'><c t='s'><v>1</v></c></row><row r='4'/>")), "out of order");
    check(&sheet(&format!("{head}<row><c t='s'><v>2</v></c></row>")), "a text that there is not");
    check(&sheet(&format!("{head}<row r='9999999'><c><v>1</v></c></row>")), "more than 1048576 rows");
    check(&sheet(&format!("{head}<row><c>{}", "<x>".repeat(70))), "more than 64 elements");
    check(&workbook(&[("xl/workbook.xml", b"<workbook/>")]), "no sheet of cells");
    check(&workbook(&[]), "no part `xl/worksheets/sheet1.xml`");
    let bomb =
        b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><sst><si><t>&b;</t></si></sst>";
    check(&workbook(&[("xl/sharedStrings.xml", bomb)]), "no entity of XML's own");
    check(b"PK\x03\x04 and no zip", "not usable as an Excel workbook");
    check(b"<table><tr><td>An .xls of a web page</td></tr></table>", "not usable as an Excel workbook");

    // A thousand bytes of text in each of a million cells: 1 GB, from a file of a few KB.
    let text = format!("<sst><si><t>url</t></si><si><t>{}</t></si></sst>", "x".repeat(1000));
    let cells = "<c t='s'><v>1</v></c>".repeat(50);
    let rows = format!(
        "<worksheet><sheetData><row>{}</row><row>{cells}</row></sheetData></worksheet>",
        "<c t='s'><v>0</v></c>".repeat(60)
    );
    let shared =
        workbook(&[("xl/sharedStrings.xml", text.as_bytes()), ("xl/worksheets/sheet1.xml", rows.as_bytes())]);
    let (_, rows, _, malformed) = read_bytes(&shared).unwrap();
    assert_eq!((rows.len(), malformed.count), (0, 1), "{:?}", malformed.examples);

    let many = format!("<sst>{}</sst>", format!("<si><t>{}</t></si>", "x".repeat(15_000)).repeat(3000));
    let bytes = workbook(&[("xl/sharedStrings.xml", many.as_bytes())]);
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    check(&bytes, "save it as CSV");
}

/// What a stream is told to be, and leads in a circle, or out of the file.
#[test]
fn compound_files_lead_nowhere_else() {
    let whole = fixture("list.xls");
    let table = (u32::from_le_bytes(whole[76..80].try_into().unwrap()) as usize + 1) * 512;
    let mut circle = whole.clone();
    // Each sector is followed by itself.
    for sector in 0..128_u32 {
        let at = table + sector as usize * 4;
        circle[at..at + 4].copy_from_slice(&sector.to_le_bytes());
    }
    let error = read_bytes(&circle).err().unwrap().to_string();
    assert!(error.contains("circle"), "{error}");
    let mut beyond = whole;
    beyond[48..52].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    let error = read_bytes(&beyond).err().unwrap().to_string();
    assert!(error.contains("beyond its end"), "{error}");
}
