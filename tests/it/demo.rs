//! The demo is the README's first command: it must end with a sound dataset, and say what it does.

use crate::support::project::{Project, expect};

#[test]
fn the_demo_makes_a_sound_dataset() {
    let project = Project::empty();
    let output = project.run(&["demo", "demo"]);
    let stdout = expect(&output, 0, &["demo"]);
    let talk = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    for step in ["ddl ingest", "ddl download", "ddl status", "ddl query", "ddl export manifest"] {
        assert!(talk.contains(step), "`{step}` is not in:\n{talk}");
    }
    let config = "demo/ddl.yaml";
    let check = project.ok(&["-c", config, "check", "--deep"]);
    assert!(check.contains("sound"), "{check}");
    // Each of its servers shows something else; what it shows is there to be asked for.
    let query = |sql: &str| project.ok(&["-c", config, "query", "--format", "csv", sql]);
    let dispositions = query("SELECT DISTINCT disposition FROM urls ORDER BY 1");
    assert_eq!(dispositions.lines().collect::<Vec<_>>(), ["disposition", "failed", "skipped", "success"]);
    let formats = query("SELECT count(DISTINCT image_format) FROM images");
    assert!(formats.lines().last().unwrap().parse::<u32>().unwrap() >= 5, "{formats}");
    let duplicates = query("SELECT count(*) - count(DISTINCT hashsum_original) FROM images");
    assert!(duplicates.lines().last().unwrap().parse::<u32>().unwrap() > 0, "{duplicates}");
    let wishes = query(
        "SELECT DISTINCT cause, error_msg FROM errors WHERE cause IN ('robots', 'opt_out') AND fetched_at IS NOT NULL \
         ORDER BY 1",
    );
    let expected = [
        "cause,error_msg",
        "opt_out,\"x-robots-tag: noai, noimageai\"",
        "robots,robots.txt: Disallow: /private/ (User-agent: *)",
    ];
    assert_eq!(wishes.lines().collect::<Vec<_>>(), expected);
    let causes = query("SELECT DISTINCT cause FROM errors");
    for cause in ["http_status", "not_an_image", "truncated_image"] {
        assert!(causes.contains(cause), "{causes}");
    }
}
