//! Ingests that are stopped or killed.

use super::*;

#[test]
fn a_stopped_ingest_leaves_no_trace_and_goes_on() {
    let options = small(40);
    let undisturbed = Dataset::new();
    let path = undisturbed.write("list.csv", wide_list());
    undisturbed.ingest(std::slice::from_ref(&path), &options).unwrap();
    for stage in [IngestStage::Reading, IngestStage::Writing] {
        let dataset = Dataset::new();
        let stopped = dataset.ingest_stopped(&path, &options, |now| now.stage == stage);
        assert!(matches!(stopped, Err(IngestError::Stopped)), "{stage:?}");
        assert!(dataset.partitions().len() < undisturbed.partitions().len(), "{stage:?}");
        assert!(!dataset.layout().urls().join("_ingest-tmp").exists(), "{stage:?}");
        assert_eq!(dataset.files().keys().filter(|path| path.to_string_lossy().contains(".tmp")).count(), 0);
        dataset.ingest(std::slice::from_ref(&path), &options).unwrap();
        assert!(dataset.state() == undisturbed.state(), "{stage:?}");
    }
}

#[test]
fn no_input_is_read_any_further_after_a_stop() {
    let dataset = Dataset::new();
    let path = dataset.write("list.csv", "url\nhttp://a/1\n");
    let shutdown = Shutdown::new();
    let meter = Arc::new(raw_batch::ReadMeter::new(shutdown.clone()));
    let input = input::Input { path, format: None };
    let mut opened = input::open_bytes(&input, &meter).unwrap();
    shutdown.request(StopReason::Interrupt);
    assert!(input::open_bytes(&input, &meter).is_err());
    assert!(std::io::copy(&mut opened.stream, &mut std::io::sink()).is_err());
}

#[test]
fn killed_and_run_again_equals_undisturbed() {
    let list = wide_list();
    let options = IngestOptions { max_server_folders: 30, share_servers_below: 150, ..small(40) };
    let undisturbed = Dataset::new();
    let path = undisturbed.write("list.csv", &list);
    undisturbed.ingest(std::slice::from_ref(&path), &options).unwrap();
    let num_commits = undisturbed.partitions().len().div_ceil(32) as u32;
    assert!(num_commits > 3);
    for killed_at in 0..num_commits {
        let dataset = Dataset::new();
        dataset.catalog.fail_after_commits(Some(killed_at));
        let error = dataset.ingest(std::slice::from_ref(&path), &options).unwrap_err();
        assert!(matches!(error, IngestError::Catalog(_)), "{error}");
        dataset.catalog.fail_after_commits(None);
        let report = dataset.ingest(std::slice::from_ref(&path), &options).unwrap();
        assert_eq!(report.records_gone, 0);
        assert!(dataset.state() == undisturbed.state(), "killed at commit {killed_at}");
        let manifest = |dataset: &Dataset| {
            let files = dataset.files().into_iter();
            files.filter(|(path, _)| !path.to_string_lossy().contains("_duplicates")).collect::<Vec<_>>()
        };
        assert!(manifest(&dataset) == manifest(&undisturbed), "killed at commit {killed_at}");
    }
}
