//! Tools of one's own, and what damaged files and broken commands cost: their partition, and no more.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray as _, BinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

const SERVERS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// Three servers, and so three partitions, each with a grey, a red and a small red image: records 0, 1 and 2.
struct Downloaded {
    project: Project,
    _server: NastyServer,
}

fn png(image: impl Into<image::DynamicImage>) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn red(side: u32) -> Vec<u8> {
    png(image::RgbImage::from_pixel(side, side, image::Rgb([200, 30, 20])))
}

fn downloaded() -> Downloaded {
    let grey = png(image::GrayImage::from_pixel(240, 240, image::Luma([90])));
    let pictures = [("/grey.png", grey), ("/red.png", red(240)), ("/small.png", red(40))];
    let server =
        NastyServer::start(pictures.map(|(path, bytes)| (path, Behaviour::Body("image/png", bytes))));
    let urls = SERVERS
        .iter()
        .flat_map(|server| ["grey", "red", "small"].map(|picture| format!("http://{server}/{picture}.png")));
    let settings = "downloader_parameters: {default_rate_limit: 0}";
    let project = Project::new(server.addr(), settings).with_urls(urls);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    Downloaded { project, _server: server }
}

impl Downloaded {
    fn write(&self, name: &str, text: &str) {
        let path = self.project.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `uuid` of a record.
    fn uuid(&self, server: &str, record: u32) -> String {
        let sql = format!("SELECT uuid FROM images WHERE server_name = '{server}' AND record = {record}");
        self.project.query(&sql)
    }

    /// What a tool says, by server and record.
    #[track_caller]
    fn verdicts(&self, tool: &str) -> String {
        let sql = format!("SELECT server_name, record, verdict, reason FROM tool_{tool} ORDER BY 1, 2");
        self.project.query(&sql).replace('\n', " ")
    }

    /// Runs a tool that is not to end well; returns what it says.
    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        let output = self.project.run(args);
        expect(&output, 1, args);
        stderr(&output)
    }

    fn successes(&self, server: &str) -> PathBuf {
        self.project
            .path(&format!("out/downloaded_images/server_name={server}/partition_id=0/successes.parquet"))
    }

