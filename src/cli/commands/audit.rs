use super::super::args::{AuditArgs, GlobalArgs};
use super::super::{Exit, format, print_line};
use super::time::date_time;
use crate::audit::{AuditOptions, AuditReport, ServerAudit};
use crate::pipeline::audit;

/// Servers that are shown without `--all`.
const MAX_SERVERS: usize = 20;

pub(super) fn run(global: &GlobalArgs, args: &AuditArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let report = audit(&dataset, &AuditOptions { run: args.run, ..AuditOptions::default() })?;
    if let Some(name) = &args.letter {
        let Some(server) = report.servers.iter().find(|server| server.server_name.as_str() == name) else {
            anyhow::bail!("no request to server `{name}` is in the ledger");
        };
        print_line(letter(server).trim_end())?;
    } else if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(text(&report, args.all).trim_end())?;
    }
    Ok(if report.is_clean() { Exit::Done } else { Exit::Error })
}

fn text(report: &AuditReport, all: bool) -> String {
    let mut text = format!(
        "{} requests to {} servers, {} received, in {} runs\n{}\n",
        format::count(report.num_requests),
        format::count(report.servers.len() as u64),
        format::bytes(report.received_bytes),
        format::count(report.runs.len() as u64),
        period(report.first_sent_at, report.last_sent_at),
    );
    let mut servers: Vec<&ServerAudit> = report.servers.iter().collect();
    servers.sort_by_key(|server| (u64::MAX - server.num_violations, u64::MAX - server.num_requests));
    let shown = if all { servers.len() } else { servers.len().min(MAX_SERVERS) };
    let header =
        ["server", "requests", "most/s", "limit/s", "most at once", "limit", "refusals", "violations"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(servers[..shown].iter().map(|server| {
        vec![
            server.server_name.to_string(),
            format::count(server.num_requests),
            format::count(server.peak_rate),
            rate(server),
            format::count(server.peak_connections),
            format::count(server.max_connections.into()),
            format::count(server.num_refusals),
            format::count(server.num_violations),
        ]
    }));
    text += &format!("\n{}\n", format::table(&rows));
    if shown < servers.len() {
        text += &format!("... {} servers in all (`--all` shows them)\n", format::count(servers.len() as u64));
    }
    text.push('\n');
    if report.num_lost > 0 {
        text += &format!("{} requests were too many for the ledger\n", format::count(report.num_lost));
    }
    if report.num_cut_off > 0 {
        text += &format!(
            "{} of {} files end without an end: a rank was killed, or is at work; up to its last second is missing\n",
            format::count(report.num_cut_off),
            format::count(report.num_files)
        );
    }
    text += &robots(report);
    for violation in &report.violations {
        text += &format!("violation: {}: {violation}\n", utc(violation.sent_at));
    }
    if report.num_violations > report.violations.len() as u64 {
        text += &format!("... {} violations in all\n", format::count(report.num_violations));
    }
    if report.num_requests == 0 {
        return text + "no request is in the ledger: nothing can be said\n";
    }
    text + if report.is_clean() { "kept: no server saw more than it was promised\n" } else { "NOT kept\n" }
}

/// What can be said of robots.txt, a line for each that there is something to say of.
fn robots(report: &AuditReport) -> String {
    let [checked, disallowed, not_known, not_heeded] = report.robots();
    let mut text = String::new();
    if checked > 0 {
        let (checked, disallowed) = (format::count(checked), format::count(disallowed));
        text += &format!("robots.txt: {checked} requests checked, {disallowed} disallowed\n");
    }
    if not_known > 0 {
        text += &format!("robots.txt: not known for {} requests\n", format::count(not_known));
    }
    if not_heeded > 0 {
        let runs: Vec<_> = report.runs_without_robots.iter().map(ToString::to_string).collect();
        text += &format!(
            "robots.txt: not heeded by {} requests: run {} had `respect_robots_txt: false`\n",
            format::count(not_heeded),
            runs.join(", ")
        );
    }
    text
}

/// The same of one server, for its administrator.
fn robots_letter(server: &ServerAudit) -> String {
    let mut text = String::new();
    match (server.num_robots_checked, server.num_robots_disallowed) {
        (0, _) => {}
        (checked, 0) => {
            text += &format!(
                "Your robots.txt, as we had read it, allowed all {} that we held against it.\n",
                format::count(checked)
            );
        }
        (checked, disallowed) => {
            text += &format!(
                "Your robots.txt, as we had read it, disallowed {} of the {} that we held against it. We are sorry.\n",
                format::count(disallowed),
                format::count(checked)
            );
        }
    }
    if server.crawl_delay > 0.0 {
        text += &format!("Its Crawl-delay, as far as we keep to it, is {} s.\n", server.crawl_delay);
    }
    if server.num_robots_not_known > 0 {
        let requests = format::count(server.num_robots_not_known);
        text += &format!("For {requests} of them we have no robots.txt on record.\n");
    }
    if server.num_robots_not_heeded > 0 {
        let requests = format::count(server.num_robots_not_heeded);
        text += &format!("{requests} of them were sent without heeding robots.txt, by our own choice.\n");
    }
    text
}

/// What a server's administrator may want to know.
fn letter(server: &ServerAudit) -> String {
    let limit = match server.max_rate {
        Some(rate) if rate > 0.0 => format!("at most {rate} requests per second"),
        _ => "no fixed number of requests per second".to_owned(),
    };
    let kept = if server.num_violations == 0 {
        "A replay of our log of requests finds that these limits were kept by all our machines together, and that we waited when asked to.".to_owned()
    } else {
        format!(
            "A replay of our log of requests finds {} requests that broke these limits or your robots.txt, or came before the time that you had asked us to wait was over. We are sorry.",
            format::count(server.num_violations)
        )
    };
    format!(
        "Our requests to {name}\n\
         {period}.\n\n\
         We sent {requests} requests and received {bytes}.\n\
         We had set ourselves {limit}, and at most {connections} at once; the most we sent within any second were \
         {peak_rate}, and the most at once {peak_connections}.\n\
         {refusals} of your answers were refusals (429 or 503); {embargoes} answers asked us to wait.\n\
         {robots}\
         {kept}\n\n\
         If you want us to send less, or nothing, please answer to the address in our User-Agent.\n",
        name = server.server_name,
        period = period(server.first_sent_at, server.last_sent_at),
        requests = format::count(server.num_requests),
        bytes = format::bytes(server.received_bytes),
        connections = server.max_connections,
        peak_rate = format::count(server.peak_rate),
        peak_connections = format::count(server.peak_connections),
        refusals = format::count(server.num_refusals),
        embargoes = format::count(server.num_embargoes),
        robots = robots_letter(server),
    )
}

fn rate(server: &ServerAudit) -> String {
    server.max_rate.filter(|rate| *rate > 0.0).map_or("-".into(), |rate| rate.to_string())
}

fn period(first_sent_at: Option<i64>, last_sent_at: Option<i64>) -> String {
    match (first_sent_at, last_sent_at) {
        (Some(first), Some(last)) => format!("from {} to {}", utc(first), utc(last)),
        _ => "nothing was sent".into(),
    }
}

/// `2026-03-01 12:00:00 UTC`, from microseconds since 1970.
fn utc(us: i64) -> String {
    format!("{} UTC", date_time(us.max(0).cast_unsigned() / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Rule, Violation};
    use crate::model::ServerName;

    fn report(num_violations: u64) -> AuditReport {
        let server_name = ServerName::from_catalog("a.example");
        let violation = Violation {
            server_name: server_name.clone(),
            rank: 3,
            sent_at: 1_772_366_400_000_000,
            rule: Rule::Embargo,
            detail: "2.0 s after the server asked to be left alone for 10.0 s".into(),
        };
        AuditReport {
            runs: [1, 2].into(),
            num_files: 8,
            num_requests: 12_345,
            received_bytes: 5_000_000,
            first_sent_at: Some(1_772_366_400_000_000),
            last_sent_at: Some(1_772_370_000_000_000),
            num_cut_off: 1,
            runs_without_robots: [2].into(),
            num_violations,
            violations: vec![violation; num_violations.min(1) as usize],
            servers: vec![ServerAudit {
                server_name,
                num_requests: 12_345,
                received_bytes: 5_000_000,
                first_sent_at: Some(1_772_366_400_000_000),
                last_sent_at: Some(1_772_370_000_000_000),
                max_rate: Some(2.5),
                peak_rate: 3,
                max_connections: 4,
                peak_connections: 2,
                num_refusals: 7,
                num_embargoes: 6,
                num_robots_checked: 12_000,
                num_robots_disallowed: num_violations,
                num_robots_not_known: 300,
                num_robots_not_heeded: 44,
                crawl_delay: 2.5,
                num_violations,
            }],
            ..AuditReport::default()
        }
    }

    #[test]
    fn a_clean_audit_says_so() {
        insta::assert_snapshot!(text(&report(0), false), @"
        12,345 requests to 1 servers, 5.0 MB received, in 2 runs
        from 2026-03-01 12:00:00 UTC to 2026-03-01 13:00:00 UTC

        server     requests  most/s  limit/s  most at once  limit  refusals  violations
        a.example    12,345       3      2.5             2      4         7           0

        1 of 8 files end without an end: a rank was killed, or is at work; up to its last second is missing
        robots.txt: 12,000 requests checked, 0 disallowed
        robots.txt: not known for 300 requests
        robots.txt: not heeded by 44 requests: run 2 had `respect_robots_txt: false`
        kept: no server saw more than it was promised
        ");
    }

    #[test]
    fn violations_are_told_one_by_one() {
        let text = text(&report(2), false);
        assert!(text.contains(
            "violation: 2026-03-01 12:00:00 UTC: `a.example`, rank 3: too early: 2.0 s after the server asked"
        ));
        assert!(text.contains("... 2 violations in all") && text.ends_with("NOT kept\n"), "{text}");
    }

    #[test]
    fn a_letter_admits_what_was_broken() {
        let letter_of = |num| letter(&report(num).servers[0]);
        assert!(letter_of(0).contains("these limits were kept"));
        assert!(letter_of(2).contains("2 requests that broke these limits"));
        assert!(letter_of(0).contains("allowed all 12,000 that we held against it"));
        assert!(letter_of(2).contains("disallowed 2 of the 12,000 that we held against it"));
        assert!(
            letter_of(0).contains("For 300 of them") && letter_of(0).contains("44 of them were sent without")
        );
    }
}
