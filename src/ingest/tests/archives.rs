//! Darwin Core archives, and lists of boxes.

use super::*;

/// `files` of an archive, `meta.xml` among them.
fn archive(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

/// A constant of the media table and a column of the core made two columns of one name, and no query
/// of the dataset worked any more.
#[test]
fn a_constant_hides_the_column_of_the_core() {
    let meta = format!(
        r#"<archive>{CORE_META}<extension fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1"
        rowType="http://rs.gbif.org/terms/1.0/Multimedia"><files><location>m.txt</location></files>
        <coreid index="0"/><field index="1" term="http://purl.org/dc/terms/identifier"/>
        <field default="Photo" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/></extension></archive>"#
    );
    let folder = archive(&[
        ("meta.xml", meta.as_bytes()),
        ("occurrence.txt", b"id\tbasis\n1\tX\n"),
        ("m.txt", b"id\turl\n1\thttp://a/1\n"),
    ]);
    let dataset = Dataset::new();
    dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
    let rows = dataset.manifest(&dataset.partitions()[0]);
    assert_eq!(texts(&rows, "basisOfRecord"), [Some("Photo".to_owned())]);
    let names: BTreeSet<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names.len(), rows.num_columns());
}

/// The first row decided how many fields the others have, and files behind the first were not read.
#[test]
fn archives_of_odd_rows_and_several_files() {
    let meta = |header_lines: u32| {
        format!(
            r#"<archive>{CORE_META}<extension fieldsTerminatedBy="\t" fieldsEnclosedBy=""
            ignoreHeaderLines="{header_lines}" rowType="http://rs.gbif.org/terms/1.0/Multimedia">
            <files><location>1.txt</location><location>2.txt</location></files><coreid index="0"/>
            <field index="1" term="http://purl.org/dc/terms/identifier"/></extension></archive>"#
        )
    };
    let core = ("occurrence.txt", &b"id\tbasis\n1\tX\n"[..]);
    let second = ("2.txt", &b"\xef\xbb\xbfid\turl\tmore\n1\thttp://a/4\t\n"[..]);
    let check = |meta: &str, first: &[u8], urls: &[u32], malformed: &[(u64, &str)]| {
        let folder = archive(&[("meta.xml", meta.as_bytes()), core, ("1.txt", first), second]);
        let dataset = Dataset::new();
        let report = dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
        let found = texts(&dataset.manifest(&dataset.partitions()[0]), "identifier");
        assert_eq!(found, urls.iter().map(|n| Some(format!("http://a/{n}"))).collect::<Vec<_>>());
        for (example, (line, reason)) in report.malformed_examples.iter().zip(malformed) {
            assert_eq!(example.path, folder.path().join("1.txt"));
            assert!(example.line == *line && example.reason.contains(reason), "{example:?}");
        }
        assert_eq!(report.malformed, malformed.len() as u64);
    };
    let rows = b"id\turl\tmore\n1\thttp://a/1\n1\thttp://a/2\t\n1\thttp://a/3\t\t\n";
    check(&meta(1), rows, &[2, 4], &[(2, "2 fields where 3"), (4, "4 fields where 3")]);
    // A header that lacks declared columns says nothing of the rows.
    check(&meta(1), b"id\n1\thttp://a/1\n1\n1\thttp://a/3\t\t\n", &[1, 3, 4], &[(3, "at least 2")]);
    let without_header = b"\xef\xbb\xbf1\thttp://a/1\n1\n1\thttp://a/3\t\t\n";
    let folder =
        archive(&[("meta.xml", meta(0).as_bytes()), core, ("1.txt", without_header), ("2.txt", b"")]);
    let dataset = Dataset::new();
    let report = dataset.ingest(&[folder.path().to_owned()], &small(10)).unwrap();
    assert_eq!((report.records_new, report.malformed), (2, 1));
    let rows = dataset.manifest(&dataset.partitions()[0]);
    assert_eq!(texts(&rows, "basisOfRecord"), [Some("X".to_owned()), Some("X".to_owned())]);
    fs::remove_file(folder.path().join("2.txt")).unwrap();
    let error = Dataset::new().ingest(&[folder.path().to_owned()], &small(10)).unwrap_err();
    assert!(error.to_string().contains("`2.txt` is missing"), "{error}");
}

/// Archive with `rows` media of `rows / 2` occurrences; `padding` makes the core larger.
fn write_archive(folder: &Path, rows: usize, padding: usize) {
    let mut media = "gbifID\ttype\tformat\tidentifier\ttitle\n".to_owned();
    let mut core = "gbifID\tpad\tbasisOfRecord\tscientificName\n".to_owned();
    for row in 0..rows {
        media += &format!("{}\tStillImage\t\thttp://s{}.org/{row}\t\"a title\n", row / 2, row % 5);
        if row % 2 == 0 {
            let basis = if row % 10 == 0 { "MATERIAL_CITATION" } else { "HUMAN_OBSERVATION" };
            core += &format!("{}\t{}\t{basis}\tSpecies {}\n", row / 2, "x".repeat(padding), row / 2);
        }
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("multimedia.txt"), media).unwrap();
    fs::write(folder.join("occurrence.txt"), core).unwrap();
}

