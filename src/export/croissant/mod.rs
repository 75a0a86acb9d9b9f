//! What describes an export: `croissant.json` for those who look for datasets, `overview.json` for those who made it, and
//! `README.md`, from which Hugging Face takes which files are what.
//!
//! Croissant is JSON-LD of <https://docs.mlcommons.org/croissant/>, 1.0 or 1.1: files with their hashes, and sets of records
//! that readers can make of them. Paths are relative to the folder. Nothing tells when or where the export was made: the
//! date of the newest image stands for that of the dataset.

mod overview;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{DataType, Int64Type};
use serde::Serialize;
use serde_json::{Value, json};

use self::overview::overview;
use super::files::{write_json, write_whole};
use super::journal::UnitFile;
use super::labels::Labels;
use super::names::{extension_of, media_type_of};
use super::select::{SLICE_IMAGES, Selection};
use super::target::refuse_own;
use super::{ExportError, FolderReport, SelectionOptions};
use crate::query::QuerySession;
use crate::storage::successes_schema;

/// Licences and labels that a description names; datasets can have a hundred thousand.
const MAX_NAMED: usize = 20;
/// What records have where a list names no licence.
const NO_LICENSE: &str = "Not provided";

/// How much `croissant.json` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CroissantLevel {
    NoCroissant,
    /// Files, records, licence.
    BasicCroissant,
    /// Also creators, keywords, citation, and how many images there are of each label and licence.
    #[default]
    ComprehensiveCroissant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum CroissantVersion {
    #[serde(rename = "1.0")]
    V1_0,
    #[default]
    #[serde(rename = "1.1")]
    V1_1,
}

/// What a dataset is said to be. Names as in FLOW-DC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CroissantOptions {
    pub croissant: CroissantLevel,
    pub croissant_version: CroissantVersion,
    /// The name of the folder, if none is given.
    pub dataset_name: Option<String>,
    /// A sentence with the numbers, if none is given.
    pub dataset_description: Option<String>,
    /// What the images say, if none is given; `Unspecified`, if they say nothing.
    pub dataset_license: Option<String>,
    pub dataset_creator: Option<String>,
    pub dataset_url: Option<String>,
    pub dataset_version: String,
    /// Best as BibTeX.
    pub dataset_citation: Option<String>,
    pub dataset_keywords: Vec<String>,
}

impl Default for CroissantOptions {
    fn default() -> Self {
        Self {
            croissant: CroissantLevel::default(),
            croissant_version: CroissantVersion::default(),
            dataset_name: None,
            dataset_description: None,
            dataset_license: None,
            dataset_creator: None,
            dataset_url: None,
            dataset_version: "1.0.0".into(),
            dataset_citation: None,
            dataset_keywords: Vec::new(),
        }
    }
}

/// An export as its files tell it.
pub(super) struct Description<'a> {
    /// `webdataset` and the like.
    pub format: &'static str,
    pub options: &'a CroissantOptions,
    /// What the export was asked for, for the overview.
    pub export_options: Value,
    pub labels: &'a Labels,
    pub report: &'a FolderReport,
    /// Splits with the files of each, for Hugging Face.
    pub data_files: Vec<(&'static str, Vec<String>)>,
    /// `distribution` of Croissant.
    pub files: Vec<Value>,
    pub record_sets: Vec<Value>,
}

/// What the chosen images are like.
#[derive(Default)]
pub(super) struct Facts {
    /// Images by extension.
    pub formats: BTreeMap<&'static str, u64>,
    pub licenses: BTreeMap<String, u64>,
    /// Day on which the newest was fetched.
    pub newest: Option<String>,
}

