//! `rendition_size`: the smallest rendition that suffices is asked for, and the image itself where there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::nasty::{Behaviour, NastyServer, RetryAfter};
use crate::support::project::Project;

const RULES: &str = "rate_control: fixed\n\
    renditions:\n- {server: a.example, pattern: '^/img/', replace: '/small/', size: 240}\n\
    - {server: a.example, pattern: '^/img/', replace: '/large/', size: 1024}\n\
    downloader_parameters: {default_rate_limit: 0, part_images: 5, part_seconds: 1s, retry_backoff: 10ms, rendition_size: 224}\n";

fn requests(server: &NastyServer) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in server.log() {
        *counts.entry(request.path).or_default() += 1;
    }
    counts
}

#[test]
fn renditions_are_asked_for_and_once_the_image_itself_where_there_is_none() {
    let robots = b"User-agent: *\nDisallow: /small/7.jpg\n".to_vec();
    let busy = Behaviour::Refuse { status: 503, times: 1, retry_after: RetryAfter::Seconds(1) };
    let server = NastyServer::start([
        ("/robots.txt", Behaviour::Body("text/plain", robots)),
        ("/small/0.jpg", Behaviour::Ok),
        ("/img/1.jpg", Behaviour::Ok),
        ("/small/2.jpg", Behaviour::Html),
        ("/img/2.jpg", Behaviour::Ok),
        ("/small/3.jpg", Behaviour::Empty),
        ("/small/4.jpg", Behaviour::Status(403)),
        ("/img/4.jpg", Behaviour::Ok),
        ("/small/5.jpg", busy),
        ("/plain/6.jpg", Behaviour::Ok),
        ("/small/7.jpg", Behaviour::Ok),
        ("/img/7.jpg", Behaviour::Ok),
        ("/small/8.jpg", Behaviour::Status(500)),
        ("/img/8.jpg", Behaviour::Ok),
    ]);
    let folder = |n: u32| if n == 6 { "plain" } else { "img" };
    let urls = (0..9).map(|n| format!("http://a.example/{}/{n}.jpg", folder(n)));
    let project = Project::new(server.addr(), RULES).with_urls(urls);
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project.ok(&["check", "--deep"]);

    let small = |n: u32| format!("http://a.example/img/{n}.jpg,http://a.example/small/{n}.jpg");
    let whole = |n: u32| format!("http://a.example/{}/{n}.jpg,", folder(n));
    assert_eq!(
        project.query("SELECT identifier, rendition_url FROM images ORDER BY record"),
        [small(0), whole(1), whole(2), whole(4), small(5), whole(6), whole(7)].join("\n")
    );
    // A 404 of the image itself after an empty rendition, and a server in trouble, which is no missing rendition.
    assert_eq!(
        project
            .query("SELECT identifier, rendition_url, http_status, retry_count FROM errors ORDER BY record"),
        format!("{},404,1\n{},500,4", whole(3), small(8))
    );
    let mut expect: BTreeMap<String, usize> =
        (0..9).map(|n| (format!("/{}/{n}.jpg", folder(n)), 1)).collect();
    expect.extend((0..6).map(|n| (format!("/small/{n}.jpg"), 1)));
    for (path, times) in [("/robots.txt", 1), ("/small/5.jpg", 2), ("/small/8.jpg", 5)] {
        expect.insert(path.into(), times);
    }
    for untouched in ["/img/0.jpg", "/img/5.jpg", "/img/8.jpg"] {
        expect.remove(untouched);
    }
    assert_eq!(requests(&server), expect);

    let report = project.ok(&["audit"]);
    assert!(report.contains("kept: "), "{report}");
}

#[test]
fn a_kill_changes_nothing_about_which_rendition_is_kept() {
    let start = || {
        let slow = Behaviour::SlowFirstByte(Duration::from_millis(15));
        let script = (0..120).map(move |n| match n % 3 {
            0 => (format!("/small/{n}.jpg"), slow.clone()),
            _ => (format!("/img/{n}.jpg"), slow.clone()),
        });
        NastyServer::start(script)
    };
    let project = |server: &NastyServer| {
        let urls = (0..120).map(|n| format!("http://a.example/img/{n}.jpg"));
        let project = Project::new(server.addr(), RULES).with_urls(urls);
        project.ok(&["ingest"]);
        project
    };
    let outcome = |project: &Project| {
        project.query("SELECT identifier, rendition_url, hashsum_original FROM images ORDER BY record")
    };
    let server = start();
    let killed = project(&server);
    for kill in 1..4 {
        let mut child = killed.start(&["download"]);
        while server.log().len() < kill * 50 {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    killed.ok(&["download"]);
    let other = start();
    let undisturbed = project(&other);
    undisturbed.ok(&["download"]);
    assert_eq!(outcome(&killed), outcome(&undisturbed));
    assert_eq!(outcome(&killed).matches("/small/").count(), 40);
}
