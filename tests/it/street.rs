//! Sixteen servers, one of each kind, and four ranks: what the servers saw is the judge.

use std::time::Duration;

use serde_json::Value;

use crate::support::project::expect;
use crate::support::street::{CONNECTIONS, RATE, Seen, URLS, street, street_project};

/// Word of an embargo goes from one rank to the others through rank 0, on a machine that may be busy.
const GRACE: Duration = Duration::from_secs(1);
/// Requests leave on time, but arrive when both sides are given the CPU.
const A_SECOND: Duration = Duration::from_millis(950);

fn limits_of(name: &str) -> (usize, usize) {
    if name == "small.example" { (1, 1) } else { (RATE, CONNECTIONS) }
}

fn found(images: &[Seen], status: u16) -> usize {
    images.iter().filter(|seen| seen.status == status).count()
}

#[test]
fn no_server_of_the_street_sees_more_than_it_was_promised_over_mpi() {
    if !cfg!(feature = "mpi") {
        return;
    }
    let street = street();
    let project = street_project(&street, URLS);
    expect(&project.mpi_command(4, &["download"]).output().unwrap(), 0, &["download"]);

    for server in &street {
        let name = server.name;
        let (rate, connections) = limits_of(name);
        let seen = server.most_in(A_SECOND);
        // One of several ranks' may be that late; when they left, the audit below judges without leniency.
        let late = usize::from(rate > 1);
        assert!(seen <= rate + late, "{name}: {seen} requests in a second");
        let at_once = server.most_at_once();
        assert!(at_once <= connections, "{name}: {at_once} at once");
        let broken = server.embargoes_broken(GRACE);
        assert!(broken.is_empty(), "{name}: {broken:?}");
        let images = server.images();
        match name {
            "fast.example" | "far.example" => assert_eq!(images.len(), URLS, "{name}"),
            "small.example" => assert_eq!(images.len(), 10, "{name}"),
            "private.example" => {
                let private =
                    |seen: &Seen| seen.path.starts_with("/private/") && !seen.path.contains("/but/");
                assert!(!images.iter().any(private), "{name}");
                assert_eq!(images.len(), URLS - URLS.div_ceil(3) + 1, "{name}");
            }
            "closed.example" => assert_eq!(images.len(), 0, "{name}"),
            "patient.example" => {
                let mut times: Vec<_> = images.iter().map(|seen| seen.at).collect();
                times.sort();
                let closest = times.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
                assert!(closest >= Duration::from_millis(450), "{name}: {closest:?} apart");
            }
            "seconds.example" | "date.example" | "bare.example" | "quota.example" | "crowded.example" => {
                assert_eq!(found(&images, 200), URLS, "{name}");
            }
            "content.example" => assert_eq!(found(&images, 200), URLS, "{name}"),
            _ => {}
        }
    }
    let counts = project.query(
        "SELECT server_name, count(*) FROM images WHERE image IS NOT NULL GROUP BY server_name ORDER BY server_name",
    );
    assert!(counts.contains("far.example,100") && counts.contains("pointing.example,100"), "{counts}");
    assert!(counts.contains("dripping.example,8"), "{counts}");

    let report: Value = serde_json::from_str(&project.ok(&["audit", "--json"])).unwrap();
    assert_eq!(report["num_violations"], 0, "{report}");
    let num_seen: usize = street.iter().map(|server| server.log().len()).sum();
    assert_eq!(report["num_requests"], num_seen, "{report}");
    for server in &street {
        let audited = report["servers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|audited| audited["server_name"] == server.name);
        assert_eq!(
            audited.map_or(&Value::from(0), |audited| &audited["num_requests"]),
            server.log().len(),
            "{}",
            server.name
        );
    }
}
