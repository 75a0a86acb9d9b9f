//! `ddl report`: one page that asks for nothing, whatever strangers wrote into the list, with the numbers of SQL.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ddl::demo::PhotoSpec;

use crate::support::nasty::{Behaviour, NastyServer};
use crate::support::project::{Project, expect};
use crate::support::skip;

const SETTINGS: &str = "rate_control: fixed\n\
    columns: {uuid: uuid, label: label, license: license, title: title}\n\
    downloader_parameters: {default_rate_limit: 0, max_attempts: 1, perceptual_hash: always}\n";

/// What a stranger may write where a label, a licence or a title is asked for.
const HOSTILE: [&str; 6] = [
    "<script>document.title = 'owned'</script>",
    "</title></style><img src=http://evil.example/a.png onerror=alert(1)>",
    "\"><svg onload=alert(2)><a href=\"javascript:alert(3)\">x</a>",
    "]]> --> ${7*7} {{constructor}} &lt;b&gt;",
    "@import url(http://evil.example/b.css); } * { background: url(http://evil.example/c.png) }",
    "\u{202e}gpj.elif",
];

const PICTURES: u64 = 8;

fn uuid(file: u64) -> String {
    format!("{:08x}-0000-4000-8000-{file:012}", file.wrapping_mul(2_654_435_761) as u32)
}

/// Of each picture two equal files and one that was compressed again; failures, and what robots.txt disallows.
fn project(server: &NastyServer) -> Project {
    let project = Project::new(server.addr(), SETTINGS);
    let mut list = String::from("uuid,url,label,license,title\n");
    let field = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for file in 0..3 * PICTURES {
        let hostile = field(HOSTILE[file as usize % HOSTILE.len()]);
        let host = ["a.example", "b.example", "c.example"][file as usize % 3];
        let url = field(&format!("http://{host}/{file}.jpg?q=\"><script>alert(4)</script>"));
        writeln!(list, "{},{url},{hostile},{hostile},{hostile}", uuid(file)).unwrap();
    }
    for (at, path) in ["gone.jpg", "html.jpg", "private/secret.jpg"].into_iter().enumerate() {
        writeln!(list, "{},http://a.example/{path},,,", uuid(1000 + at as u64)).unwrap();
    }
    fs::write(project.path("list.csv"), list).unwrap();
    project.ok(&["ingest"]);
    project.ok(&["download"]);
    project
}

fn server() -> NastyServer {
    let photo = |file: u64| {
        let quality = if file < 2 * PICTURES { 85 } else { 60 };
        let photo = PhotoSpec { quality, ..PhotoSpec::jpeg(file % PICTURES, 320, 240) };
        Behaviour::Body("image/jpeg", photo.render().unwrap())
    };
    let photos = (0..3 * PICTURES).map(|file| (format!("/{file}.jpg"), photo(file)));
    let robots = b"User-agent: *\nDisallow: /private/\n".to_vec();
    let others = [
        ("/gone.jpg".to_owned(), Behaviour::Status(404)),
        ("/html.jpg".to_owned(), Behaviour::Html),
        ("/private/secret.jpg".to_owned(), Behaviour::Ok),
        ("/robots.txt".to_owned(), Behaviour::Body("text/plain", robots)),
    ];
    NastyServer::start(photos.chain(others))
}

/// A proxy that writes down whom it is asked for and answers nothing.
fn watching_proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            log.lock().unwrap().push(line);
            let _ = (&stream).write_all(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (port, asked)
}

/// What a browser makes of a page.
struct Seen {
    dom: String,
    console: Vec<String>,
    /// Whom it has asked for, its own errands included.
    asked: Vec<String>,
}