impl Facts {
    /// # Errors
    /// When a file cannot be read.
    pub async fn of(session: &QuerySession, selection: &Selection) -> Result<Self, ExportError> {
        let mut facts = Self::default();
        for &slice in &selection.slices {
            let chosen = selection.sql("image_format, license, fetched_at", slice);
            let sql = format!(
                "select image_format, license, count(*) as images, cast(max(fetched_at) as varchar) as newest \
                 from ({chosen}) group by 1, 2"
            );
            let mut rows = session.stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                let text = |name: &str| batch[name].as_string::<i32>().clone();
                let (formats, licenses, newest) = (text("image_format"), text("license"), text("newest"));
                let images = batch["images"].as_primitive::<Int64Type>();
                for row in 0..batch.num_rows() {
                    let images = images.value(row).unsigned_abs();
                    let format = if formats.is_valid(row) { formats.value(row) } else { "" };
                    let format = if format == "raw" { "png" } else { format };
                    *facts.formats.entry(extension_of(format)).or_default() += images;
                    if licenses.is_valid(row) && licenses.value(row) != NO_LICENSE {
                        *facts.licenses.entry(licenses.value(row).to_owned()).or_default() += images;
                    }
                    let day = newest.is_valid(row).then(|| newest.value(row).chars().take(10).collect());
                    facts.newest = facts.newest.max(day);
                }
            }
        }
        Ok(facts)
    }

    pub fn num_formats(&self) -> usize {
        self.formats.len()
    }

    pub fn media_types(&self) -> Vec<&'static str> {
        self.formats.keys().map(|extension| media_type_of(extension)).collect()
    }

    /// Patterns of the names of images.
    pub fn patterns(&self) -> Vec<String> {
        self.formats.keys().map(|extension| format!("*.{extension}")).collect()
    }
}

/// Writes a description of the dataset itself: of the Parquet files with the downloaded images.
///
/// # Errors
/// `NotAbove` when the file is not to be in a folder that has them; else when something cannot be read or written.
pub async fn export_croissant(
    session: &QuerySession,
    output: &Path,
    options: &CroissantOptions,
) -> Result<(), ExportError> {
    refuse_own(session.layout(), output)?;
    let above = |path: &Path| std::path::absolute(path).ok()?.parent().map(Path::to_owned);
    let images = std::path::absolute(session.layout().images()).unwrap_or_default();
    let not_above = || ExportError::NotAbove { path: output.to_owned() };
    let folder = above(output).ok_or_else(not_above)?;
    let relative = images.strip_prefix(&folder).map_err(|_| not_above())?;
    let selection = Selection::new(session, &SelectionOptions::default(), SLICE_IMAGES).await?;
    let facts = Facts::of(session, &selection).await?;
    let labels = Labels::count(session, &selection).await?;
    let report = FolderReport {
        path: session.layout().root().to_owned(),
        num_images: session.num_images(),
        image_bytes: session.partitions().map(|(_, _, row)| row.image_bytes).sum(),
        ..FolderReport::default()
    };
    // Of partitions that are complete, and parts of those that are not.
    let pattern = format!("{}/*successes*.parquet", relative.display());
    let source = |extract: Value| json!({"fileSet": {"@id": "parquet-files"}, "extract": extract});
    let mut fields = vec![field("images", "image", "sc:ImageObject", &source(json!({"column": "image"})))];
    for column in successes_schema().fields() {
        if matches!(
            column.data_type(),
            DataType::Utf8 | DataType::Int32 | DataType::Int64 | DataType::Boolean
        ) {
            let source = source(json!({"column": column.name()}));
            fields.push(field("images", column.name(), data_type_of(column.data_type()), &source));
        }
    }
    let description = Description {
        format: "croissant",
        options,
        export_options: Value::Null,
        labels: &labels,
        report: &report,
        data_files: Vec::new(),
        files: vec![file_set("parquet-files", &[], &["application/x-parquet"], &[pattern])],
        record_sets: vec![record_set("images", "An image, and what is known of it.", "uuid", fields)],
    };
    let name = output.file_name().ok_or_else(not_above)?.to_string_lossy().into_owned();
    write_json(&folder, &name, &croissant(&facts, &description)).map(drop)
}

/// Writes what describes an export. Returns the names of the files.
///
/// # Errors
/// When something cannot be read or written.
pub(super) async fn describe(
    session: &QuerySession,
    facts: &Facts,
    description: &Description<'_>,
) -> Result<Vec<String>, ExportError> {
    let folder = &description.report.path;
    let mut names = Vec::new();
    if description.options.croissant != CroissantLevel::NoCroissant {
        write_json(folder, "croissant.json", &croissant(facts, description))?;
        names.push("croissant.json".to_owned());
    }
    write_json(folder, "overview.json", &overview(session, facts, description).await?)?;
    write_whole(folder, "README.md", card(facts, description).as_bytes())?;
    names.extend(["overview.json".to_owned(), "README.md".to_owned()]);
    Ok(names)
}

fn name_of(description: &Description<'_>) -> String {
    let folder = || description.report.path.file_name().map(|name| name.to_string_lossy().into_owned());
    description.options.dataset_name.clone().or_else(folder).unwrap_or_else(|| "images".into())
}