#[test]
fn archives_are_joined_with_their_occurrences() {
    let gbif = |memory_bytes| IngestOptions {
        initializer_type: "gbif".into(),
        columns: ColumnsOptions { label: Some("scientificName".into()), ..ColumnsOptions::default() },
        memory_bytes,
        ..small(100_000)
    };
    // Nine megabytes of core: at 512 MiB held in memory, at 16 MiB spread over files.
    let source = tempfile::tempdir().unwrap();
    let folder = source.path().join("archive");
    write_archive(&folder, 2000, 9000);
    let zip = source.path().join("archive.zip");
    let mut writer = zip::ZipWriter::new(File::create(&zip).unwrap());
    for name in ["multimedia.txt", "occurrence.txt"] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&fs::read(folder.join(name)).unwrap()).unwrap();
    }
    writer.finish().unwrap();

    let mut found = Vec::new();
    for (path, memory_bytes) in
        [(&folder, 512 << 20), (&folder, 16 << 20), (&zip, 512 << 20), (&zip, 16 << 20)]
    {
        let dataset = Dataset::new();
        let report = dataset.ingest(std::slice::from_ref(path), &gbif(memory_bytes)).unwrap();
        assert_eq!(report.filtered, BTreeMap::from([("material_citation".to_owned(), 400)]));
        assert_eq!((report.rows_read, report.records_new), (2000, 1600));
        let mut records = BTreeSet::new();
        for partition in dataset.partitions() {
            let rows = dataset.manifest(&partition);
            for ((url, label), id) in texts(&rows, "identifier")
                .into_iter()
                .zip(texts(&rows, "label"))
                .zip(texts(&rows, "source_id"))
            {
                assert_eq!(label, id.as_ref().map(|id| format!("Species {id}")));
                records.insert((url, id));
            }
        }
        found.push(records);
    }
    assert!(found.iter().all(|records| *records == found[0]));

    // A damaged zip is found out, wherever the damage lies.
    let mut bytes = fs::read(&zip).unwrap();
    bytes[200] ^= 0x55;
    let dataset = Dataset::new();
    let error = dataset.ingest(&[dataset.write("damaged.zip", bytes)], &gbif(512 << 20)).unwrap_err();
    assert!(matches!(error, IngestError::Damaged { .. } | IngestError::Truncated { .. }), "{error}");
    assert!(dataset.partitions().is_empty());
}

#[test]
fn one_picture_of_several_boxes_is_one_record() {
    let dataset = Dataset::new();
    let write = |name: &str, columns: Vec<(&str, Vec<&str>)>| {
        let columns =
            columns.into_iter().map(|(name, values)| (name, Arc::new(StringArray::from(values)) as ArrayRef));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = dataset.folder.path().join(name);
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    };
    let list = write(
        "list.parquet",
        vec![
            ("uuid", vec![U1, U2, "u3"]),
            ("source_url", vec!["http://a/1", "http://a/1", "http://a/2"]),
            ("data_source", vec!["fathom", "fathom", "other"]),
            ("source_id", vec!["s1", "s2", "s3"]),
        ],
    );
    let boxes = write("boxes.parquet", vec![("uuid", vec![U2, U1, "u9"]), ("x", vec!["20", "10", "90"])]);
    let options = IngestOptions {
        initializer_type: "tol200m_fathomNet".into(),
        included_sources: vec!["fathom".into()],
        bounding_box_information_path: Some(boxes),
        ..small(10)
    };
    // It says of which records the rows are, so it comes when these are committed.
    let uuid_ref = dataset.layout().tools().join("uuid_ref");
    dataset.catalog.fail_after_commits(Some(0));
    dataset.ingest(std::slice::from_ref(&list), &options).unwrap_err();
    assert_eq!(fs::read_dir(&uuid_ref).unwrap().count(), 0);
    dataset.catalog.fail_after_commits(None);
    let report = dataset.ingest(std::slice::from_ref(&list), &options).unwrap();
    assert_eq!((report.records_new, report.duplicates), (1, 1));
    let read = |number: u32| {
        let file = File::open(uuid_ref.join(format!("part-{number:04}.parquet"))).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap()
    };
    let rows = read(0);
    let image = RecordUrl::parse("http://a/1", 100).unwrap().uuid().to_string();
    assert_eq!(texts(&rows, "image_uuid"), [Some(image.clone()), Some(image)]);
    assert_eq!(texts(&rows, "uuid"), [Some(U1.into()), Some(U2.into())]);
    assert_eq!(texts(&rows, "x"), [Some("10".into()), Some("20".into())]);

    // Another list adds a file, the same one does not; and `uuid` may be the record's own as well.
    dataset.ingest(std::slice::from_ref(&list), &options).unwrap();
    let columns = ColumnsOptions { uuid: Some("uuid".into()), ..ColumnsOptions::default() };
    dataset.ingest(&[list], &IngestOptions { columns, ..options }).unwrap();
    assert_eq!(fs::read_dir(&uuid_ref).unwrap().count(), 2);
    assert_eq!(texts(&read(1), "uuid"), [Some(U1.into()), Some(U2.into())]);
    assert_eq!(texts(&read(1), "image_uuid"), texts(&read(1), "uuid"));
}
