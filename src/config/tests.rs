//! The room as a whole: files in, values and messages out.

mod predecessors;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fetch::rate::{PaarcOptions, RateControl};
use crate::fetch::{FetchOptions, ProxyUrl, ServerRule};

/// A chain over one text, as if it were the file `ddl.yaml`.
fn error_of(text: &str) -> String {
    parse("ddl.yaml", text).unwrap_err().to_string()
}

fn repository_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn load_file(path: &str) -> Resolved {
    load(&Chain { files: vec![repository_file(path)], ..Chain::default() }).unwrap()
}

fn shown(resolved: &Resolved, key: &str) -> String {
    let line = show(resolved).into_iter().find(|shown| shown.key == key).unwrap();
    format!("{} ({})", line.value, line.origin)
}

#[test]
fn defaults_are_valid_and_assemble() {
    let resolved = parse("none", "").unwrap();
    let settings = Settings::of(&resolved).unwrap();
    assert_eq!(settings.output_structure.images_folder, PathBuf::from("downloaded_images"));
    assert_eq!(settings.tools_parameters.threshold_size, 224);
    assert!(show(&resolved).iter().all(|shown| matches!(shown.origin, Origin::Default | Origin::Known)));
}

#[test]
fn defaults_of_the_table_are_those_of_the_fetcher() {
    let resolved = parse("none", "").unwrap();
    let options: FetchOptions = resolved.section(&["downloader_parameters", ""], &[("headers", "")]).unwrap();
    assert_eq!(options, FetchOptions::default());
}

#[test]
fn servers_join_file_by_file_and_say_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let first =
        file("1.yaml", "servers:\n  A.org: {rate_limit: 1}\n  b.org: {max_connections: 2, source: mail}\n");
    let second = file("2.yaml", "\nservers: {a.org: {rate_limit: 5, rate_control: fixed}}\n");
    let resolved = load(&Chain { files: vec![first, second], ..Chain::default() }).unwrap();
    let line = |server: &str| shown(&resolved, &format!("servers.{server}"));
    assert!(line("a.org").starts_with("{rate_control: fixed, rate_limit: 5} ("), "{}", line("a.org"));
    assert!(line("a.org").ends_with("2.yaml:2)"), "{}", line("a.org"));
    assert!(line("b.org").ends_with("1.yaml:1)"), "{}", line("b.org"));
    assert!(line("upload.wikimedia.org").contains("known to ddl"));
    assert_eq!(parse("stored", &to_yaml(&resolved)).unwrap().get("servers"), resolved.get("servers"));

    let third = file("3.yaml", "servers:\n");
    let files = ["1.yaml", "3.yaml"].map(|name| folder.path().join(name)).to_vec();
    drop(third);
    assert_eq!(
        load(&Chain { files, ..Chain::default() }).unwrap().get("servers"),
        Some(&Value::Map([].into()))
    );
    assert_eq!(
        error_of("servers:\n  a.org: {rate_limt: 3}\n"),
        "ddl.yaml:2: `servers` is a rule with the unknown key `rate_limt`, expected servers and rules, such as \
         `{example.org: {rate_limit: 2, max_connections: 1}}`\n  hint: did you mean `rate_limit`?"
    );
}

#[test]
fn what_ddl_knows_of_servers_has_sources_and_can_be_used() {
    let known = known_servers().unwrap();
    assert!(known.notices().is_empty());
    let Some(Value::Map(servers)) = known.get("servers") else { panic!("a mapping") };
    assert!(servers.len() >= 17, "{}", servers.len());
    for (server, rule) in servers {
        let Value::Map(rule) = rule else { panic!("a mapping") };
        assert!(rule.contains_key("source"), "{server}");
    }
    let rules: BTreeMap<String, ServerRule> = known.read("servers").unwrap();
    let rule = |server: &str| (rules[server].rate_limit, rules[server].max_connections);
    assert_eq!(rule("upload.wikimedia.org"), (Some(10.0), Some(2)));
    assert_eq!(rule("inaturalist-open-data.s3.amazonaws.com"), (None, None));
    let media = rules["static.inaturalist.org"];
    assert_eq!((media.bytes_per_hour, media.bytes_per_day), (Some(5_000_000_000), Some(24_000_000_000)));
    assert_eq!(
        load_file("config/servers.yaml").get("servers"),
        known.get("servers"),
        "or as a file of one's own"
    );
}