fn text_of(description: &Description<'_>) -> String {
    let numbers = || {
        let (images, labels) = (description.report.num_images, description.labels.counts.len());
        match labels {
            0 => format!("{images} images without labels."),
            1 => format!("{images} images of one label."),
            _ => format!("{images} images of {labels} labels."),
        }
    };
    description.options.dataset_description.clone().unwrap_or_else(numbers)
}

/// The licences that a description names.
fn licenses_of(facts: &Facts, options: &CroissantOptions) -> Vec<String> {
    if let Some(license) = &options.dataset_license {
        return vec![license.clone()];
    }
    let mut licenses: Vec<_> = facts.licenses.iter().collect();
    licenses.sort_by_key(|&(license, &images)| (std::cmp::Reverse(images), license));
    if licenses.is_empty() {
        return vec!["Unspecified".into()];
    }
    licenses.into_iter().take(MAX_NAMED).map(|(license, _)| license.clone()).collect()
}

fn croissant(facts: &Facts, description: &Description<'_>) -> Value {
    let options = description.options;
    let (version, conforms_to) = match options.croissant_version {
        CroissantVersion::V1_0 => (1.0, "http://mlcommons.org/croissant/1.0"),
        CroissantVersion::V1_1 => (1.1, "http://mlcommons.org/croissant/1.1"),
    };
    let mut dataset = json!({
        "@context": context(version > 1.0),
        "@type": "sc:Dataset",
        "conformsTo": conforms_to,
        "name": name_of(description),
        "description": text_of(description),
        "license": one_or_many(licenses_of(facts, options)),
        "version": options.dataset_version,
        "distribution": description.files,
        "recordSet": description.record_sets,
    });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            dataset[key] = value;
        }
    };
    put("url", options.dataset_url.as_ref().map(|url| json!(url)));
    put("datePublished", facts.newest.as_ref().map(|day| json!(day)));
    put("citeAs", options.dataset_citation.as_ref().map(|citation| json!(citation)));
    if options.croissant == CroissantLevel::BasicCroissant {
        return dataset;
    }
    put("creator", options.dataset_creator.as_ref().map(|name| creator(name)));
    let keywords = match &options.dataset_keywords[..] {
        [] => vec!["images".to_owned(), "classification".to_owned()],
        keywords => keywords.to_vec(),
    };
    put("keywords", Some(json!(keywords)));
    put("temporalCoverage", facts.newest.as_ref().map(|day| json!(day)));
    put("measurementTechnique", Some(json!("downloaded from lists of URLs")));
    put("contentSize", Some(json!(format!("{} B", description.report.image_bytes))));
    let labels: Vec<_> = most(description.labels.counts.iter()).collect();
    if !labels.is_empty() {
        put("about", Some(json!(labels.iter().take(10).map(|(label, _)| label).collect::<Vec<_>>())));
    }
    let measured = |name: &str, (of, images): (&String, u64)| json!({"@type": "sc:PropertyValue", "name": name, "value": of, "unitText": format!("{images} images")});
    let measured: Vec<_> = labels
        .iter()
        .map(|&of| measured("label", of))
        .chain(most(facts.licenses.iter()).map(|of| measured("license", of)))
        .collect();
    put("variableMeasured", Some(json!(measured)));
    dataset
}

/// Those with most images.
fn most<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> impl Iterator<Item = (&'a String, u64)> {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|&(name, &images)| (std::cmp::Reverse(images), name));
    counts.into_iter().take(MAX_NAMED).map(|(name, &images)| (name, images))
}

fn one_or_many(mut values: Vec<String>) -> Value {
    if values.len() == 1 { json!(values.remove(0)) } else { json!(values) }
}

/// A person, unless the name has a word of an organisation.
fn creator(name: &str) -> Value {
    const WORDS: [&str; 22] = [
        "university",
        "institute",
        "institut",
        "laboratory",
        "lab",
        "museum",
        "foundation",
        "organization",
        "organisation",
        "consortium",
        "society",
        "center",
        "centre",
        "company",
        "corporation",
        "inc",
        "ltd",
        "gmbh",
        "team",
        "group",
        "project",
        "network",
    ];
    let is_organisation =
        name.split(|c: char| !c.is_alphanumeric()).any(|word| WORDS.contains(&word.to_lowercase().as_str()));
    json!({"@type": if is_organisation { "sc:Organization" } else { "sc:Person" }, "name": name})
}

