//! Files of distributed-downloader and FLOW-DC load as they are.

use super::*;

#[test]
fn a_file_of_distributed_downloader_loads_unchanged() {
    let resolved = load_file("tests/fixtures/dd_config.yaml");
    let settings = Settings::of(&resolved).unwrap();
    assert_eq!(settings.account.as_deref(), Some("PAS1234"));
    assert_eq!(settings.inputs().unwrap(), [PathBuf::from("/fs/scratch/plants/occurrence_media.csv")]);
    assert_eq!(settings.schedule_rules.len(), 7);
    assert_eq!(settings.schedule_rules[&5000], 40);
    assert_eq!(contact_of(&settings).unwrap().as_str(), "plants-project/1.0 (curator@plants.example)");
    // 0 is what its example file has for "not set".
    assert_eq!(settings.downloader_parameters.num_downloads, 1);
    assert_eq!(settings.downloader_parameters.workers_per_node, 20);
    assert_eq!(settings.tools_parameters.new_resize_size, 224);
    assert_eq!(resolved.read::<f64>("downloader_parameters.rate_multiplier").unwrap(), 0.8);
    assert_eq!(resolved.read::<Option<PathBuf>>("excluded_servers_path").unwrap(), None);
    assert_eq!(resolved.read::<Vec<String>>("included_sources").unwrap(), ["gbif", "bioscan"]);
    assert_eq!(
        resolved.read::<PathBuf>("scripts.download_script").unwrap(),
        PathBuf::from("scripts/server_downloading.slurm")
    );
    assert!(!resolved.read::<bool>("slurm_parameters.use_scripts").unwrap(), "they would start its programs");
    assert_eq!(resolved.notices(), []);
}

#[test]
fn a_file_of_flow_dc_loads_unchanged() {
    let resolved = load_file("tests/fixtures/flow_dc_config.json");
    let settings = Settings::of(&resolved).unwrap();
    assert_eq!(settings.inputs().unwrap(), [PathBuf::from("files/input/biotrove_0001.parquet")]);
    // The folder of images is not the dataset: that has more in it.
    assert_eq!(settings.output_folder().unwrap(), &PathBuf::from("files/output/biotrove_0001.ddl"));
    assert_eq!(
        resolved.read::<PathBuf>("export_parameters.output").unwrap(),
        PathBuf::from("files/output/biotrove_0001")
    );
    assert_eq!(resolved.read::<Option<String>>("columns.url").unwrap().as_deref(), Some("photo_url"));
    assert_eq!(resolved.read::<Option<String>>("columns.label").unwrap(), None);
    assert_eq!(resolved.read::<u32>("downloader_parameters.max_in_flight").unwrap(), 256);
    assert_eq!(
        resolved.read::<Duration>("downloader_parameters.request_timeout").unwrap(),
        Duration::from_secs(30)
    );
    assert_eq!(resolved.read::<u32>("downloader_parameters.max_attempts").unwrap(), 3);
    assert_eq!(resolved.read::<u32>("paarc.C_max").unwrap(), 2000);
    assert_eq!(resolved.notices().len(), 5, "what `adaptive` has no use for");
}

#[test]
fn what_flow_dc_exports_is_read() {
    let text = "{\"output_format\": \"webdataset\", \"naming_mode\": \"row_id\", \"file_name_pattern\": null, \
                \"create_tar\": false, \"compress_tar\": null, \"create_overview\": false, \"croissant\": \"basic_croissant\", \
                \"dataset_name\": \"Birds\", \"dataset_description\": \"of a feather\", \"dataset_license\": \"CC0\", \
                \"dataset_creator\": \"Ann\", \"dataset_url\": \"https://b.example\", \"dataset_version\": \"2.0\", \
                \"dataset_citation\": \"Ann 2026\", \"dataset_keywords\": \"birds, flocks\"}";
    let resolved = parse("flow.json", text).unwrap();
    let value = |key: &str| shown(&resolved, &format!("export_parameters.{key}"));
    assert_eq!(value("output_format"), "webdataset (flow.json:1)");
    assert_eq!(value("naming_mode"), "uuid (flow.json:1)");
    assert_eq!(value("compress_tar"), "true (flow.json:1)");
    assert_eq!(value("croissant"), "basic_croissant (flow.json:1)");
    assert_eq!(value("dataset_version"), "\"2.0\" (flow.json:1)");
    assert_eq!(resolved.notices(), []);
}