#[test]
fn more_than_the_most_counts_as_the_most() {
    let resolved = parse("ddl.yaml", "downloader_parameters:\n  rate_multiplier: 1.5\n").unwrap();
    assert_eq!(resolved.read::<f64>("downloader_parameters.rate_multiplier").unwrap(), 1.0);
    let notices: Vec<String> = resolved.notices().iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        ["ddl.yaml:2: `downloader_parameters.rate_multiplier` counts as `1`: no rate falls below 0"]
    );
}

#[test]
fn kinds_of_lists_are_those_of_the_ingest() {
    let Kind::Choice(words) = KEYS.iter().find(|key| key.path == "initializer_type").unwrap().kind else {
        panic!("not a choice")
    };
    let named: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    let known: Vec<&str> = crate::ingest::SOURCES.iter().map(|source| source.name()).collect();
    assert_eq!(named, known);
    insta::assert_snapshot!(error_of("initializer_type: gbfi\n"), @r"
    ddl.yaml:1: `initializer_type` is `gbfi`, expected one of `generic`, `gbif`, `eol`, `fathom_net`, `lila`, `tol200m_general`, `tol200m_fathomNet`
      hint: did you mean `gbif`?
    ");
}

#[test]
fn limits_are_those_of_the_ingest() {
    insta::assert_snapshot!(error_of("\ningest_parameters: {max_row_bytes: 512 MiB}\n"), @"ddl.yaml:2: `ingest_parameters.max_row_bytes` is `512 MiB`, expected a size from 1 KiB to 256 MiB, such as `64 MiB` or `100MB`");
}

#[test]
fn later_sources_win_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    std::fs::write(
        &first,
        "user_agent: a@x.org\naccount: a\ndownloader_parameters:\n  batch_size: 1\n  max_nodes: 9\n",
    )
    .unwrap();
    std::fs::write(&second, "account: b\ndownloader_parameters: {batch_size: 2, max_redirects: 0}\n")
        .unwrap();
    let mut overrides = Overrides::default();
    overrides.set("downloader_parameters.batch_size=4");
    overrides.set("downloader_parameters.max_nodes=");
    overrides.list("INPUT", "path_to_input", vec!["[a].csv".to_owned(), "b.csv".to_owned()]);
    let environment = Environment::of([
        ("DDL_DOWNLOADER_PARAMETERS__BATCH_SIZE", "3"),
        ("DDL_DOWNLOADER_PARAMETERS__MAX_REDIRECTS", "7"),
        ("DDL_ACCOUNT", ""),
        ("DDL_INCLUDED_SOURCES", "[x, y]"),
        ("DDL_USERAGENT", "typo"),
        ("HOME", "elsewhere"),
    ]);
    let chain = Chain { files: vec![first.clone(), second.clone()], environment, overrides };
    let resolved = load(&chain).unwrap();
    let check = |key: &str, expect: &str| assert_eq!(shown(&resolved, key), expect);
    check("downloader_parameters.batch_size", "4 (--set)");
    check(
        "downloader_parameters.max_redirects",
        "7 (environment variable `DDL_DOWNLOADER_PARAMETERS__MAX_REDIRECTS`)",
    );
    check("downloader_parameters.max_nodes", "1 (--set)");
    check("account", &format!("b ({}:1)", second.display()));
    check("user_agent", &format!("\"a@x.org\" ({}:1)", first.display()));
    check("included_sources", "[x, \"y\"] (environment variable `DDL_INCLUDED_SOURCES`)");
    check("path_to_input", "[\"[a].csv\", b.csv] (INPUT)");
    check("hash_algorithm", "blake3 (default)");
    let notices: Vec<String> = resolved.notices().iter().map(ToString::to_string).collect();
    assert_eq!(notices, ["environment variable `DDL_USERAGENT` is no key, did you mean `DDL_USER_AGENT`?"]);
}