    /// Folders in which commands have worked.
    fn work_folders(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.project.path("out/tools")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    if entry.file_name().to_string_lossy().starts_with("work-") {
                        found.push(entry.path());
                    }
                    folders.push(entry.path());
                }
            }
        }
        found
    }

    /// A tool that answers with what lies in `answers/`.
    fn copying(&self, output: &str) {
        self.write(
            "copied.yaml",
            &format!("run: [sh, copy.sh, '{{output}}', '{{server_name}}']\noutput: {output}"),
        );
        self.write("copy.sh", "cp -R answers/$2/. \"$1\"");
    }

    fn answer(&self, server: &str, file: &str, columns: Vec<(&str, ArrayRef)>) {
        let path = self.project.path(&format!("answers/{server}/{file}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_table(&path, &RecordBatch::try_from_iter(columns).unwrap());
    }

    /// One verdict on the image of record 1.
    fn good_answer(&self, server: &str) {
        let folder = self.project.path(&format!("answers/{server}"));
        let _ = fs::remove_dir_all(folder);
        let uuid = self.uuid(server, 1);
        self.answer(
            server,
            "verdicts.parquet",
            vec![("uuid", texts([&*uuid])), ("verdict", texts(["flag"]))],
        );
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn texts<'t>(values: impl IntoIterator<Item = &'t str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn write_table(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn read_table(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let mut batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

#[test]
fn a_condition_alone_is_a_tool() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    let small =
        "description: removes what is small\nfilter: original_size[1] < 100 -- pixels\nreason: it's small\n";
    dataset.write("config/tools/small.yaml", small);
    project.ok(&["tool", "small"]);
    let of = |server: &str, record: u32, says: &str| format!("{server},{record},{says}");
    let all = |record: u32, says: &str| SERVERS.map(|server| of(server, record, says)).join(" ");
    assert_eq!(dataset.verdicts("small"), all(2, "remove,it's small"));
    let again = project.run(&["tool", "small"]);
    assert!(stderr(&again).contains("small was done before"), "{}", stderr(&again));
    // A changed file is another tool; so it is by its path.
    dataset.write("config/tools/small.yaml", "filter: original_size[1] > 100\n");
    project.ok(&["tool", "config/tools/small.yaml"]);
    let both =
        SERVERS.map(|server| [0, 1].map(|record| of(server, record, "remove,small")).join(" ")).join(" ");
    assert_eq!(dataset.verdicts("small"), both);
    // Its verdicts outlive the file.
    fs::rename(project.path("config/tools/small.yaml"), project.path("gone")).unwrap();
    let args = ["export", "manifest", "-o", "clean.csv", "--clean", "small"];
    let said = stderr(&project.run(&args));
    assert!(
        said.contains("3 images in clean.csv\nsmall was run with ") && said.contains("6 of 9 removed"),
        "{said}"
    );
    project.ok(&["check", "--manifest", "clean.csv", "--clean", "small"]);
    assert!(
        dataset
            .fails(&["export", "manifest", "-o", "clean.csv", "--clean", "sise"])
            .contains("no tool `sise`")
    );
    fs::rename(project.path("gone"), project.path("config/tools/small.yaml")).unwrap();
    // Beside the configuration, wherever ddl is run.
    dataset.write("elsewhere/x", "");
    let mut elsewhere = project.command(&["-c", "../ddl.yaml", "--dataset", "../out", "tool", "small"]);
    let output = elsewhere.current_dir(project.path("elsewhere")).output().unwrap();
    assert!(stderr(&output).contains("small was done before"), "{}", stderr(&output));

    let list = project.ok(&["tool", "--list"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(
        lines.iter().any(|line| line.starts_with(&["size", "size_based", "ddl", "-", "removes"])),
        "{list}"
    );
    assert!(lines.iter().any(|line| line == &["small", "-", "config/tools/small.yaml", "done"]), "{list}");
    assert!(Project::empty().ok(&["tool", "--list", "--json"]).contains("\"name\": \"size\""));

    dataset.write("config/tools/wrong.yaml", "filter: original_sise[1] < 100\n");
    let error = dataset.fails(&["tool", "wrong"]);
    assert!(
        error.contains("config/tools/wrong.yaml: `filter`: ") && error.contains("original_size"),
        "{error}"
    );
}

#[test]
fn slips_in_names_and_files_are_told() {
    let project = Project::routed("");
    fs::create_dir_all(project.path("config/tools")).unwrap();
    let write =
        |name: &str, text: &str| fs::write(project.path(&format!("config/tools/{name}")), text).unwrap();
    write("grey.yaml", "timeuot: 3s\nrun: x | y\n");
    write("other.yaml", "name: another");
    write("size.yaml", "");
    let error = |name: &str| {
        let output = project.run(&["tool", name]);
        expect(&output, 1, &[name]);
        stderr(&output)
    };
    assert!(
        error("siez").starts_with("error: there is no tool `siez`; is `size` meant?\nhint: there are size")
    );
    assert!(error("gery").starts_with("error: there is no tool `gery`; is `grey` meant?\n"));
    assert_eq!(
        error("grey"),
        "error: config/tools/grey.yaml:1: unknown key `timeuot`\nhint: did you mean `timeout`?\n\
         error: config/tools/grey.yaml:2: `run` is `x | y`: `|` means something to a shell only, and none runs it\n\
         hint: quote it, or write `run: [sh, -c, '...']` where a shell is to run it\n"
    );
    assert!(error("./none.yaml").starts_with("error: cannot read tool `./none.yaml`: No such file"));
    assert!(error("other").contains("it is looked for by the name of its file"));
    assert!(error("config/tools/size.yaml").contains("it is that of the tool `size`"));
    let list = project.ok(&["tool", "--list"]);
    assert!(list.contains("cannot be used: config/tools/grey.yaml:1: unknown key"), "{list}");
    // Which of the two was meant, the order of a folder's entries would say.
    write("grey.yml", "");
    assert!(
        error("grey").contains("`config/tools/grey.yaml` and `config/tools/grey.yml` are both of this name")
    );
    for arg in ["--near=3", "--against=out"] {
        let output = project.run(&["tool", "size", arg]);
        expect(&output, 2, &["tool", arg]);
        assert!(stderr(&output).contains("not of `size`"), "{}", stderr(&output));
    }
}

#[test]
fn a_command_is_told_where_all_is_and_its_answer_is_kept() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    dataset.write(
        "copied.yaml",
        "filter: original_size[1] > 100\nreason: odd\nenvironment: {WORD: two words}\n\
         run: sh run.sh 'a b' {input} {selected} {output} {server_name} {partition_id}\n",
    );
    dataset.write(
        "run.sh",
        r#"set -eu
        [ "$1|$WORD|$DDL_TOOL_NAME" = "a b|two words|copied" ]
        [ "$2|$3|$4|$5|$6" = "$DDL_TOOL_INPUT|$DDL_TOOL_SELECTED|$DDL_TOOL_OUTPUT|$DDL_TOOL_SERVER_NAME|$DDL_TOOL_PARTITION_ID" ]
        cmp "$2/successes.parquet" "out/downloaded_images/server_name=$5/partition_id=$6/successes.parquet"
        cp "$3" "selected-$5.parquet"
        cp "answers/$5/verdicts.parquet" "$4/"
        if [ "$5" = b.example ]; then echo something; fi
        "#,
    );
    project.ok(&["tool", "./copied.yaml"]);
    let expected = SERVERS.map(|server| format!("{server},1,flag,odd")).join(" ");
    assert_eq!(dataset.verdicts("copied"), expected);
    let selected = read_table(&project.path("selected-b.example.parquet"));
    let uuids: Vec<_> = selected["uuid"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(uuids, [dataset.uuid("b.example", 0), dataset.uuid("b.example", 1)]);
    assert_eq!(dataset.work_folders(), Vec::<PathBuf>::new());
    let log = |server: &str| {
        let path = format!("out/logs/tools/copied/server_name={server}/partition_id=0.log");
        fs::read_to_string(project.path(&path)).ok()
    };
    assert_eq!((log("a.example"), log("b.example")), (None, Some("something\n".into())));
    let again = || stderr(&project.run(&["tool", "./copied.yaml"]));
    assert!(again().contains("copied was done before"));
    // So is a script that it names part of the tool.
    let script = fs::read_to_string(project.path("run.sh")).unwrap();
    dataset.write("run.sh", &format!("{script}# changed"));
    assert!(again().contains("copied is done"));
}

#[test]
fn rubbish_costs_its_partition_and_is_named() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    dataset.copying("verdicts");
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    let [mine, other, foreign] =
        [("b.example", 0), ("b.example", 1), ("a.example", 0)].map(|(server, at)| dataset.uuid(server, at));
    let (mine, other, foreign) = (mine.as_str(), other.as_str(), foreign.as_str());
    let folder = project.path("answers/b.example");
    let put = |columns: Vec<(&str, ArrayRef)>| dataset.answer("b.example", "verdicts.parquet", columns);
    let two = || vec![("uuid", texts([other, mine])), ("verdict", texts(["flag", "remove"]))];
    let with = |name: &'static str, column: ArrayRef| {
        let mut columns = two();
        columns.push((name, column));
        put(columns);
    };
    let shown = |uuid: &str| format!("`{uuid}`");
    let rubbish: [(Box<dyn Fn()>, String); 15] = [
        (
            Box::new(|| fs::write(folder.join("verdicts.parquet"), "rubbish").unwrap()),
            "a `verdicts.parquet` that cannot be read".into(),
        ),
        (
            Box::new(|| fs::rename(folder.join("verdicts.parquet"), folder.join("verdict.parquet")).unwrap()),
            "the command wrote no `verdicts.parquet` (without anything to say, it has no rows); what it wrote is \
             `verdict.parquet`"
                .into(),
        ),
        (
            Box::new(|| dataset.answer("b.example", "successes.parquet", two())),
            "the command wrote `successes.parquet`, which its `output` does not announce".into(),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([mine]))])),
            "`verdicts.parquet` has no column `verdict`".into(),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([mine])), ("verdicts", texts(["flag"]))])),
            "`verdicts.parquet` has no column `verdict`; is `verdicts` meant to be it?".into(),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([other, foreign])), ("verdict", texts(["flag", "flag"]))])),
            format!("`verdicts.parquet`, column `uuid`, row 2: {} is no image of this partition", shown(foreign)),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([mine, mine])), ("verdict", texts(["flag", "flag"]))])),
            format!("`verdicts.parquet`, column `uuid`, row 2: {} is there twice", shown(mine)),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([other, mine])), ("verdict", texts(["flag", "dele\nte"]))])),
            "`verdicts.parquet`, column `verdict`, row 2: `dele\\nte` is neither `remove` nor `flag`".into(),
        ),
        (
            Box::new(|| put(vec![("uuid", texts([mine; 4])), ("verdict", texts(["flag"; 4]))])),
            "a `verdicts.parquet` of 4 rows; the partition has 3 images".into(),
        ),
        (
            Box::new(|| with("record", Arc::new(Int32Array::from(vec![1, 1])))),
            format!("`verdicts.parquet`, column `record`, row 2: the image {} is record 0, not 1", shown(mine)),
        ),
        (
            Box::new(|| with("distance", Arc::new(Float64Array::from(vec![0.5, 1.0])))),
            "`verdicts.parquet`, column `distance`: expected whole numbers, found Float64".into(),
        ),
        (
            Box::new(|| with("distance", Arc::new(Int64Array::from(vec![1, 1 << 40])))),
            "`verdicts.parquet`, column `distance`, row 2: it is out of range".into(),
        ),
        (
            Box::new(|| with("witness", texts([other, "nobody"]))),
            "`verdicts.parquet`, column `witness`, row 2: `nobody` is no UUID".into(),
        ),
        (
            Box::new(|| with("reason", texts(["x", &*"y".repeat(1001)]))),
            "`verdicts.parquet`, column `reason`, row 2: it has 1001 bytes, 1000 are allowed".into(),
        ),
        (
            Box::new(|| {
                fs::remove_file(folder.join("verdicts.parquet")).unwrap();
                fs::create_dir(folder.join("verdicts.parquet")).unwrap();
            }),
            "`verdicts.parquet` is not a plain file".into(),
        ),
    ];
    let of = |server: &str| format!("{server},1,flag,copied");
    for (spoil, message) in rubbish {
        dataset.good_answer("b.example");
        spoil();
        let error = dataset.fails(&["tool", "./copied.yaml", "--reset", "filter"]);
        assert!(error.contains("b.example") && error.contains(&message), "{message}:\n{error}");
        assert!(error.contains("2 of 3 partitions"), "{error}");
        assert_eq!(dataset.verdicts("copied"), [of("a.example"), of("c.example")].join(" "));
    }
    assert_eq!(dataset.work_folders(), Vec::<PathBuf>::new());
    // The command mended, the same goes on with what is left.
    dataset.good_answer("b.example");
    fs::remove_dir_all(project.path("answers/a.example")).unwrap();
    project.ok(&["tool", "./copied.yaml"]);
    assert_eq!(dataset.verdicts("copied"), SERVERS.map(of).join(" "));
    project.ok(&["check", "--deep"]);
}

