use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

use super::super::args::{GlobalArgs, StatusArgs};
use super::super::progress::Pace;
use super::super::{Exit, format, print_line};
use super::time::date_time;
use crate::catalog::DispositionCounts;
use crate::pipeline::{DatasetStatus, StatusSource, dataset_status};

/// Servers shown without `--all`.
const NUM_SERVERS: usize = 20;
/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Lines around the table of servers.
const FRAME_LINES: usize = 10;
/// Letters of the bar of `--watch`.
const BAR_LETTERS: u64 = 40;
/// Cursor to the upper left corner; the rest of the screen cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn run(global: &GlobalArgs, args: &StatusArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    if args.schedule {
        return super::submit::show_schedule(&dataset, args.json);
    }
    let look = || Ok(dataset_status(&dataset)?);
    if args.watch {
        let in_place = stdout().is_terminal();
        let mut pace = Pace::default();
        let show = |status: &DatasetStatus| watch_text(status, args, in_place, &mut pace);
        watch(look, show, || std::thread::sleep(WATCH_INTERVAL))?;
        return Ok(Exit::Done);
    }
    let status = look()?;
    if args.json {
        print_line(serde_json::to_string_pretty(&status)?)?;
    } else {
        print_line(text(&status, if args.all { usize::MAX } else { NUM_SERVERS }))?;
    }
    Ok(Exit::Done)
}

/// Looks and shows until nothing is left to do.
fn watch(
    look: impl Fn() -> anyhow::Result<DatasetStatus>,
    mut show: impl FnMut(&DatasetStatus) -> anyhow::Result<String>,
    mut pause: impl FnMut(),
) -> anyhow::Result<()> {
    loop {
        let status = look()?;
        print_line(show(&status)?)?;
        if status.is_done() {
            return Ok(());
        }
        pause();
    }
}

fn watch_text(
    status: &DatasetStatus,
    args: &StatusArgs,
    in_place: bool,
    pace: &mut Pace,
) -> anyhow::Result<String> {
    if args.json {
        return Ok(serde_json::to_string(status)?);
    }
    if !in_place {
        return Ok(records_line(status));
    }
    let num_servers = match rustix::termios::tcgetwinsize(stdout()) {
        _ if args.all => usize::MAX,
        Ok(size) if size.ws_row > 0 => usize::from(size.ws_row).saturating_sub(FRAME_LINES).min(NUM_SERVERS),
        _ => NUM_SERVERS,
    };
    Ok(format!("{CLEAR}{}\n{}", head(status, pace), text(status, num_servers)))
}

/// A bar over everything, and the pace of a run that is at work.
fn head(status: &DatasetStatus, pace: &mut Pace) -> String {
    let total = status.counts.total();
    let done = total - status.counts.pending;
    let full = (BAR_LETTERS * done / total.max(1)) as usize;
    let bar = "█".repeat(full) + &"░".repeat(BAR_LETTERS as usize - full);
    let mut text = format!("{bar} {}\n", format::percent(done, total));
    match status.run.as_ref().filter(|run| status.in_use_by.is_some() && run.state == "running") {
        Some(run) => text += &(pace.see(run, Instant::now()).text(run) + "\n"),
        // Another run is another pace.
        None => *pace = Pace::default(),
    }
    text
}

fn records_line(status: &DatasetStatus) -> String {
    let counts = &status.counts;
    let bytes = status.image_bytes.map(|bytes| format!(" ({})", format::bytes(bytes))).unwrap_or_default();
    format!(
        "{} records: {} images{bytes}, {} failed, {} skipped, {} pending ({} done)",
        format::count(counts.total()),
        format::count(counts.success),
        format::count(counts.failed),
        format::count(counts.skipped),
        format::count(counts.pending),
        format::percent(counts.total() - counts.pending, counts.total()),
    )
}