fn browse(page: &Path, profile: &Path) -> Seen {
    let (port, asked) = watching_proxy();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--v=0", "--proxy-bypass-list=<-loopback>"])
        .arg(format!("--proxy-server=http://127.0.0.1:{port}"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let console = String::from_utf8_lossy(&output.stderr);
    let console = console.lines().filter(|line| line.contains(":CONSOLE:")).map(str::to_owned).collect();
    let asked = asked.lock().unwrap().clone();
    Seen { dom: String::from_utf8_lossy(&output.stdout).into_owned(), console, asked }
}

/// The numbers in the page that programs may read.
fn figures(dom: &str) -> BTreeMap<String, u64> {
    let pieces = dom.split("<data id=\"figure-").skip(1);
    let pair = |piece: &str| {
        let (id, rest) = piece.split_once("\" value=\"").unwrap();
        (id.to_owned(), rest.split_once('"').unwrap().0.parse().unwrap())
    };
    pieces.map(pair).collect()
}

#[test]
fn the_page_of_a_hostile_dataset_is_harmless_and_right() {
    let server = server();
    let project = project(&server);
    project.ok(&["tool", "dedup", "--near", "16"]);
    // The one that stays, of three.
    project.ok(&["retract", "--uuid", &uuid(0), "--yes"]);
    let output = project.run(&["report"]);
    expect(&output, 0, &["report"]);
    let page = project.path("out/report.html");
    let html = fs::read_to_string(&page).unwrap();
    for text in ["<script", "<svg onload", "<img src=http", "javascript:alert(3)\">", "\u{202e}"] {
        assert!(!html.contains(text), "`{text}` is in the page");
    }
    assert!(html.contains("&lt;script&gt;document.title"), "what strangers wrote is shown as text");
    // Neither what was retracted nor what its owner does not want is to be seen.
    let pictures: Vec<&str> =
        html.split("<img src=\"").skip(1).map(|tag| tag.split_once('>').unwrap().0).collect();
    assert!(pictures.len() >= 8 && pictures.iter().all(|tag| tag.starts_with("data:image/jpeg;base64,")));
    for uuid in [uuid(0), uuid(1002)] {
        assert!(pictures.iter().all(|tag| !tag.contains(&uuid)), "{uuid}");
    }
    assert!(html.contains("no longer in the dataset"), "its duplicate had a picture beside it");
    let images = project.query("SELECT uuid FROM images");
    let shown = |tag: &&str| images.lines().any(|uuid| tag.contains(uuid));
    assert!(pictures.iter().all(shown));

    if Command::new("chromium").arg("--version").output().is_err() {
        return skip("no chromium");
    }
    let seen = browse(&page, &project.path("profile"));
    assert!(seen.console.is_empty(), "{:?}", seen.console);
    assert!(seen.dom.contains("<title>out: report of a dataset</title>"), "no script has changed the title");
    let count = |sql: &str| project.query(sql).parse::<u64>().unwrap();
    let mut expected = BTreeMap::from([
        ("records".to_owned(), count("SELECT count(*) FROM urls")),
        ("image_bytes".to_owned(), count("SELECT sum(image_bytes) FROM images")),
        ("removed".to_owned(), count("SELECT count(DISTINCT uuid) FROM verdicts WHERE verdict = 'remove'")),
    ]);
    for word in ["success", "failed", "skipped", "pending"] {
        let sql = format!("SELECT count(*) FROM urls WHERE disposition = '{word}'");
        expected.insert(word.to_owned(), count(&sql));
    }
    assert_eq!(figures(&seen.dom), expected);
    assert_eq!(count("SELECT count(*) FROM images"), expected["success"]);
    for words in ["http_status 404", "not_an_image", "robots", "retracted", "jpeg", "exact_duplicate"] {
        assert!(seen.dom.contains(words), "{words}");
    }

    // Also without the policy in its head: that is a second lock, not the first.
    let (before, after) = html.split_once("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
    let bare = project.path("bare.html");
    fs::write(&bare, format!("{before}<meta name=\"was\"{after}")).unwrap();
    let seen = browse(&bare, &project.path("profile"));
    assert!(seen.console.is_empty(), "{:?}", seen.console);
    assert!(seen.dom.contains("<title>out: report of a dataset</title>"));
    let of_the_page = |line: &&String| line.contains(".example") || line.contains("127.0.0.1");
    assert!(!seen.asked.iter().any(|line| of_the_page(&line)), "{:?}", seen.asked);
}

#[test]
fn a_report_is_bounded_and_says_what_it_leaves_out() {
    let server = server();
    let project = project(&server);
    project.ok(&["tool", "dedup"]);
    let page = project.path("share/small.html");
    let path = page.display().to_string();
    project.ok(&["report", "-o", &path, "--samples", "3", "--pairs", "1", "--top", "2"]);
    let html = fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<img ").count(), 5, "3 samples, 1 pair");
    for words in ["and 1 more servers", "and 7 more pairs", "and 4 more licences, with "] {
        assert!(html.contains(words), "{words}");
    }
    // The same again, but for the time.
    let again = project.path("again.html");
    let path = again.display().to_string();
    project.ok(&["report", "-o", &path, "--samples", "3", "--pairs", "1", "--top", "2"]);
    let without_time =
        |html: &str| html.split_once("As of ").map(|(a, b)| format!("{a}{}", &b[19..])).unwrap();
    assert!(without_time(&html) == without_time(&fs::read_to_string(&again).unwrap()));
}

#[test]
fn before_anything_was_downloaded_there_is_a_report() {
    let server = server();
    let project = Project::new(server.addr(), "").with_urls(["http://a.example/1.jpg", "no URL"]);
    project.ok(&["ingest"]);
    project.ok(&["report"]);
    let html = fs::read_to_string(project.path("out/report.html")).unwrap();
    let found = figures(&html);
    assert_eq!((found["records"], found["success"], found["pending"], found["skipped"]), (2, 0, 1, 1));
    assert!(!html.contains("NaN") && !html.contains("<img"), "{html}");
    project.ok(&["check"]);
}
