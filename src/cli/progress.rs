//! Progress: a bar on a terminal, a line every 30 s elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::GlobalArgs;
use super::format;
use crate::catalog::DispositionCounts;
use crate::check::CheckProgress;
use crate::dispatch::PublishedStatus;
use crate::ingest::{IngestProgress, IngestStage};
use crate::model::mask_credentials;

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// Rates are over this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// The bar that is up. Standard error is one for the whole process, and so is what stands on it: a log line
/// that knows nothing of the bar would be written across it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Writes to standard error with the bar out of the way.
pub(super) fn above_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().map_or(None, |bar| bar.clone());
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error for log lines, each written whole.
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        above_bar(|| io::stderr().lock().write_all(mask_credentials(&text).as_bytes()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Hidden,
}

impl Display {
    fn new(global: &GlobalArgs, template: &str) -> Self {
        if global.quiet || global.no_progress {
            return Self::Hidden;
        }
        if !io::stderr().is_terminal() {
            return Self::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Ok(mut shown) = BAR.lock() {
            *shown = Some(bar.clone());
        }
        Self::Bar(bar)
    }

    fn show(&mut self, position: u64, length: u64, message: impl FnOnce() -> String) {
        match self {
            Self::Hidden => {}
            Self::Bar(bar) => {
                bar.set_length(length);
                bar.set_position(position);
                bar.set_message(message());
            }
            Self::Lines { last } => {
                if is_due(last, Instant::now()) {
                    talk!("{}", line(position, length, &message()));
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            if let Ok(mut shown) = BAR.lock() {
                *shown = None;
            }
            bar.finish_and_clear();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.clear();
    }
}

fn is_due(last: &mut Instant, now: Instant) -> bool {
    let due = now.duration_since(*last) >= LINE_INTERVAL;
    if due {
        *last = now;
    }
    due
}

fn line(position: u64, length: u64, message: &str) -> String {
    format!("{} of {}: {}", format::count(position), format::count(length), message.replace('\n', "; "))
}

/// Shows a tool's run.
pub(super) struct ToolProgress {
    display: Display,
    started: Instant,
}

impl ToolProgress {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        let display =
            Display::new(global, "{bar:30} {percent:>3} %  {human_pos} of {human_len} partitions  {msg}");
        Self { display, started: Instant::now() }
    }

    pub(super) fn show(&mut self, status: &PublishedStatus) {
        if status.state != "running" {
            return self.display.clear();
        }
        let done = status.partitions.saturating_sub(status.unfinished_partitions);
        let per_second = status.committed as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        self.display.show(done, status.partitions, || {
            format!("{} images, {per_second:.0}/s", format::count(status.committed))
        });
    }
}

/// Shows a download.
pub(super) struct DownloadProgress {
    display: Display,
    pace: Pace,
}

impl DownloadProgress {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        let display = Display::new(global, "{bar:30} {percent:>3} %  {human_pos} of {human_len}  {msg}");
        Self { display, pace: Pace::default() }
    }

    pub(super) fn show(&mut self, status: &PublishedStatus) {
        if matches!(status.state.as_str(), "done" | "stopped" | "failed") {
            return self.display.clear();
        }
        let seen = self.pace.see(status, Instant::now());
        let total = seen.counts.total();
        self.display.show(total - seen.counts.pending, total, || seen.text(status));
    }
}

/// What is known of a run's pace.
#[derive(Default)]
pub(super) struct Pace {
    /// What the catalog had before this run committed anything.
    before: Option<DispositionCounts>,
    window: Vec<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    images: u64,
    /// Records with any outcome.
    done: u64,
    bytes: u64,
}

/// A run at one moment. What the ranks have done and the catalog has not yet committed counts as done.
pub(super) struct Seen {
    counts: DispositionCounts,
    images_per_second: f64,
    records_per_second: f64,
    bytes_per_second: f64,
}

impl Pace {
    pub(super) fn see(&mut self, status: &PublishedStatus, now: Instant) -> Seen {
        let progress = &status.progress;
        let sample = Sample {
            at: now,
            images: progress.success,
            done: progress.success + progress.failed + progress.skipped,
            bytes: progress.received_bytes,
        };
        self.window.push(sample);
        self.window.retain(|sample| now.duration_since(sample.at) <= RATE_WINDOW);
        let since = self.window[0];
        let seconds = now.duration_since(since.at).as_secs_f64().max(0.001);
        let rate = |then: u64, now: u64| now.saturating_sub(then) as f64 / seconds;

        let committed = status.counts;
        // The first status comes before the first commit.
        let before = *self.before.get_or_insert(committed);
        let mut counts = DispositionCounts {
            pending: 0,
            success: committed.success.max(before.success + progress.success),
            failed: committed.failed.max(before.failed + progress.failed),
            skipped: committed.skipped.max(before.skipped + progress.skipped),
        };
        counts.pending = committed.total().saturating_sub(counts.total());
        Seen {
            counts,
            images_per_second: rate(since.images, sample.images),
            records_per_second: rate(since.done, sample.done),
            bytes_per_second: rate(since.bytes, sample.bytes),
        }
    }
}

impl Seen {
    /// Rates, the time that is left at these, and the servers that take longest.
    pub(super) fn text(&self, status: &PublishedStatus) -> String {
        let mut text = format!(
            "{:.0} images/s  {}/s  {} ok  {} failed",
            self.images_per_second,
            format::bytes(self.bytes_per_second as u64),
            format::count(self.counts.success),
            format::count(self.counts.failed),
        );
        if self.records_per_second > 0.0 {
            text += &format!("  ETA {}", seconds(self.counts.pending as f64 / self.records_per_second));
        }
        let slowest: Vec<String> = status
            .slowest_servers
            .iter()
            .take(3)
            .map(|server| match server.seconds_left {
                _ if status.is_paused(&server.server_name) => {
                    format!("{} is left alone for now", server.server_name)
                }
                Some(left) => format!("{} {}", server.server_name, seconds(left)),
                None => format!("{} nothing committed yet", server.server_name),
            })
            .collect();
        if !slowest.is_empty() {
            text += &format!("\nslowest: {}", slowest.join(", "));
        }
        text
    }
}

fn seconds(seconds: f64) -> String {
    format::duration(Duration::from_secs_f64(seconds.min(1e9)))
}

/// Shows an ingest.
pub(super) struct IngestDisplay(Display);

impl IngestDisplay {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        Self(Display::new(global, "{bar:30} {percent:>3} %  {msg}"))
    }

    pub(super) fn show(&mut self, progress: IngestProgress) {
        let verb = match progress.stage {
            IngestStage::Reading => "rows read",
            IngestStage::Writing => "rows written",
        };
        let (position, length) = position(&progress);
        self.0.show(position, length, || format!("{} {verb}", format::count(progress.rows)));
    }

    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

/// Where the bar stands, of what: reading goes by bytes, writing by rows and from the beginning again.
fn position(progress: &IngestProgress) -> (u64, u64) {
    match (progress.stage, progress.bytes_total, progress.rows_total) {
        (IngestStage::Reading, Some(total), _) => (progress.bytes_read, total),
        (IngestStage::Writing, _, Some(total)) => (progress.rows, total),
        _ => (progress.rows, progress.rows),
    }
}

/// Shows a check.
pub(super) struct CheckDisplay(RefCell<Display>);

impl CheckDisplay {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        Self(RefCell::new(Display::new(global, "{bar:30} {percent:>3} %  {human_pos} of {human_len} {msg}")))
    }

    pub(super) fn show(&self, progress: CheckProgress) {
        let CheckProgress { partitions_done, num_partitions } = progress;
        self.0.borrow_mut().show(partitions_done, num_partitions, || "partitions checked".into());
    }

    pub(super) fn clear(&self) {
        self.0.borrow().clear();
    }
}

/// Shows how far an estimate is.
pub(super) struct EstimateDisplay(Display);

impl EstimateDisplay {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        Self(Display::new(global, "{bar:30} {percent:>3} %  {human_pos} of {human_len} {msg}"))
    }

    pub(super) fn show(&mut self, asked: u64, of: u64) {
        self.0.show(asked, of, || "sizes asked for".into());
    }

    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::ServerProgress;
    use crate::dispatch::protocol::RankProgress;

    /// A run over a dataset of 1000 records, of which 100 were images before.
    fn status(done: [u64; 3], committed: [u64; 3], megabytes: u64) -> PublishedStatus {
        let [success, failed, skipped] = committed;
        let pending = 900 - success - failed - skipped;
        PublishedStatus {
            state: "running".into(),
            counts: DispositionCounts { pending, success: 100 + success, failed, skipped },
            progress: RankProgress {
                success: done[0],
                failed: done[1],
                skipped: done[2],
                received_bytes: megabytes * 1_000_000,
                ..RankProgress::default()
            },
            ..PublishedStatus::default()
        }
    }

    #[test]
    fn images_are_told_from_failures_and_what_is_not_committed_counts() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let first = pace.see(&status([0; 3], [0; 3], 0), start);
        assert_eq!(first.counts, DispositionCounts { pending: 900, success: 100, failed: 0, skipped: 0 });
        assert_eq!(first.text(&status([0; 3], [0; 3], 0)), "0 images/s  0 bytes/s  100 ok  0 failed");

        let later = status([200, 80, 20], [150, 10, 0], 40);
        let seen = pace.see(&later, start + Duration::from_secs(2));
        assert_eq!(seen.counts, DispositionCounts { pending: 600, success: 300, failed: 80, skipped: 20 });
        // 300 records in 2 s, 600 are left.
        assert_eq!(seen.text(&later), "100 images/s  20.0 MB/s  300 ok  80 failed  ETA 4.0s");
    }

    #[test]
    fn rates_forget_what_is_long_ago() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.see(&status([0; 3], [0; 3], 0), start);
        pace.see(&status([500, 0, 0], [500, 0, 0], 0), start + Duration::from_secs(10));
        let seen = pace.see(&status([510, 0, 0], [500, 0, 0], 0), start + Duration::from_secs(12));
        assert!((seen.images_per_second - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_a_lost_rank_had_not_committed_is_taken_back() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.see(&status([300, 0, 0], [0, 0, 0], 0), start);
        let seen = pace.see(&status([0, 0, 0], [250, 0, 0], 0), start + Duration::from_secs(1));
        assert_eq!(seen.counts.success, 350);
        assert!(seen.images_per_second == 0.0);
    }

    #[test]
    fn a_line_every_half_minute() {
        let start = Instant::now();
        let mut last = start;
        let due: Vec<bool> =
            [0, 29, 30, 31, 59, 60, 90].map(|s| is_due(&mut last, start + Duration::from_secs(s))).into();
        assert_eq!(due, [false, false, true, false, false, true, true]);
        assert_eq!(line(1234, 5000, "a\nb"), "1,234 of 5,000: a; b");
    }

    #[test]
    fn the_bar_is_full_when_all_is_written() {
        let mut now = IngestProgress {
            stage: IngestStage::Reading,
            rows: 70,
            rows_total: None,
            bytes_read: 3000,
            bytes_total: Some(3000),
        };
        assert_eq!(position(&now), (3000, 3000));
        (now.stage, now.rows, now.rows_total) = (IngestStage::Writing, 10, Some(70));
        assert_eq!(position(&now), (10, 70));
        now.bytes_total = None;
        assert_eq!(position(&now), (10, 70));
    }

    #[test]
    fn the_slowest_servers_are_named() {
        let server = |name: &str, seconds_left| ServerProgress {
            server_name: name.into(),
            seconds_left,
            ..ServerProgress::default()
        };
        let status = PublishedStatus {
            slowest_servers: vec![server("a.example", None), server("b.example", Some(200.0))],
            ..status([0; 3], [0; 3], 0)
        };
        let text = Pace::default().see(&status, Instant::now()).text(&status);
        assert!(text.ends_with("\nslowest: a.example nothing committed yet, b.example 3m 20s"), "{text}");
    }
}