#[test]
fn new_images_are_decoded_before_they_are_kept() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    dataset.copying("images");
    let put = |server: &str, images: [Vec<u8>; 2]| {
        let uuids = [0, 1].map(|record| dataset.uuid(server, record));
        let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(&images));
        let columns = vec![("image", images), ("uuid", texts(uuids.iter().map(String::as_str)))];
        dataset.answer(server, "successes.parquet", columns);
    };
    put("a.example", [red(20), red(30)]);
    for (rubbish, why) in
        [(b"rubbish".to_vec(), "the body is"), (Vec::new(), "no bytes"), (red(9)[..60].to_vec(), "")]
    {
        put("b.example", [red(20), rubbish]);
        put("c.example", [red(20), red(30)]);
        let error = dataset.fails(&["tool", "./copied.yaml"]);
        let place = "`successes.parquet`, column `image`, row 2: ";
        assert!(
            error.contains(place) && error.contains("2 of 3 partitions") && error.contains(why),
            "{error}"
        );
    }
    put("b.example", [red(20), red(30)]);
    project.ok(&["tool", "./copied.yaml"]);
    assert!(project.query("SELECT * FROM tools").contains("copied"));
    let path = |server: &str| {
        project.path(&format!("out/tools/copied/server_name={server}/partition_id=0/successes.parquet"))
    };
    for server in SERVERS {
        let (made, original) = (read_table(&path(server)), read_table(&dataset.successes(server)));
        assert_eq!(made.schema().fields(), original.schema().fields());
        let sizes = made["resized_size"].as_list::<i32>().value(1);
        assert_eq!(sizes.as_primitive::<Int64Type>().values(), &[30, 30]);
        assert_eq!(made["image"].as_binary::<i32>().value(1), red(30));
        let bytes = made["image_bytes"].as_primitive::<Int64Type>().value(1);
        assert_eq!(bytes, red(30).len() as i64);
        assert_eq!(
            made["hashsum_resized"].as_string::<i32>().value(1),
            blake3::hash(&red(30)).to_hex().as_str()
        );
        for column in ["uuid", "record", "identifier", "hashsum_original", "original_size"] {
            let rows: Vec<usize> = (0..original.num_rows()).collect();
            let at = |record: u32| {
                let uuid = dataset.uuid(server, record);
                let uuids = original["uuid"].as_string::<i32>();
                *rows.iter().find(|&&row| uuids.value(row) == uuid).unwrap()
            };
            assert_eq!(
                made[column].slice(1, 1).to_data(),
                original[column].slice(at(1), 1).to_data(),
                "{column}"
            );
        }
    }
}

