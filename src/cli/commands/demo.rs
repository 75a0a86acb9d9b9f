use std::fs;
use std::path::{Path, PathBuf};

use super::super::args::{DemoArgs, GlobalArgs};
use super::super::progress::{DownloadProgress, IngestDisplay};
use super::super::{Exit, format, print_line};
use super::{download, list_text, status};
use crate::cluster::{ClusterOptions, launch};
use crate::config::{Chain, load};
use crate::demo::{DemoFarm, DemoOptions, FarmOptions};
use crate::dispatch::PublishedStatus;
use crate::export::ManifestOptions;
use crate::pipeline::{Dataset, DownloadEnding, PipelineError, dataset_status};
use crate::runtime::Shutdown;

/// Names that a demo leaves in its folder.
const LIST: &str = "multimedia.tsv";
const CONFIG: &str = "ddl.yaml";
const DATASET: &str = "dataset";

pub(super) fn run(global: &GlobalArgs, args: &DemoArgs) -> anyhow::Result<Exit> {
    let started = std::time::Instant::now();
    let folder = &args.folder;
    let elsewhere = |set: &String| set.starts_with("path_to_output_folder=");
    if global.dataset.is_some() || global.set.iter().any(elsewhere) {
        talk!("error: a demo has its dataset in its own folder");
        talk!("hint: `ddl demo DIR` chooses the folder");
        return Ok(Exit::Usage);
    }
    prepare(folder, args.force)?;

    step("1. An image server with eight museums starts on this machine; nothing leaves it.");
    let farm = DemoFarm::start(FarmOptions { demo: Some(DemoOptions::default()), ..FarmOptions::default() })?;
    let list = folder.join(LIST);
    let demo = farm.demo().ok_or_else(|| anyhow::anyhow!("the demo has no list"))?;
    demo.write_list(&list)?;
    let config = folder.join(CONFIG);
    fs::write(&config, configuration(folder, &farm)?)?;
    talk!(
        "   {} records in {}; the configuration is {}",
        demo.rows().len(),
        list.display(),
        config.display()
    );

    let mut overrides = global.overrides();
    overrides.list("INPUT", "path_to_input", vec![list.display().to_string()]);
    let chain = Chain { files: vec![config.clone()], overrides, ..Chain::default() };
    let dataset = Dataset::new(load(&chain).map_err(PipelineError::from)?)?;
    super::start_logging(global, &dataset, Some("demo".into()));

    step(&format!(
        "2. ddl ingest: the list becomes the catalog {} and a manifest.",
        dataset.layout.catalog().display()
    ));
    let mut display = IngestDisplay::new(global);
    let report = crate::pipeline::ingest(&dataset, &Shutdown::new(), &mut |progress| display.show(progress))?;
    display.clear();
    indent(&list_text::summary(&report));

    step("3. ddl download: every server at its own pace; one of them allows only few requests per second.");
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    let mut progress = DownloadProgress::new(global);
    let (ending, _) = crate::pipeline::download(&dataset, cluster, &Shutdown::new(), |_| {
        move |status: &PublishedStatus| progress.show(status)
    })?;
    let DownloadEnding::Coordinated(report) = &ending else { return Ok(Exit::Interrupted) };
    indent(&download::summary(report, &download::causes(&dataset, report)));
    if !ending.is_done() {
        talk!(
            "stopped; run `{} -c {} download` while a demo server runs, or start the demo again",
            program(),
            config.display()
        );
        return Ok(Exit::Resumable);
    }

    step("4. ddl status:");
    print_line(status::text(&dataset_status(&dataset)?, usize::MAX))?;

    step("5. ddl query: SQL over everything.");
    for sql in [
        "SELECT disposition, cause, count(*) AS records FROM urls GROUP BY ALL ORDER BY records DESC, cause",
        "SELECT image_format, count(*) AS images, sum(image_bytes) AS bytes FROM images GROUP BY 1 ORDER BY 2 DESC, 1",
    ] {
        talk!("   {sql}");
        super::query::answer(&dataset, sql)?;
    }

    let manifest = folder.join("images.parquet");
    step(&format!("6. ddl export manifest -o {}: one row per image.", manifest.display()));
    let options = ManifestOptions { output: manifest, ..ManifestOptions::default() };
    let report = super::export::manifest(&dataset, &options)?;
    talk!("   {} rows", format::count(report.file.num_rows));

    talk!(
        "\nDone in {}. Everything is in {}; try\n  {program} -c {} query\n  {program} -c {} check --deep",
        format::duration(started.elapsed()),
        folder.display(),
        config.display(),
        config.display(),
        program = program()
    );
    Ok(Exit::Done)
}

fn step(text: &str) {
    talk!("\n{text}");
}

fn indent(text: &str) {
    for line in text.lines() {
        talk!("   {line}");
    }
}

/// How this program is started from here: by its name where the shell has found it by that.
fn program() -> String {
    let started_as = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let by_name = |path: &PathBuf| path.components().count() == 1;
    match (std::env::current_exe(), std::env::current_dir()) {
        _ if by_name(&started_as) => started_as.display().to_string(),
        (Ok(exe), Ok(here)) => match exe.strip_prefix(&here) {
            Ok(below) => below.display().to_string(),
            Err(_) => exe.display().to_string(),
        },
        _ => "ddl".into(),
    }
}

/// Makes the folder; an earlier demo in it is replaced only when asked for.
fn prepare(folder: &Path, force: bool) -> anyhow::Result<()> {
    let config = folder.join(CONFIG);
    if config.exists() {
        let is_demo = fs::read_to_string(&config).is_ok_and(|text| text.starts_with(HEADER));
        anyhow::ensure!(is_demo, "`{}` is not of a demo; choose another folder", config.display());
        anyhow::ensure!(force, "there is a demo in `{}`; `--force` replaces it", folder.display());
        let dataset = folder.join(DATASET);
        if dataset.exists() {
            fs::remove_dir_all(&dataset)?;
        }
    }
    fs::create_dir_all(folder)
        .map_err(|error| anyhow::anyhow!("cannot create folder `{}`: {error}", folder.display()))
}

const HEADER: &str = "# Written by `ddl demo`";

fn configuration(folder: &Path, farm: &DemoFarm) -> anyhow::Result<String> {
    let folder = std::path::absolute(folder)?;
    let quoted = |path: &Path| serde_json::to_string(&path.display().to_string());
    Ok(format!(
        "{HEADER}. The server that it downloaded from ended with it.\n\
         path_to_input: {}\n\
         path_to_output_folder: {}\n\
         initializer_type: gbif\n\
         columns: {{label: scientificName}}\n\
         user_agent: \"ddl-demo/{} (demo@ddl.example)\"\n\
         # The list's servers do not exist: all requests go to the demo server.\n\
         connect_to: [\"::{}\"]\n\
         downloader_parameters: {{default_rate_limit: 100, image_size: 512}}\n",
        quoted(&folder.join(LIST))?,
        quoted(&folder.join(DATASET))?,
        env!("CARGO_PKG_VERSION"),
        farm.addr(),
    ))
}