#[test]
fn proxies_come_from_the_variables_that_others_use() {
    let all = [
        ("HTTPS_PROXY", "me:secret@s.example:3128"),
        ("ALL_PROXY", "http://all.example"),
        ("http_proxy", ""),
        ("NO_PROXY", "a.org, .b.org 10.0.0.0/8"),
        ("no_proxyy", "x"),
    ];
    let load = |text: &str, variables: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ddl.yaml");
        std::fs::write(&path, text).unwrap();
        let environment = Environment::of(variables.iter().copied());
        load(&Chain { files: vec![path], environment, ..Chain::default() }).unwrap()
    };
    let fetch = |resolved: &crate::config::Resolved| -> FetchOptions {
        resolved.section(&["downloader_parameters", ""], &[("headers", "")]).unwrap()
    };
    let resolved = load("{}", &all);
    let check = |key: &str, expect: &str| assert_eq!(shown(&resolved, key), expect);
    check("https_proxy", "\"http://***@s.example:3128\" (environment variable `HTTPS_PROXY`)");
    check("http_proxy", "\"http://all.example\" (environment variable `ALL_PROXY`)");
    check("no_proxy", "[a.org, \".b.org\", \"10.0.0.0/8\"] (environment variable `NO_PROXY`)");
    assert!(resolved.notices().is_empty());
    let options = fetch(&resolved);
    assert_eq!(options.https_proxy, Some(ProxyUrl::new("http://me:secret@s.example:3128")));
    assert_eq!(options.no_proxy, ["a.org", ".b.org", "10.0.0.0/8"]);
    assert!(!format!("{options:?}").contains("secret"));
    assert!(!to_yaml(&resolved).contains("secret"));
    // The other ranks have an environment of their own, which does not count.
    let at_rank = parse("stored", &to_yaml_for_ranks(&resolved)).unwrap();
    assert_eq!(fetch(&at_rank), options);

    let own = load("http_proxy: none\nhttps_proxy: http://own.example\nno_proxy: []\n", &all);
    let options = fetch(&own);
    assert_eq!((options.http_proxy, options.no_proxy), (None, vec![]));
    assert_eq!(options.https_proxy, Some(ProxyUrl::new("own.example")));
    assert_eq!(fetch(&parse("stored", &to_yaml_for_ranks(&own)).unwrap()).http_proxy, None);
    assert!(
        to_yaml(&own).contains("http_proxy: none\n"),
        "nothing would be taken from the environment again"
    );

    // It stops a download, for otherwise the proxy would be passed by, but not `ddl query`.
    let unusable = load("{}", &[("all_proxy", "socks5://me:secret@s.example")]);
    let error = fetch(&unusable).validate().unwrap_err().to_string();
    assert!(
        error.starts_with("`http_proxy` is a proxy that speaks `socks5`") && !error.contains("secret"),
        "{error}"
    );
    assert_eq!(
        error_of("http_proxy: socks5://me:secret@s.example\n"),
        "ddl.yaml:1: `http_proxy` is something else, expected `environment`, `none`, or the URL of a proxy such as \
         `http://proxy.example:3128`"
    );
}

#[test]
fn a_file_that_is_named_must_exist() {
    let missing = PathBuf::from("no/such/ddl.yaml");
    let by_flag = load(&Chain { files: vec![missing], ..Chain::default() }).unwrap_err();
    assert!(by_flag.to_string().starts_with("cannot read configuration `no/such/ddl.yaml`: "), "{by_flag}");
    assert_eq!(by_flag.hint().as_deref(), Some("`ddl init` writes a file to start from"));
    let environment = Environment::of([("DDL_CONFIG", "no/such/ddl.yaml")]);
    assert!(load(&Chain { environment, ..Chain::default() }).is_err());
    // The working folder of tests has no ddl.yaml.
    assert!(load(&Chain::default()).is_ok());
}

