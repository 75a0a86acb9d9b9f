//! A list of the real web, downloaded through `connect_to` from a server that speaks for every name.

use std::path::{Path, PathBuf};

use crate::support::nasty::good_jpeg;
use crate::support::project::Project;
use crate::support::tls::{Reply, TestAuthority, TlsFarm};

/// 1,000 URLs on 664 servers. It is not part of this repository: `TEST_LISTS` names its folder.
fn list() -> Option<PathBuf> {
    let folder = std::env::var_os("TEST_LISTS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/lists"));
    Some(folder.join("web_1000.parquet")).filter(|path| path.exists())
}

#[test]
fn a_thousand_urls_of_the_real_web_over_tls() {
    let Some(list) = list() else {
        eprintln!("skipped: the list is not here");
        return;
    };
    let authority = TestAuthority::new();
    let farm = TlsFarm::start(authority.clone(), |_, path| {
        if path.len() % 10 == 0 { Reply::status(404) } else { Reply::jpeg(good_jpeg()) }
    });
    let settings = format!(
        "ca_certificate: {}\ndownloader_parameters: {{default_rate_limit: 0}}",
        authority.pem_path().display()
    );
    let project = Project::new(farm.addr(), &settings);
    project.ok(&["ingest", &list.display().to_string()]);
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);
    let dispositions = project.query("SELECT disposition, count(*) FROM urls GROUP BY 1 ORDER BY 1");
    let counts = dispositions.lines().map(|line| line.split_once(',').unwrap().1.parse::<u64>().unwrap());
    assert_eq!(counts.sum::<u64>(), 1000, "{dispositions}");
    assert!(!dispositions.contains("pending"), "{dispositions}");
    let https = project
        .query("SELECT count(*) FROM urls WHERE identifier LIKE 'https:%' AND disposition = 'success'");
    assert!(https.parse::<u64>().unwrap() > 500, "{https} https URLs succeeded");
    let servers: u64 = project.query("SELECT count(DISTINCT server_name) FROM urls").parse().unwrap();
    assert!(servers > 600, "{servers} servers");
    let by_server = project.query("SELECT server_name, disposition, count(*) FROM urls GROUP BY ALL");
    assert!(by_server.lines().count() as u64 >= servers);
}