pub(super) fn text(status: &DatasetStatus, num_servers: usize) -> String {
    let mut text = records_line(status) + "\n";
    if status.source == StatusSource::Published {
        text += "(from status/status.json: the catalog cannot be opened beside its writer)\n";
    }
    if let (Some(finished), Some(partitions), Some(servers)) =
        (status.finished_partitions, status.num_partitions, status.num_servers)
    {
        text += &format!(
            "{} of {} partitions finished on {} servers\n",
            format::count(finished),
            format::count(partitions),
            format::count(servers)
        );
    }
    if let Some(leased @ 1..) = status.leased_partitions {
        text += &format!("{} partitions are out in work units (`ddl unit import`)\n", format::count(leased));
    }
    match (&status.in_use_by, &status.run) {
        (Some(holder), Some(run)) if run.state == "running" => {
            text += &format!(
                "run {} is at work ({holder}): {} images received since it began, {} of its records committed (parts are \
                 sealed within `part_seconds`); {} requests under way\n",
                run.run_id,
                format::count(run.progress.success),
                format::count(run.committed),
                run.progress.in_flight
            );
            for paused in run.paused_servers.iter().filter(|paused| paused.until > run.updated_at) {
                let why =
                    paused.http_status.map_or_else(|| paused.cause.clone(), |status| status.to_string());
                text += &format!(
                    "{} is left alone until {} UTC ({why})\n",
                    paused.server_name,
                    date_time(paused.until / 1000)
                );
            }
        }
        (Some(holder), _) => text += &format!("in use by {holder}\n"),
        (None, Some(run)) if run.state == "running" => {
            text += &format!("run {} did not end by itself; `ddl download` goes on from there\n", run.run_id);
        }
        _ => {}
    }
    if status.servers.is_empty() {
        return text.trim_end().to_owned();
    }
    let header = ["server", "records", "images", "failed", "skipped", "pending", "bytes"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for server in status.servers.iter().take(num_servers) {
        let DispositionCounts { pending, success, failed, skipped } = server.counts;
        rows.push(vec![
            server.server_name.clone().unwrap_or_else(|| "(no usable URL)".into()),
            format::count(server.counts.total()),
            format::count(success),
            format::count(failed),
            format::count(skipped),
            format::count(pending),
            format::bytes(server.image_bytes),
        ]);
    }
    text += "\n";
    text += &format::table(&rows);
    if status.servers.len() > num_servers {
        text +=
            &format!("\n... and {} more (--all)", format::count((status.servers.len() - num_servers) as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::dispatch::{PausedServer, PublishedStatus};
    use crate::pipeline::ServerStatus;

    fn status(pending: u64) -> DatasetStatus {
        DatasetStatus {
            source: StatusSource::Catalog,
            counts: DispositionCounts { pending, success: 10 - pending, failed: 0, skipped: 0 },
            num_servers: Some(1),
            num_partitions: Some(2),
            finished_partitions: Some(if pending == 0 { 2 } else { 1 }),
            leased_partitions: Some(0),
            image_bytes: Some(1000),
            servers: Vec::new(),
            in_use_by: None,
            run: None,
        }
    }

    #[test]
    fn watching_ends_when_nothing_is_left_to_do() {
        let left = Cell::new(3);
        let shown = RefCell::new(Vec::new());
        let show = |status: &DatasetStatus| {
            shown.borrow_mut().push(status.counts.pending);
            Ok(String::new())
        };
        watch(|| Ok(status(left.get())), show, || left.set(left.get() - 1)).unwrap();
        assert_eq!(*shown.borrow(), [3, 2, 1, 0]);
    }

    #[test]
    fn a_watched_status_is_a_line_unless_it_can_be_shown_in_place() {
        let args = StatusArgs { all: true, watch: true, schedule: false, json: false };
        let mut pace = Pace::default();
        let line = watch_text(&status(4), &args, false, &mut pace).unwrap();
        assert_eq!(line, "10 records: 6 images (1.0 kB), 0 failed, 0 skipped, 4 pending (60.0 % done)");
        let screen = watch_text(&status(4), &args, true, &mut pace).unwrap();
        let bar = "█".repeat(24) + &"░".repeat(16);
        let expected = format!("{CLEAR}{bar} 60.0 %\n\n{line}\n1 of 2 partitions finished on 1 servers");
        assert_eq!(screen, expected);
        let json = watch_text(&status(4), &StatusArgs { json: true, ..args }, true, &mut pace).unwrap();
        assert!(!json.contains('\n') && json.contains("\"pending\":4"), "{json}");
    }

    #[test]
    fn a_watched_run_shows_its_pace() {
        let mut pace = Pace::default();
        let mut run = PublishedStatus {
            state: "running".into(),
            counts: status(4).counts,
            ..PublishedStatus::default()
        };
        let at_work = |run: &PublishedStatus| DatasetStatus {
            in_use_by: Some("process 7 on node a".into()),
            run: Some(run.clone()),
            ..status(4)
        };
        head(&at_work(&run), &mut pace);
        run.progress.success = 2;
        let text = head(&at_work(&run), &mut pace);
        assert!(text.contains(" images/s  ") && text.contains("8 ok  0 failed  ETA "), "{text}");
        assert!(!head(&status(4), &mut pace).contains("images/s"));
    }

    #[test]
    fn what_status_json_does_not_tell_is_not_made_up() {
        let published = DatasetStatus {
            source: StatusSource::Published,
            num_servers: None,
            num_partitions: None,
            finished_partitions: None,
            leased_partitions: None,
            image_bytes: None,
            ..status(4)
        };
        let text = text(&published, 1);
        assert!(!text.contains("bytes") && !text.contains("partitions"), "{text}");
        assert!(!published.is_done());
        assert!(serde_json::to_value(&published).unwrap()["num_servers"].is_null());
    }

    #[test]
    fn servers_that_are_left_alone_are_named() {
        let paused = |server_name: &str, until, http_status| PausedServer {
            server_name: server_name.into(),
            until,
            cause: "connect".into(),
            http_status,
        };
        let run = PublishedStatus {
            state: "running".into(),
            updated_at: 1_772_366_400_000,
            paused_servers: vec![
                paused("busy.example", 1_772_366_460_000, Some(429)),
                paused("dead.example", 1_772_366_401_000, None),
                paused("back.example", 1_772_366_400_000, None),
            ],
            ..PublishedStatus::default()
        };
        let in_use_by = Some("process 7 on node a".to_owned());
        let text = text(&DatasetStatus { in_use_by, run: Some(run), ..status(4) }, 1);
        assert!(
            text.contains("\nbusy.example is left alone until 2026-03-01 12:01:00 UTC (429)\n"),
            "{text}"
        );
        assert!(text.contains("(connect)") && !text.contains("back.example"), "{text}");
    }

    #[test]
    fn records_without_a_usable_url_are_no_server() {
        let server = ServerStatus {
            server_name: None,
            counts: DispositionCounts { skipped: 2, ..DispositionCounts::default() },
            image_bytes: 0,
        };
        let text = text(&DatasetStatus { servers: vec![server], ..status(0) }, 1);
        assert!(text.contains("(no usable URL)"), "{text}");
    }
}
