//! Log lines: to stderr for people, and one file per rank under `logs/`.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::{DefaultFields, Format};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::{ColorChoice, GlobalArgs, LogFormat};
use super::progress::LogLines;
use crate::model::mask_credentials;

/// A log file of a dataset.
pub(super) struct LogFile<'a> {
    pub folder: &'a Path,
    /// `download-00`, say.
    pub name: String,
    /// `logger_level`, as Python names levels.
    pub level: &'a str,
}

/// Starts logging. Called once, when the dataset is known.
pub(super) fn start(global: &GlobalArgs, file: Option<&LogFile<'_>>) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let ansi = match global.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let (text, json) = match global.log_format {
        LogFormat::Text => (Some(stderr_layer().with_ansi(ansi).with_target(false).with_filter(level)), None),
        LogFormat::Json => (None, Some(stderr_layer().json().with_filter(level))),
    };
    let file = file.and_then(|file| {
        let opened = fs::create_dir_all(file.folder).and_then(|()| {
            File::options().create(true).append(true).open(file.folder.join(format!("{}.log", file.name)))
        });
        match opened {
            Ok(opened) => Some(LineLayer(Mutex::new(opened)).with_filter(python_level(file.level))),
            Err(error) => {
                talk!("warning: no log file in `{}`: {error}", file.folder.display());
                None
            }
        }
    });
    // Another subscriber may be there already when the library runs inside a program.
    let _ = tracing_subscriber::registry().with(text).with(json).with(file).try_init();
}

/// Without a word on its own failures: it would tell of a stderr that is gone on that very stderr, and panic.
fn stderr_layer<S>() -> fmt::Layer<S, DefaultFields, Format, fn() -> LogLines> {
    fmt::layer().with_writer((|| LogLines) as fn() -> LogLines).log_internal_errors(false)
}

fn python_level(name: &str) -> LevelFilter {
    match name.to_ascii_uppercase().as_str() {
        "DEBUG" => LevelFilter::DEBUG,
        "WARNING" | "WARN" => LevelFilter::WARN,
        "ERROR" | "CRITICAL" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

/// Lines as distributed-downloader writes them: `time - LEVEL - pid - message`.
struct LineLayer(Mutex<File>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Our own rooms only: what HTTP and DNS crates tell at DEBUG is theirs.
        if !event.metadata().target().starts_with("ddl") {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let line = format!(
            "{} - {level} - {} - {}{}\n",
            timestamp(),
            std::process::id(),
            message.text.replace('\n', " "),
            message.fields.replace('\n', " ")
        );
        if let Ok(mut file) = self.0.lock() {
            // A log that cannot be written must not end a run.
            let _ = file.write_all(mask_credentials(&line).as_bytes());
        }
    }
}

#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        let _ = if field.name() == "message" {
            write!(self.text, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// `2026-03-01 12:00:00,123` in UTC, in the form of Python's logging.
fn timestamp() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let text = crate::cli::commands::time::date_time(now.as_secs());
    format!("{text},{:03}", now.subsec_millis())
}