/// The context that the standard asks for.
fn context(is_1_1: bool) -> Value {
    let mut context = json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "citeAs": "cr:citeAs",
        "column": "cr:column",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "equivalentProperty": "cr:equivalentProperty",
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "extract": "cr:extract",
        "field": "cr:field",
        "fileProperty": "cr:fileProperty",
        "fileObject": "cr:fileObject",
        "fileSet": "cr:fileSet",
        "format": "cr:format",
        "includes": "cr:includes",
        "isLiveDataset": "cr:isLiveDataset",
        "jsonPath": "cr:jsonPath",
        "key": "cr:key",
        "md5": "cr:md5",
        "parentField": "cr:parentField",
        "path": "cr:path",
        "recordSet": "cr:recordSet",
        "references": "cr:references",
        "regex": "cr:regex",
        "repeated": "cr:repeated",
        "replace": "cr:replace",
        "samplingRate": "cr:samplingRate",
        "sc": "https://schema.org/",
        "separator": "cr:separator",
        "source": "cr:source",
        "subField": "cr:subField",
        "transform": "cr:transform",
    });
    if is_1_1 {
        context["arrayShape"] = json!("cr:arrayShape");
        context["containedIn"] = json!("cr:containedIn");
        context["description"] = json!({"@container": "@language"});
        context["isArray"] = json!("cr:isArray");
        context["name"] = json!({"@container": "@language"});
    }
    context
}

/// A file of the export.
pub(super) fn file_object(file: &UnitFile, media_type: &str) -> Value {
    json!({
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": format!("{} B", file.bytes),
        "encodingFormat": media_type,
        "sha256": file.sha256,
    })
}

/// Files of a pattern: of the folder, or of archives.
pub(super) fn file_set(id: &str, archives: &[&str], media_types: &[&str], includes: &[String]) -> Value {
    let mut set = json!({
        "@type": "cr:FileSet",
        "@id": id,
        "name": id,
        "encodingFormat": one_or_many(media_types.iter().map(|&media_type| media_type.to_owned()).collect()),
        "includes": one_or_many(includes.to_vec()),
    });
    let archives: Vec<_> = archives.iter().map(|archive| json!({"@id": archive})).collect();
    match archives.len() {
        0 => {}
        1 => set["containedIn"] = archives[0].clone(),
        _ => set["containedIn"] = json!(archives),
    }
    set
}

pub(super) fn record_set(id: &str, description: &str, key: &str, fields: Vec<Value>) -> Value {
    json!({
        "@type": "cr:RecordSet",
        "@id": id,
        "name": id,
        "description": description,
        "key": {"@id": format!("{id}/{key}")},
        "field": fields,
    })
}

/// A field of a set of records. `source` names a file or set of files, and what to take of it.
pub(super) fn field(record_set: &str, name: &str, data_type: &str, source: &Value) -> Value {
    json!({
        "@type": "cr:Field",
        "@id": format!("{record_set}/{name}"),
        "name": name,
        "dataType": data_type,
        "source": source,
    })
}

/// Type of a column in Croissant.
pub(super) fn data_type_of(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => "sc:Integer",
        DataType::Float32 | DataType::Float64 => "sc:Float",
        DataType::Boolean => "sc:Boolean",
        _ => "sc:Text",
    }
}

/// The page of the dataset, with what Hugging Face reads of it.
fn card(facts: &Facts, description: &Description<'_>) -> String {
    let mut text = String::new();
    if !description.data_files.is_empty() {
        text += "---\nconfigs:\n- config_name: default\n  data_files:\n";
    }
    for (split, paths) in &description.data_files {
        text += &format!("  - split: {split}\n    path:\n");
        for path in paths {
            text += &format!("    - {}\n", json!(path));
        }
    }
    if !description.data_files.is_empty() {
        text += "---\n";
    }
    let options = description.options;
    text += &format!("# {}\n\n{}\n", one_line(&name_of(description)), text_of(description));
    let licenses: Vec<_> = licenses_of(facts, options).iter().map(|license| one_line(license)).collect();
    text += &format!("\nLicense: {}\n", licenses.join(", "));
    if let Some(citation) = &options.dataset_citation {
        text += &format!("\n## Citation\n\n```\n{citation}\n```\n");
    }
    text += "\n`croissant.json` describes the files, `overview.json` has the numbers.\n";
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
