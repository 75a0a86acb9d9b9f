//! `meta.xml`: what the tables of a Darwin Core Archive are and how they are written.

use std::borrow::Cow;

use quick_xml::XmlVersion;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};

use super::record_reader::Dialect;

/// One table of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableMeta {
    pub(super) row_type: String,
    /// Files in the archive, one behind the other, each with header lines of its own.
    pub(super) locations: Vec<String>,
    pub(super) delimiter: Option<u8>,
    pub(super) quote: Option<u8>,
    pub(super) header_lines: u64,
    pub(super) encoding: String,
    /// Field of a record that holds the core's id.
    pub(super) id: Option<usize>,
    /// Names (last segments of the terms) of the fields of a record.
    pub(super) fields: Vec<(usize, String)>,
    /// Names and values that hold for every record.
    pub(super) constants: Vec<(String, String)>,
}

impl TableMeta {
    /// A table as GBIF writes it: tab-separated, unquoted, one header line.
    pub(super) fn gbif(location: &str) -> Self {
        Self {
            locations: vec![location.to_owned()],
            delimiter: Some(b'\t'),
            header_lines: 1,
            encoding: "UTF-8".into(),
            ..Self::default()
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        Dialect { delimiter: self.delimiter, quote: self.quote }
    }

    /// Audubon Core puts the URL under `accessURI`, and an id that may be no URL under `identifier`.
    pub(super) fn is_audubon(&self) -> bool {
        self.row_type.starts_with("http://rs.tdwg.org/ac/")
    }

    fn is_media(&self) -> bool {
        self.row_type.ends_with("/Multimedia")
    }
}

/// The tables that are read: the core, and the first table of media (GBIF's own before Audubon's).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArchiveMeta {
    pub(super) core: TableMeta,
    pub(super) media: TableMeta,
}

/// Reads `meta.xml`.
pub(super) fn parse_meta(xml: &str) -> Result<ArchiveMeta, String> {
    let mut reader = quick_xml::Reader::from_str(xml);
    reader.config_mut().trim_text(true);
    let mut core = None;
    let mut extensions = Vec::new();
    let mut table: Option<TableMeta> = None;
    let mut in_location = false;
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                "core" | "extension" => table = Some(table_from(&tag)?),
                "id" | "coreid" => {
                    if let Some(table) = &mut table {
                        table.id = index_of(&tag)?;
                    }
                }
                "field" => {
                    if let Some(table) = &mut table {
                        add_field(table, &tag)?;
                    }
                }
                "location" => in_location = true,
                _ => {}
            },
            Event::Text(text) if in_location => {
                if let Some(table) = &mut table {
                    table.locations.push(text.xml_content(XmlVersion::Implicit1_0).trim().to_owned());
                }
            }
            Event::End(tag) => match tag.local_name().as_ref() {
                "core" => core = table.take(),
                "extension" => extensions.extend(table.take()),
                "location" => in_location = false,
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
    }
    let core = core.ok_or("`meta.xml` declares no core table")?;
    let mut media: Vec<TableMeta> = extensions.into_iter().filter(TableMeta::is_media).collect();
    media.sort_by_key(TableMeta::is_audubon);
    let media = media.into_iter().next().ok_or("`meta.xml` declares no table of media")?;
    Ok(ArchiveMeta { core, media })
}

fn table_from(tag: &BytesStart<'_>) -> Result<TableMeta, String> {
    let text =
        |name, default: &str| Ok::<_, String>(attribute(tag, name)?.unwrap_or_else(|| default.to_owned()));
    let header_lines = text("ignoreHeaderLines", "0")?;
    // Defaults are those of the Darwin Core text guide.
    Ok(TableMeta {
        row_type: text("rowType", "")?,
        delimiter: one_byte(&text("fieldsTerminatedBy", ",")?)?,
        quote: one_byte(&text("fieldsEnclosedBy", "\"")?)?,
        header_lines: header_lines.parse().map_err(|_| format!("ignoreHeaderLines is `{header_lines}`"))?,
        encoding: text("encoding", "UTF-8")?,
        ..TableMeta::default()
    })
}

fn add_field(table: &mut TableMeta, tag: &BytesStart<'_>) -> Result<(), String> {
    let Some(term) = attribute(tag, "term")? else { return Ok(()) };
    let name = term.rsplit(['/', '#']).next().unwrap_or(&term).to_owned();
    match (index_of(tag)?, attribute(tag, "default")?) {
        (Some(index), _) => table.fields.push((index, name)),
        (None, Some(value)) => table.constants.push((name, value)),
        (None, None) => {}
    }
    Ok(())
}

fn index_of(tag: &BytesStart<'_>) -> Result<Option<usize>, String> {
    let parse = |index: String| index.trim().parse().map_err(|_| format!("a field's index is `{index}`"));
    attribute(tag, "index")?.map(parse).transpose()
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = tag.try_get_attribute(name).map_err(|error| error.to_string())?;
    let value =
        |attribute: Attribute<'_>| attribute.normalized_value(XmlVersion::Implicit1_0).map(Cow::into_owned);
    found.map(value).transpose().map_err(|error| error.to_string())
}

/// A separator, which may be written with a backslash.
fn one_byte(text: &str) -> Result<Option<u8>, String> {
    match text {
        "" => Ok(None),
        "\\t" => Ok(Some(b'\t')),
        "\\n" => Ok(Some(b'\n')),
        "\\r" => Ok(Some(b'\r')),
        "\\\\" => Ok(Some(b'\\')),
        _ if text.len() == 1 => Ok(Some(text.as_bytes()[0])),
        // An attribute's tab arrives as a space, were it not written as `&#9;`.
        _ => Err(format!("the separator `{text}` is longer than one character")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_described() {
        let meta = parse_meta(
            r#"<?xml version="1.0"?><archive xmlns="http://rs.tdwg.org/dwc/text/">
            <core encoding="UTF-8" fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1" rowType="http://rs.tdwg.org/dwc/terms/Occurrence">
              <files><location>occurrence.txt</location></files><id index="0"/>
              <field index="3" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/></core>
            <extension rowType="http://rs.tdwg.org/ac/terms/Multimedia"><files><location>a.txt</location></files><coreid index="0"/></extension>
            <extension fieldsTerminatedBy="&#9;" fieldsEnclosedBy='"' rowType="http://rs.gbif.org/terms/1.0/Multimedia">
              <files><location>multimedia.txt</location><location>more.txt</location></files><coreid index="1"/>
              <field index="0" term="http://purl.org/dc/terms/type"/>
              <field default="CC0" term="http://purl.org/dc/terms/license"/></extension>
            </archive>"#,
        )
        .unwrap();
        assert_eq!(meta.core.locations, ["occurrence.txt"]);
        assert_eq!((meta.core.delimiter, meta.core.quote, meta.core.header_lines), (Some(b'\t'), None, 1));
        assert_eq!(meta.core.fields, [(3, "basisOfRecord".to_owned())]);
        assert_eq!(meta.media.locations, ["multimedia.txt", "more.txt"]);
        assert_eq!(
            (meta.media.delimiter, meta.media.quote, meta.media.id),
            (Some(b'\t'), Some(b'"'), Some(1))
        );
        assert_eq!(meta.media.constants, [("license".to_owned(), "CC0".to_owned())]);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(parse_meta("<archive/>").unwrap_err().contains("core"));
        assert!(parse_meta("<archive><core></core></archive>").unwrap_err().contains("media"));
        assert!(parse_meta("<archive><core ignoreHeaderLines='x'/></archive>").is_err());
    }
}
