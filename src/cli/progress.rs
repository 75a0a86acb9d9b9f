//! Progress: a bar on a terminal, a line every 30 s elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::GlobalArgs;
use super::format;
use crate::dispatch::PublishedStatus;
use crate::ingest::{IngestProgress, IngestStage};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// Rates are over this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Hidden,
}

impl Display {
    fn new(global: &GlobalArgs) -> Self {
        if global.quiet || global.no_progress {
            Self::Hidden
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
            Self::Bar(bar)
        } else {
            Self::Lines { last: Instant::now() }
        }
    }

    fn show(&mut self, position: u64, length: u64, message: impl FnOnce() -> String) {
        match self {
            Self::Hidden => {}
            Self::Bar(bar) => {
                bar.set_length(length);
                bar.set_position(position);
                bar.set_message(message());
            }
            Self::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                talk!(
                    "{} of {}: {}",
                    format::count(position),
                    format::count(length),
                    message().replace('\n', "; ")
                );
            }
            Self::Lines { .. } => {}
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Shows a download.
pub(super) struct DownloadProgress {
    display: Display,
    /// When, images and bytes at the start of the window over which rates are taken.
    window: Vec<(Instant, u64, u64)>,
}

impl DownloadProgress {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        let display = Display::new(global);
        if let Display::Bar(bar) = &display {
            let template = "{bar:30} {percent:>3} %  {human_pos} of {human_len}  {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
        Self { display, window: Vec::new() }
    }

    pub(super) fn show(&mut self, status: &PublishedStatus) {
        if matches!(status.state.as_str(), "done" | "stopped" | "failed") {
            return self.display.clear();
        }
        let now = Instant::now();
        let progress = &status.progress;
        let done = progress.success + progress.failed + progress.skipped;
        self.window.push((now, done, progress.received_bytes));
        self.window.retain(|(at, ..)| now.duration_since(*at) <= RATE_WINDOW);
        let (since, done_then, bytes_then) = self.window[0];
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        let rate = (done.saturating_sub(done_then)) as f64 / seconds;
        let byte_rate = (progress.received_bytes.saturating_sub(bytes_then)) as f64 / seconds;
        // What the ranks have done and the catalog has not yet committed counts as done here.
        let uncommitted = done.saturating_sub(status.committed);
        let pending = status.counts.pending.saturating_sub(uncommitted);
        let total = status.counts.total();
        self.display.show(total - pending, total, || {
            let mut text = format!(
                "{rate:.0} images/s  {}/s  {} ok  {} failed",
                format::bytes(byte_rate as u64),
                format::count(
                    status.counts.success
                        + progress.success.saturating_sub(progress.success.min(status.committed))
                ),
                format::count(status.counts.failed),
            );
            if rate > 0.0 {
                let left = Duration::from_secs_f64((pending as f64 / rate).min(1e9));
                text.push_str(&format!("  ETA {}", format::duration(left)));
            }
            let slowest: Vec<String> = status
                .slowest_servers
                .iter()
                .take(3)
                .map(|server| match server.seconds_left {
                    Some(left) => format!(
                        "{} {}",
                        server.server_name,
                        format::duration(Duration::from_secs_f64(left.min(1e9)))
                    ),
                    None => format!("{} no answer yet", server.server_name),
                })
                .collect();
            if !slowest.is_empty() {
                text.push_str(&format!("\nslowest: {}", slowest.join(", ")));
            }
            text
        });
    }
}

/// Shows an ingest.
pub(super) struct IngestDisplay(Display);

impl IngestDisplay {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        let display = Display::new(global);
        if let Display::Bar(bar) = &display
            && let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}")
        {
            bar.set_style(style);
        }
        Self(display)
    }

    pub(super) fn show(&mut self, progress: IngestProgress) {
        let verb = match progress.stage {
            IngestStage::Reading => "rows read",
            IngestStage::Writing => "rows written",
        };
        let (position, length) = match (progress.stage, progress.bytes_total) {
            (IngestStage::Reading, Some(total)) => (progress.bytes_read, total),
            _ => (progress.rows, progress.rows),
        };
        self.0.show(position, length, || format!("{} {verb}", format::count(progress.rows)));
    }

    pub(super) fn clear(&self) {
        self.0.clear();
    }
}
