//! The way to servers: names, proxies, one request.

use std::time::{Duration, Instant};

use url::Url;

use super::{Check, DoctorOptions, Finding, Level};
use crate::fetch::{FetchFailure, FetchOutcome, Fetcher, UnboundedMemory, reach_proxy};
use crate::model::FailureCause;

/// Proxies and name resolution, as this node has them.
pub(super) async fn look(options: &DoctorOptions, urls: &[Url]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, proxy) in &options.proxies {
        let reached = reach_proxy(proxy, options.fetch.connect_timeout).await;
        findings.push(match reached {
            Ok(()) => Finding::ok(Check::Proxy, format!("{proxy} (`{key}`) takes connections")),
            Err(problem) => Finding::failure(
                Check::Proxy,
                format!("{proxy} (`{key}`) cannot be reached: {problem}"),
                format!(
                    "correct it, or do without: `{key}: none`. `ddl config show` says where it comes from"
                ),
            ),
        });
    }
    if options.proxies.is_empty() {
        findings.push(Finding::ok(Check::Proxy, "none is set"));
    }
    findings.push(match Fetcher::new(options.fetch.clone(), options.rules.clone()) {
        Ok(fetcher) => names(&fetcher, urls).await,
        Err(error) => Finding::skipped(Check::Dns, error.to_string()),
    });
    findings
}

/// Whether names become addresses. One that does is enough: lists have dead servers.
async fn names(fetcher: &Fetcher, urls: &[Url]) -> Finding {
    let check = Check::Dns;
    let (mut num_found, mut proxied, mut problems) = (0, 0, Vec::new());
    let mut named = urls.iter().filter(|url| url.domain().is_some()).peekable();
    if urls.is_empty() {
        return Finding::skipped(check, "no server is known yet: `ddl ingest` first, or give `--url`");
    }
    if named.peek().is_none() {
        return Finding::ok(check, "the servers are addresses");
    }
    for url in named {
        match fetcher.route(url).await {
            Ok(route) if route.is_proxied => proxied += 1,
            Ok(_) => num_found += 1,
            Err(problem) => problems.push(problem),
        }
    }
    let num_asked = num_found + problems.len();
    match (num_found, problems.first()) {
        (0, Some(problem)) if proxied == 0 => Finding::failure(
            check,
            format!("none of {num_asked} names resolves: {problem}"),
            "look at /etc/resolv.conf on this node; compute nodes without a name server need a proxy (`http_proxy`, \
             `https_proxy`)",
        ),
        (0, None) => Finding::ok(check, "the proxy resolves names"),
        (found, problem) => {
            let example = problem.map_or(String::new(), |problem| format!("; {problem}"));
            Finding::ok(check, format!("{found} of {num_asked} names resolve{example}"))
        }
    }
}

/// Asks for one URL after another until one is answered.
pub(super) async fn ask(options: &DoctorOptions, urls: &[Url]) -> Finding {
    let fetcher = match Fetcher::new(options.fetch.clone(), options.rules.clone()) {
        Ok(fetcher) => fetcher,
        Err(error) => {
            return Finding::failure(
                Check::Egress,
                error.to_string(),
                "`ddl config show` says where each value comes from",
            );
        }
    };
    let mut last =
        Finding::skipped(Check::Egress, "no server is known yet: `ddl ingest` first, or give `--url`");
    for url in urls {
        let started = Instant::now();
        last = judge(url, &fetcher.fetch(url, &UnboundedMemory).await, started.elapsed());
        if last.level < Level::Warning {
            break;
        }
    }
    last
}

fn judge(url: &Url, outcome: &FetchOutcome, took: Duration) -> Finding {
    let check = Check::Egress;
    let url = crate::model::without_credentials(url.as_str());
    let after = format!("after {:.1} s", took.as_secs_f64());
    let failure = match outcome {
        FetchOutcome::Body(body) => {
            return Finding::ok(check, format!("{url} answered {} {after}", body.http_status));
        }
        FetchOutcome::Skip(skip) => {
            return Finding::ok(
                check,
                format!("{url}: its server answers, and does not want it fetched ({})", skip.signal),
            );
        }
        FetchOutcome::Failure(failure) => failure,
    };
    match failure.http_status {
        Some(407) => Finding::failure(
            check,
            format!("{url}: the proxy wants a name and a password"),
            "write them into the proxy's URL: `http_proxy: http://name:password@proxy:3128`",
        ),
        Some(status) => Finding::ok(check, format!("{url} answered {status} {after}")),
        None => Finding::failure(check, format!("{url}: {} {after}", failure.message), advice(failure)),
    }
}

fn advice(failure: &FetchFailure) -> &'static str {
    match failure.cause {
        FailureCause::ForbiddenAddress => {
            "its address is private: `allow_private_networks: true`, or `allow_addresses` for some, admits such addresses"
        }
        FailureCause::Dns => "this node does not resolve its name: look at /etc/resolv.conf, or set a proxy",
        FailureCause::Tls => {
            "its certificate is not trusted here: is `ca-certificates` installed, or does a proxy sign anew? \
             `ca_certificate` names a file of further authorities"
        }
        _ => {
            "does this node reach the internet? Compute nodes often do so through a proxy only (`http_proxy`, \
             `https_proxy`), or not at all: then download on a data transfer node. `--url` asks another server"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::fetch::Retry;

    fn failed(cause: FailureCause, http_status: Option<u16>) -> Finding {
        let failure = FetchFailure {
            cause,
            http_status,
            message: "no".into(),
            retry: Retry::Never,
            asked: true,
            fetched_at: SystemTime::UNIX_EPOCH,
        };
        let url = Url::parse("http://me:secret@a.example/robots.txt").unwrap();
        judge(&url, &FetchOutcome::Failure(failure), Duration::from_millis(40))
    }

    #[test]
    fn any_answer_of_a_server_is_good_news() {
        for status in [403, 404, 429, 503] {
            let finding = failed(FailureCause::HttpStatus, Some(status));
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
        }
        let finding = failed(FailureCause::HttpStatus, Some(407));
        assert_eq!(finding.level, Level::Failure);
        assert!(!finding.message.contains("secret"), "{finding:?}");
    }

    #[test]
    fn no_answer_comes_with_advice_for_its_cause() {
        for (cause, word) in [
            (FailureCause::ForbiddenAddress, "allow_private_networks"),
            (FailureCause::Dns, "resolv.conf"),
            (FailureCause::Tls, "ca_certificate"),
            (FailureCause::Connect, "proxy"),
        ] {
            let finding = failed(cause, None);
            assert_eq!(finding.level, Level::Failure);
            assert!(finding.advice.unwrap().contains(word), "{cause}");
        }
    }
}