#[test]
fn flow_dc_files_of_all_its_programs_load() {
    let resolve = |text: &str| parse("flow.json", text).unwrap();
    let timeout = |text: &str| {
        let resolved = resolve(text);
        let notices: Vec<String> = resolved.notices().iter().map(ToString::to_string).collect();
        (shown(&resolved, "downloader_parameters.request_timeout"), notices.join("\n"))
    };
    // The manager reads `timeout_sec`, and `timeout` where that is not there.
    let (value, notices) = timeout("{\"timeout\": 3,\n\"timeout_sec\": 4}");
    assert_eq!(value, "4s (flow.json:2)");
    assert_eq!(
        notices,
        "flow.json:1: `timeout` has no effect: another of FLOW-DC's names for the same is set"
    );
    assert_eq!(timeout("{\"timeout_sec\": null,\n\"timeout\": 3}").0, "3s (flow.json:2)");
    assert_eq!(timeout("{\"timeout\": 3,\n\"timeout_sec\": null}").0, "3s (flow.json:1)");
    assert_eq!(timeout("{\"timeout\": null,\n\"timeout_sec\": null}").0, "2m (flow.json:2)");

    let resolved = resolve("{\"max_retry_attempts\": 0, \"input_format\": \"auto\"}");
    assert_eq!(resolved.read::<u32>("downloader_parameters.max_attempts").unwrap(), 1);
    assert_eq!(resolved.read::<Option<String>>("ingest_parameters.input_format").unwrap(), None);

    let split = "{\"parquet\": \"all.parquet\", \"url_col\": \"photo_url\", \"groups\": 8, \"output_folder\": \"parts\", \
                 \"method\": \"greedy\", \"grouping_col\": \"taxon_name\", \"output_format\": \"parquet\"}";
    let resolved = resolve(split);
    assert_eq!(Settings::of(&resolved).unwrap().inputs().unwrap(), [PathBuf::from("all.parquet")]);
    assert_eq!(resolved.notices().len(), 3, "groups, method, grouping_col");

    let outputs = |text: &str| {
        let resolved = resolve(text);
        let read = |key| resolved.read::<PathBuf>(key).unwrap().display().to_string();
        (read("export_parameters.output"), read("path_to_output_folder"))
    };
    let check = |text: &str, export: &str, dataset: &str| {
        assert_eq!(outputs(text), (export.to_owned(), dataset.to_owned()), "{text}");
    };
    check("{\"output\": \"files/a/\"}", "files/a", "files/a.ddl");
    check("{\"output\": \"files/a.tar.gz\"}", "files/a", "files/a.ddl");
    check("{\"output_directory\": \"files\"}", "files/output", "files/output.ddl");
    check("{\"output\": \"a\", \"path_to_output_folder\": \"b\"}", "a", "b");
    check("{\"path_to_output_folder\": \"b\", \"output\": \"a\"}", "a", "b");
}

#[test]
fn the_controllers_of_flow_dc_keep_their_names() {
    let text = "{\"rate_control\": \"paarc\", \"enable_paarc\": true, \"C_init\": 8, \"C_min\": 2, \"C_max\": 2000, \
                \"mu\": 1.0, \"beta\": 0.7, \"theta_50\": 1.5, \"theta_95\": 2.0, \"startup_theta_50\": 3.0, \
                \"startup_theta_95\": 4.0, \"probe_rtt_period\": 30.0, \"rtprop_window\": 35, \"cooldown_floor\": 2.0, \
                \"alpha_ema\": 0.3, \"rate_limit\": 50.5, \"rate_capacity\": 200, \"enable_rate_limiting\": false}";
    let resolved = parse("flow.json", text).unwrap();
    let options: FetchOptions = resolved.section(&["downloader_parameters", ""], &[("headers", "")]).unwrap();
    let paarc = PaarcOptions {
        c_init: 8,
        c_max: 2000,
        mu: 1.0,
        beta: 0.7,
        probe_rtt_period: Duration::from_secs(30),
        ..PaarcOptions::default()
    };
    assert_eq!((options.rate_control, options.paarc), (RateControl::Paarc, paarc));
    assert_eq!((options.aimd.rate_limit, options.aimd.enable_rate_limiting), (50.5, false));
    let notices: Vec<String> = resolved.notices().iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 2, "of the bucket: {notices:?}");
    assert!(notices[0].ends_with("it is for `rate_control: aimd`, and no server has that"), "{notices:?}");

    let dd = parse("ddl.yaml", "paarc: {C_init: 8}\nservers: {a.org: {rate_control: paarc}}").unwrap();
    assert_eq!((shown(&dd, "paarc.C_init").as_str(), dd.notices().len()), ("8 (ddl.yaml:1)", 0));
}
