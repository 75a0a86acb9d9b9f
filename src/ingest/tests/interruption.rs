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
fn writing_is_shown_from_its_first_row_to_its_last() {
    let dataset = Dataset::new();
    let path = dataset.write("list.csv", wide_list());
    let mut seen = Vec::new();
    let mut progress = |now: IngestProgress| {
        if now.stage == IngestStage::Writing {
            seen.push((now.rows, now.rows_total));
        }
    };
    let catalog = &dataset.catalog;
    ingest(&[path], &small(40), &dataset.layout(), catalog, &Shutdown::new(), &mut progress).unwrap();
    assert_eq!(seen[0], (0, Some(6000)));
    assert_eq!(seen[seen.len() - 1], (6000, Some(6000)));
    assert!(seen.is_sorted());
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
        assert!(dataset.files() == undisturbed.files(), "killed at commit {killed_at}");
    }
}