/// It went unnoticed until somebody looked at all bytes.
#[test]
fn a_command_that_writes_to_the_dataset_ends_the_run() {
    let dataset = downloaded();
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    dataset.copying("verdicts");
    dataset.write("copied.yaml", "run: [sh, copy.sh, '{output}', '{server_name}', '{input}']");
    dataset.write("copy.sh", "cp answers/$2/* \"$1\"; echo >> \"$3/successes.parquet\"");
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    assert!(
        error.contains("the command has changed `out/downloaded_images/") && error.contains("hint: "),
        "{error}"
    );
    assert_eq!(dataset.verdicts("copied"), "");
}

/// The images of several records of one `uuid` could not be told apart: the second was always "there twice".
#[test]
fn records_of_one_uuid_have_an_answer_each() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    let uuid = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let rows = ["grey", "red", "small"].map(|picture| format!("{uuid},http://d.example/{picture}.png\n"));
    fs::write(project.path("list.csv"), format!("uuid,url\n{}", rows.concat())).unwrap();
    let settings = fs::read_to_string(project.path("ddl.yaml")).unwrap();
    fs::write(
        project.path("ddl.yaml"),
        settings.replace("path_to_output_folder: out", "path_to_output_folder: out\ncolumns: {uuid: uuid}"),
    )
    .unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    dataset.copying("both");
    for server in SERVERS {
        let nothing: ArrayRef = Arc::new(BinaryArray::from_iter_values([b""; 0]));
        dataset.answer(server, "successes.parquet", vec![("uuid", texts([])), ("image", nothing)]);
    }
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values([red(22), red(21)]));
    let records: ArrayRef = Arc::new(Int32Array::from(vec![2, 1]));
    dataset.answer(
        "d.example",
        "successes.parquet",
        vec![("uuid", texts([uuid; 2])), ("record", records), ("image", images)],
    );
    dataset.answer(
        "d.example",
        "verdicts.parquet",
        vec![("uuid", texts([uuid; 3])), ("verdict", texts(["flag"; 3]))],
    );
    project.ok(&["tool", "./copied.yaml"]);
    let said = "SELECT record FROM tool_copied WHERE server_name = 'd.example' ORDER BY 1";
    assert_eq!(project.query(said), "0\n1\n2");
    let made = project.path("out/tools/copied/server_name=d.example/partition_id=0/successes.parquet");
    let made = read_table(&made);
    assert_eq!(made["record"].as_primitive::<Int32Type>().values(), &[2, 1]);
    let sizes = made["resized_size"].as_list::<i32>().values().clone();
    assert_eq!(sizes.as_primitive::<Int64Type>().values(), &[22, 22, 21, 21]);
    // More than there are.
    dataset.answer(
        "d.example",
        "verdicts.parquet",
        vec![
            ("uuid", texts([uuid; 2])),
            ("verdict", texts(["flag"; 2])),
            ("record", Arc::new(Int32Array::from(vec![1, 1]))),
        ],
    );
    let error = dataset.fails(&["tool", "./copied.yaml", "--reset", "run"]);
    assert!(error.contains("is there twice"), "{error}");
}