#[test]
fn problems_are_told_all_at_once() {
    insta::assert_snapshot!(error_of(
        "path_to_input: {a: b}\n\
         downloader_parameters:\n  batch_sise: 10000\n  batch_size: many\n  max_in_flight: 1000000\n  header: 'true'\n  \
         connect_timeout: 10 s\n  max_body_bytes: 64M\n  connect_timeout: 20s\n\
         batch_size: 5\n\
         tools_parameters: 7\n\
         output_structure.logs_folder: logs\n\
         schedule_rules: {1: 1,\n  100: x}\n\
         output_structure:\n  tools_folder: ../tools\n\
         connect_to: [\"a:b\"]\n\
         image_encoding: jpg\n\
         \"\\e[31mred\": 1\n"
    ), @r"
    ddl.yaml:1: `path_to_input` is a mapping, expected a text or a list of texts
    ddl.yaml:3: unknown key `downloader_parameters.batch_sise`
      hint: did you mean `downloader_parameters.batch_size`?
    ddl.yaml:4: `downloader_parameters.batch_size` is `many`, expected a whole number from 1 to 1000000
    ddl.yaml:5: `downloader_parameters.max_in_flight` is `1000000`, expected a whole number from 1 to 100000
    ddl.yaml:6: `downloader_parameters.header` is `true`, expected one header, `Name: value`
    ddl.yaml:8: `downloader_parameters.max_body_bytes` is `64M`, expected a size from 1 to 4 GiB, such as `64 MiB` or `100MB`
    ddl.yaml:9: `downloader_parameters.connect_timeout` is set a second time (first on line 7)
    ddl.yaml:10: unknown key `batch_size`
      hint: did you mean `downloader_parameters.batch_size`?
    ddl.yaml:11: `tools_parameters` is a single value or a list, expected a mapping of keys below it
    ddl.yaml:12: unknown key `output_structure.logs_folder`
      hint: write `output_structure:` and, indented below it, `logs_folder: ...`
    ddl.yaml:14: `schedule_rules` is `x`, expected a mapping of positive numbers, such as `{1: 1, 1000: 4}`
    ddl.yaml:16: `output_structure.tools_folder` is `../tools`, expected a relative path below the output folder, without `..`
    ddl.yaml:17: `connect_to` is `a:b`, expected `HOST1:PORT1:HOST2:PORT2` or a list of such
    ddl.yaml:18: `image_encoding` is `jpg`, expected one of `auto`, `original`, `jpeg`, `png`, `webp`, `raw`
      hint: did you mean `jpeg`?
    ddl.yaml:19: unknown key `\u{1b}[31mred`
    ");
}

#[test]
fn flags_and_variables_are_told_by_name() {
    let mut overrides = Overrides::default();
    overrides.set("batchsize");
    overrides.set("batchsize=7");
    overrides.set("downloader_parameters.image_size=-1");
    overrides.flag("--rate", "downloader_parameters.default_rate_limit", "fast");
    let environment = Environment::of([("DDL_ALLOW_PRIVATE_NETWORKS", "maybe")]);
    let error = load(&Chain { environment, overrides, ..Chain::default() }).unwrap_err();
    insta::assert_snapshot!(error, @r"
    environment variable `DDL_ALLOW_PRIVATE_NETWORKS`: `allow_private_networks` is `maybe`, expected `true` or `false`
    --set: `batchsize` is not an assignment, expected `key.path=value`
    --set: unknown key `batchsize`
      hint: did you mean `downloader_parameters.batch_size`?
    --set: `downloader_parameters.image_size` is `-1`, expected a whole number from 0 to 65535
    --rate: `downloader_parameters.default_rate_limit` is `fast`, expected a number from 0 to 10000
    ");
    assert_eq!(error.problems().len(), 5);
}

#[test]
fn rules_between_keys_are_told() {
    insta::assert_snapshot!(error_of(
        "image_encoding: original\n\
         schedule_rules: {10: 2}\n\
         downloader_parameters:\n  image_size: 224\n  max_image_pixels: 1000000000\n\
         output_structure: {logs_folder: tools}\n"
    ), @r"
    ddl.yaml:1: `image_encoding: original` keeps every image as it is, but `downloader_parameters.image_size` is 224
      hint: `image_encoding: auto` keeps images that need no resize; `image_size: 0` resizes none
    ddl.yaml:5: `downloader_parameters.decode_memory` (512 MiB) is too small for `downloader_parameters.max_image_pixels` (1000000000)
      hint: a decoded pixel takes 3 bytes: raise `decode_memory` or lower `max_image_pixels`
    ddl.yaml:2: `schedule_rules` has no rule for 1: servers with few partitions would never be asked
      hint: add `1: 1`
    ddl.yaml:6: `output_structure.tools_folder` and `output_structure.logs_folder` are both `tools`
      hint: each needs a place of its own
    ");
}

/// `images_folder: catalog.redb` made a folder where the catalog should be.
#[test]
fn names_in_the_output_are_apart_and_not_ours() {
    insta::assert_snapshot!(error_of(
        "output_structure:\n  images_folder: catalog.redb\n  urls_folder: status/urls\n  \
         logs_folder: catalog.redb.lock\n  tools_folder: catalog.redb/tools\n  ignored_table: schedules/a.csv\n"
    ), @r"
    ddl.yaml:3: `output_structure.urls_folder` is `status/urls`, which ddl itself keeps there
      hint: each needs a place of its own
    ddl.yaml:4: `output_structure.logs_folder` is `catalog.redb.lock`, which ddl itself keeps there
      hint: each needs a place of its own
    ddl.yaml:2: `output_structure.images_folder` is `catalog.redb`, which ddl itself keeps there
      hint: each needs a place of its own
    ddl.yaml:5: `output_structure.tools_folder` is `catalog.redb/tools`, which ddl itself keeps there
      hint: each needs a place of its own
    ddl.yaml:5: `output_structure.tools_folder` (`catalog.redb/tools`) lies within `output_structure.images_folder` (`catalog.redb`)
      hint: each needs a place of its own
    ");
}

#[test]
fn syntax_errors_are_located() {
    let check = |text: &str, expect: &str| assert_eq!(error_of(text), expect);
    check("a: [1\nb: 2\n", "ddl.yaml:2: not valid YAML: illegal placement of ':' indicator");
    check("- a\n- b\n", "ddl.yaml:1: not valid YAML: expected a mapping of keys to values");
    check(
        "timeout: 3\ndownloader_parameters: {request_timeout: 4}\n",
        "ddl.yaml:2: `downloader_parameters.request_timeout` is set a second time (first on line 1)",
    );
    check(&" ".repeat(5 << 20), "ddl.yaml: the file is larger than 4194304 bytes");
}

#[test]
fn hostile_files_end_quickly() {
    let many_unknown: String = (0..50_000).map(|i| format!("key{i}: 1\n")).collect();
    let message = error_of(&many_unknown);
    assert!(message.ends_with("and 49980 more"), "{}", &message[message.len() - 40..]);
    assert!(message.len() < 4000);
    let long_key = format!("{}: 1\n", "k".repeat(1000));
    assert!(error_of(&long_key).len() < 200);
    let long_value = format!("hash_algorithm: {}\n", "v".repeat(1 << 20));
    assert!(error_of(&long_value).len() < 200);
}

#[test]
fn downloads_without_a_contact_say_how_to_name_one() {
    let settings = Settings::of(&parse("t", "user_agent: Mozilla/5.0").unwrap()).unwrap();
    let error = contact_of(&settings).unwrap_err();
    insta::assert_snapshot!(format!("error: {error}\nhint: {}", error.hint().unwrap()), @r"
    error: the user agent `Mozilla/5.0` has no contact: servers must be able to see whom to write to
    hint: set `user_agent`, for instance `user_agent: my-project/1.0 (me@institute.org)`; an e-mail address or a URL is needed
    ");
}

#[test]
fn what_is_stored_reads_back() {
    for path in ["config/default.yaml", "config/slurm.yaml", "tests/fixtures/dd_config.yaml"] {
        let resolved = load_file(path);
        let again = parse("stored", &to_yaml(&resolved)).unwrap();
        let values = |resolved: &Resolved| show(resolved).into_iter().map(|s| s.value).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&resolved), "{path}");
    }
}

/// Holds a file of the repository equal to what the code makes of it; with `DDL_TEST_WRITE` set,
/// writes it instead.
fn hold(path: &str, text: &str) {
    let file = repository_file(path);
    if std::env::var_os("DDL_TEST_WRITE").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(stored == text, "{path} is out of date: run the tests once with DDL_TEST_WRITE=1");
}

#[test]
fn files_made_from_the_table_are_up_to_date() {
    hold("config/default.yaml", &default_file());
    hold("config/README.md", &reference());
}

#[test]
fn the_default_file_has_every_key_at_its_default() {
    let resolved = parse("default.yaml", &default_file()).unwrap();
    let defaults = parse("none", "").unwrap();
    for (shown, default) in show(&resolved).iter().zip(show(&defaults)) {
        assert_eq!(shown.value, default.value, "{}", shown.key);
        assert_ne!(shown.origin, Origin::Default, "{} is missing", shown.key);
    }
}

#[test]
fn profiles_and_the_starter_file_load() {
    for profile in ["config/gbif.yaml", "config/laptop.yaml", "config/slurm.yaml"] {
        let resolved = load_file(profile);
        assert!(resolved.notices().is_empty(), "{profile}");
        assert!(contact_of(&Settings::of(&resolved).unwrap()).is_err(), "{profile} has a contact of its own");
    }
    let starter = parse("ddl.yaml", &starter_file()).unwrap();
    let values = |resolved: &Resolved| show(resolved).into_iter().map(|s| s.value).collect::<Vec<_>>();
    let mut expect = values(&parse("none", "").unwrap());
    expect[1] = "dataset".to_owned();
    assert_eq!(values(&starter), expect, "all else at its default");
    assert!(starter_file().lines().count() < 40);
}

/// A file with known and unknown keys and any values.
fn any_file() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        4 => (0..KEYS.len()).prop_map(|key| KEYS[key].name().to_owned()),
        1 => (0..GROUPS.len()).prop_map(|group| GROUPS[group].0.to_owned()),
        1 => "[a-z_.]{0,12}",
    ];
    let value = prop_oneof![
        "[0-9]{1,20}",
        "[0-9]{1,6} ?(MiB|GB|s|ms|h)",
        "[a-zA-Z:/@. ]{0,20}",
        "\\[[a-z0-9, :]{0,20}\\]",
        "\\{[a-z0-9, :]{0,20}\\}",
        "\\PC{0,20}",
    ];
    let line =
        ("( {0,2}|\n)", key, value).prop_map(|(indent, key, value)| format!("{indent}{key}: {value}\n"));
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_file_is_resolved_or_refused(text in any_file()) {
        match parse("any", &text) {
            Ok(resolved) => {
                let settings = Settings::of(&resolved);
                prop_assert!(settings.is_ok(), "{settings:?}");
                let stored = to_yaml(&resolved);
                let again = parse("stored", &stored);
                prop_assert!(again.is_ok(), "{again:?}");
                prop_assert_eq!(to_yaml(&again.unwrap()), stored);
            }
            Err(error) => {
                let message = error.to_string();
                let is_printable = message.chars().all(|c| c == '\n' || !c.is_control());
                prop_assert!(is_printable, "{message:?}");
            }
        }
    }

    #[test]
    fn any_text_is_taken_or_refused_from_flags(key in 0..KEYS.len(), text in "\\PC{0,40}") {
        let mut overrides = Overrides::default();
        overrides.set(&format!("{}={text}", KEYS[key].path));
        let _ = load(&Chain { overrides, ..Chain::default() });
    }
}

#[test]
fn what_goes_with_a_work_unit_is_how_to_download_and_no_secret() {
    let text = "path_to_input: /home/me/list.csv\npath_to_output_folder: /home/me/out\nuser_agent: me@x.org\n\
                https_proxy: http://me:pa55word@proxy.example\nno_proxy: [inside.example]\n\
                ca_certificate: /etc/ca.pem\nservers: {a.example: {rate_limit: 2}}\n\
                query_parameters: {temp_folder: /scratch/me}\n\
                downloader_parameters: {header: 'Cookie: s3cret', image_size: 512, default_rate_limit: 3}\n\
                output_structure: {images_folder: pictures}";
    let resolved = parse("ddl.yaml", text).unwrap();
    let (yaml, secret) = to_yaml_for_units(&resolved);
    assert_eq!(secret, ["downloader_parameters.header"]);
    for at_home in ["/home", "/scratch", "proxy", "pa55word", "s3cret", "inside.example", "pictures"] {
        assert!(!yaml.contains(at_home), "{at_home}: {yaml}");
    }
    let chain = || {
        let mut chain = Chain::default();
        chain.overrides.set("path_to_output_folder=work");
        chain
    };
    let there = load_over("unit", &yaml, &chain()).unwrap();
    let fetch = |resolved: &Resolved| -> FetchOptions {
        resolved.section(&["downloader_parameters", ""], &[("headers", "")]).unwrap()
    };
    let here = FetchOptions {
        https_proxy: fetch(&there).https_proxy,
        no_proxy: fetch(&there).no_proxy,
        ..fetch(&resolved)
    };
    assert_eq!(fetch(&there), here);
    assert_eq!(there.get("servers"), resolved.get("servers"));
    assert_eq!(Settings::of(&there).unwrap().user_agent, "me@x.org");

    // Where it runs, all of it can be set.
    let mut chain = chain();
    chain.environment = Environment::of([("DDL_DOWNLOADER_PARAMETERS__HEADER", "Cookie: s3cret")]);
    let there = load_over("unit", &yaml, &chain).unwrap();
    assert_eq!(there.get("downloader_parameters.header"), resolved.get("downloader_parameters.header"));

    let public = parse("ddl.yaml", "downloader_parameters: {header: 'User-Agent: me@x.org'}").unwrap();
    let (yaml, secret) = to_yaml_for_units(&public);
    assert!(secret.is_empty() && yaml.contains("me@x.org"), "{yaml}");
}
