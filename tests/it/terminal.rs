//! What a person sees, and what happens when nobody looks.

use std::process::Stdio;

use ddl::demo::{DemoFarm, FarmOptions, farm_list};

use crate::support::project::Project;
use crate::support::terminal::Terminal;

/// What the editor says after a line: it has given the terminal back.
const ACCEPTED: &str = "\u{1b}[?2004l\r\n";

fn project(farm: &DemoFarm) -> Project {
    let settings = "initializer_type: gbif\ndownloader_parameters: {default_rate_limit: 0}";
    Project::new(farm.addr(), settings).with_rows(farm_list(30, 2, 3))
}

/// Logging with colours panicked in builds with debug assertions: the crate for them was missing.
#[test]
fn every_command_runs_on_a_terminal() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    for args in [&["-v", "ingest"][..], &["-v", "download"], &["status"], &["query", "SELECT 1"], &["check"]]
    {
        let (code, said) = Terminal::start(project.command(args)).finish();
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn a_prompt_outlives_errors_and_interrupts() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    project.ok(&["ingest"]);
    let mut command = project.command(&["query"]);
    command.env("XDG_STATE_HOME", project.path("state"));
    let mut terminal = Terminal::start(command);
    let mut answer = |prompt: &str, keys: &str, ends: &str| {
        terminal.until(prompt);
        terminal.send(keys);
        terminal.until(ends)
    };
    assert!(answer("ddl> ", "\\d\r", "ingests").contains("every downloaded image"));
    assert!(answer("ddl> ", "\\d urls\r", "retry_count").contains("disposition"));
    answer("ddl> ", "\\d nowhere\r", "there is no table `nowhere`");
    answer("ddl> ", "SELECT uid FROM urls;\r", "did you mean `uuid`?");
    // A semicolon within a text that goes on ends nothing.
    answer("ddl> ", "SELECT 'a;\r", ACCEPTED);
    answer("...> ", "b' AS two_lines, 6*7 AS n;\r", " 42 |");
    // A word is completed.
    answer("ddl> ", "SELECT disp\t, count(*) FROM urls GROUP BY 1;\r", " 30 |");
    // Ctrl-C ends a query that would run for days, and the prompt is there again.
    answer(
        "ddl> ",
        "SELECT count(*) FROM generate_series(1, 100000000000000) WHERE value % 7 = 9;\r",
        ACCEPTED,
    );
    terminal.send("\u{3}");
    terminal.until("stopped");
    terminal.until("ddl> ");
    // Leaving is possible where a statement has begun.
    terminal.send("SELECT 1 +\r");
    terminal.until("...> ");
    terminal.send("exit\r");
    let (code, said) = terminal.finish();
    assert_eq!(code, Some(0), "{said}");
    let history = std::fs::read_to_string(project.path("state/ddl/history.txt")).unwrap();
    assert!(
        history.contains("d urls") && history.contains("'a;\\nb'") && history.contains("% 7 = 9"),
        "{history}"
    );
}

/// `ddl download 2>&1 | head -1` ended the run: macros that print panic when nobody reads.
#[test]
fn nobody_need_read_what_is_said() {
    let farm = DemoFarm::start(FarmOptions::default()).unwrap();
    let project = project(&farm);
    for args in [&["-vv", "ingest"][..], &["-vv", "download"], &["-vv", "export", "manifest", "-o", "a.csv"]]
    {
        let mut child = project.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
    assert_eq!(project.query("SELECT count(*) FROM images"), "30");
}