/// A command's image was decoded whatever the user's limit, and what is far too large was read to be looked at.
#[test]
fn new_images_keep_to_the_limits() {
    let dataset = downloaded();
    dataset.copying("images");
    for server in SERVERS {
        let uuid = dataset.uuid(server, 0);
        let image: ArrayRef = Arc::new(BinaryArray::from_iter_values([red(30)]));
        let columns = vec![("uuid", texts([&*uuid])), ("image", image)];
        dataset.answer(server, "successes.parquet", columns);
    }
    let set = ["--set", "downloader_parameters.max_image_pixels=899"];
    let error = dataset.fails(&[&["tool", "./copied.yaml"], &set[..]].concat());
    assert!(error.contains("900 pixels (`30x30`) exceed `max_image_pixels`"), "{error}");
    let uuid = dataset.uuid("b.example", 0);
    let image: ArrayRef = Arc::new(BinaryArray::from_iter_values([vec![0; 102 << 20]]));
    dataset.answer("b.example", "successes.parquet", vec![("uuid", texts([&*uuid])), ("image", image)]);
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    assert!(error.contains("`successes.parquet`, column `image`: ") && error.contains("too many"), "{error}");
    assert!(error.contains("2 of 3 partitions"), "{error}");
}

#[test]
fn a_command_that_crashes_costs_its_partition() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    let tool = |codes: &str| {
        dataset.copying(&format!("verdicts\nsuccess_exit_codes: {codes}"));
        dataset.write("copy.sh", "set -e\ncp answers/$2/* \"$1\"\nif [ -e break-$2 ]; then . ./break-$2; fi");
    };
    tool("0");
    dataset.write("break-b.example", "echo; echo 'oh\tno' >&2; exit 7");
    dataset.write("break-c.example", "kill -SEGV $$");
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    for words in [
        "`sh` ended with exit code 7; it said `ohno` (all of it is in `out/logs/tools/copied/",
        "`sh` was ended by signal 11, and said nothing",
        "1 of 3 partitions",
        "the same command goes on from here",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    fs::remove_file(project.path("break-c.example")).unwrap();
    fs::remove_dir_all(project.path("answers/a.example")).unwrap();
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    assert!(error.contains("2 of 3 partitions"), "{error}");
    assert_eq!(dataset.verdicts("copied"), "a.example,1,flag,copied c.example,1,flag,copied");
    dataset.good_answer("a.example");
    tool("[0, 7]");
    project.ok(&["tool", "./copied.yaml"]);
    // What cannot be started at all ends at once, and says why.
    dataset.write("copied.yaml", "run: [no-such-program]");
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    assert!(error.contains("cannot start `no-such-program`: No such file"), "{error}");
    dataset.write("copied.yaml", "run: ./mine.sh {output} {server_name}");
    dataset.write("mine.sh", "#!/bin/sh\ncp answers/$2/* $1");
    fs::set_permissions(project.path("mine.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    project.ok(&["tool", "./copied.yaml"]);
}

/// Hangs for one server, and a child of its own with it; both have left their numbers.
const HANG: &str = r#"
    set -eu
    trap '' TERM
    if [ -e hang-$2 ]; then
        sh -c 'trap "" TERM; while :; do sleep 1; done' &
        echo $$ $! > pids.tmp
        mv pids.tmp pids
        wait
    fi
    cp answers/$2/* "$1"
"#;

impl Downloaded {
    fn hanging(&self, timeout: &str) {
        SERVERS.iter().for_each(|server| self.good_answer(server));
        self.copying(&format!("verdicts\ntimeout: {timeout}"));
        self.write("copy.sh", HANG);
        self.write("hang-b.example", "");
    }

    fn pids(&self) -> Vec<Pid> {
        let text = loop {
            match fs::read_to_string(self.project.path("pids")) {
                Ok(text) => break text,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }

    fn goes_on(&self) {
        fs::remove_file(self.project.path("hang-b.example")).unwrap();
        self.project.ok(&["tool", "./copied.yaml"]);
        assert_eq!(
            self.verdicts("copied"),
            SERVERS.map(|server| format!("{server},1,flag,copied")).join(" ")
        );
        assert_eq!(self.work_folders(), Vec::<PathBuf>::new());
    }
}

/// Whoever a killed process leaves behind is reaped by another, a moment later.
#[track_caller]
fn assert_gone(pids: &[Pid]) {
    for &pid in pids {
        let is_zombie = || {
            let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            status.is_ok_and(|status| status.contains(") Z "))
        };
        while test_kill_process(pid).is_ok() && !is_zombie() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_started() {
    let dataset = downloaded();
    dataset.hanging("1s");
    let error = dataset.fails(&["tool", "./copied.yaml"]);
    assert!(
        error.contains("`sh` was ended: it took longer than 1s") && error.contains("2 of 3 partitions"),
        "{error}"
    );
    assert_gone(&dataset.pids());
    dataset.goes_on();
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_stop_ends_commands_and_loses_nothing() {
    let dataset = downloaded();
    dataset.hanging("1h");
    let mut child = dataset.project.start(&["tool", "./copied.yaml"]);
    let pids = dataset.pids();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_gone(&pids);
    dataset.goes_on();
}

/// The command lived on, and the next run started a second one beside it.
#[test]
fn a_second_ctrl_c_ends_commands_too() {
    let dataset = downloaded();
    dataset.hanging("1h");
    let mut child = dataset.project.start(&["tool", "./copied.yaml"]);
    let pids = dataset.pids();
    // Closer ones are taken for one.
    while child.try_wait().unwrap().is_none() {
        signal(&child, Signal::INT);
        thread::sleep(Duration::from_millis(350));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_gone(&pids);
    dataset.goes_on();
}

/// As is what it has started.
#[test]
fn what_a_killed_tool_leaves_is_swept() {
    let dataset = downloaded();
    dataset.hanging("1h");
    let mut child = dataset.project.start(&["tool", "./copied.yaml"]);
    let pids = dataset.pids();
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_gone(&pids);
    let of_b = |folder: &PathBuf| folder.to_string_lossy().contains("b.example");
    assert!(dataset.work_folders().iter().any(of_b));
    dataset.goes_on();
}

/// Its verdicts were lost when the partition could be read again: the filter had left it out, and was not run again.
#[test]
fn damaged_partitions_are_set_aside_until_they_are_mended() {
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    dataset.copying("verdicts");
    let [b, c] = ["b.example", "c.example"].map(|server| dataset.successes(server));
    let whole = fs::read(&b).unwrap();
    fs::write(&b, &whole[..whole.len() / 2]).unwrap();
    fs::rename(&c, c.with_extension("gone")).unwrap();
    let in_a = ["a.example,2,remove,too_small", "a.example,1,flag,copied"];
    for _ in 0..2 {
        for (tool, verdict) in ["size", "copied.yaml"].iter().zip(in_a) {
            let error = dataset.fails(&["tool", tool]);
            assert!(error.contains("1 of 3 partitions"), "{error}");
            for (server, why) in [("b.example", "cannot read"), ("c.example", "No such file")] {
                let told = |line: &&str| line.contains("was set aside") && line.contains(server);
                let line = error.lines().find(told).unwrap_or_else(|| panic!("{error}"));
                assert!(line.contains(why) && line.contains("successes.parquet"), "{line}");
            }
            assert_eq!(dataset.verdicts(tool.trim_end_matches(".yaml")), verdict);
        }
    }
    fs::write(&b, &whole).unwrap();
    let of = |server: &str| format!("{server},2,remove,too_small");
    assert!(dataset.fails(&["tool", "size"]).contains("2 of 3 partitions"));
    assert_eq!(dataset.verdicts("size"), [of("a.example"), of("b.example")].join(" "));
    fs::rename(c.with_extension("gone"), &c).unwrap();
    project.ok(&["tool", "size"]);
    assert_eq!(dataset.verdicts("size"), SERVERS.map(of).join(" "));
    // What is done of a tool that chooses partitions stays.
    fs::remove_dir_all(project.path("answers/a.example")).unwrap();
    project.ok(&["tool", "copied.yaml"]);
    assert_eq!(dataset.verdicts("copied"), SERVERS.map(|server| format!("{server},1,flag,copied")).join(" "));
    project.ok(&["check", "--deep"]);
}

/// A page that did not decode ended the filter, at every try.
#[test]
fn a_damaged_page_costs_its_partition() {
    let dataset = downloaded();
    let path = dataset.successes("b.example");
    let whole = fs::read(&path).unwrap();
    let file = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
    let group = file.metadata().row_group(0);
    let mut bytes = whole.clone();
    for column in
        group.columns().iter().filter(|column| column.column_path().string().contains("original_size"))
    {
        let (start, length) = column.byte_range();
        bytes[start as usize..(start + length) as usize].fill(0xff);
    }
    fs::write(&path, bytes).unwrap();
    let of = |server: &str| format!("{server},2,remove,too_small");
    for _ in 0..2 {
        let error = dataset.fails(&["tool", "size"]);
        assert!(error.contains("2 of 3 partitions") && error.contains("b.example"), "{error}");
        assert!(error.contains("cannot read `"), "{error}");
        assert_eq!(dataset.verdicts("size"), [of("a.example"), of("c.example")].join(" "));
    }
    fs::write(&path, whole).unwrap();
    dataset.project.ok(&["tool", "size"]);
    assert_eq!(dataset.verdicts("size"), SERVERS.map(of).join(" "));
    dataset.project.ok(&["check", "--deep"]);
}

/// Sizes and bytes of nothing.
#[test]
fn an_image_of_no_size_is_small() {
    let dataset = downloaded();
    let path = dataset.successes("b.example");
    let rows = read_table(&path);
    let empty = |name: &str, column: &ArrayRef| -> ArrayRef {
        match name {
            "image" => Arc::new(BinaryArray::from_iter_values([b""; 3])),
            "original_size" | "resized_size" => {
                let lists = column.as_list::<i32>();
                let zeros = Arc::new(Int64Array::from(vec![0; 6]));
                let (field, offsets, _, nulls) = lists.clone().into_parts();
                Arc::new(arrow::array::ListArray::new(field, offsets, zeros, nulls))
            }
            _ => column.clone(),
        }
    };
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, column)| empty(field.name(), column)).collect();
    write_table(&path, &RecordBatch::try_new(schema.clone(), columns).unwrap());
    dataset.project.ok(&["tool", "size"]);
    let b = [0, 1, 2].map(|record| format!("b.example,{record},remove,too_small")).join(" ");
    let expected = format!("a.example,2,remove,too_small {b} c.example,2,remove,too_small");
    assert_eq!(dataset.verdicts("size"), expected);
}

/// The tool that the repository has as an example, with the Python of the tests.
#[test]
fn the_python_example_removes_what_has_no_colour() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin");
    if !python.join("python3").exists() {
        return skip("no .venv; `make test` makes it");
    }
    let dataset = downloaded();
    let folder = root.join("config/tools").display().to_string();
    let folder = format!("tools_parameters.custom_folder={folder}");
    let path = format!("{}:{}", python.display(), std::env::var("PATH").unwrap());
    let args = ["--set", &folder, "tool", "grey"];
    expect(&dataset.project.command(&args).env("PATH", path).output().unwrap(), 0, &args);
    assert_eq!(
        dataset.verdicts("grey"),
        SERVERS.map(|server| format!("{server},0,remove,no_colour")).join(" ")
    );
}

/// A program made of the library is a `ddl` with one more tool.
#[test]
fn the_rust_example_is_a_ddl_with_one_more_tool() {
    let example = Path::new(env!("CARGO_BIN_EXE_ddl")).with_file_name("examples").join("custom_tool");
    if !example.exists() {
        return skip("no examples; `cargo build --examples` builds them");
    }
    let dataset = downloaded();
    let ddl = |args: &[&str]| {
        let output = dataset.project.wrap(example.to_str().unwrap()).args(args).output().unwrap();
        expect(&output, 0, args)
    };
    ddl(&["tool", "colourless"]);
    assert_eq!(dataset.verdicts("dull"), SERVERS.map(|server| format!("{server},0,remove,dull")).join(" "));
    let list = ddl(&["tool", "--list"]);
    assert!(list.contains("dull") && list.contains("removes images with hardly any colour"), "{list}");
}

#[test]
fn a_command_runs_on_all_ranks_of_mpi() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let dataset = downloaded();
    let Downloaded { project, .. } = &dataset;
    SERVERS.iter().for_each(|server| dataset.good_answer(server));
    dataset.copying("verdicts");
    // Each waits until another has begun, and a rank has one at a time.
    dataset.write("begun/x", "");
    dataset.write(
        "copy.sh",
        "cp answers/$2/* \"$1\"\necho $OMPI_COMM_WORLD_RANK > begun/$2\n\
         while [ $(ls begun | wc -l) -lt 3 ]; do sleep 0.01; done\n\
         if [ $2 = b.example -a -e break ]; then exit 3; fi",
    );
    dataset.write("break", "");
    let args = ["tool", "./copied.yaml", "--set", "downloader_parameters.cpu_threads=1"];
    let output = project.mpi_command(3, &args).output().unwrap();
    assert!(!output.status.success());
    let error = stderr(&output);
    assert!(error.contains("exit code 3") && error.contains("2 of 3 partitions"), "{error}");
    let ranks: HashSet<_> = SERVERS
        .iter()
        .map(|server| fs::read_to_string(project.path(&format!("begun/{server}"))).unwrap())
        .collect();
    assert!(ranks.len() > 1, "{ranks:?}");
    fs::remove_file(project.path("break")).unwrap();
    expect(&project.mpi_command(3, &args).output().unwrap(), 0, &args);
    assert_eq!(dataset.verdicts("copied"), SERVERS.map(|server| format!("{server},1,flag,copied")).join(" "));
}
