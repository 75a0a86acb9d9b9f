//! Runs a command on a partition, and sees that nothing of it is left.
//!
//! Its process group has a leader of ours, the guardian, which waits for the end of its input. That comes when this process
//! ends, however it does (a second Ctrl-C, `kill -9`, no memory left), and the guardian then ends the group.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::super::{RunInput, Selects, ToolError};
use super::scratch::Scratch;
use super::{CommandDefinition, ToolDefinition, Variable};
use crate::storage::{StorageError, create_folder, escape_hive};

/// Between SIGTERM and SIGKILL: enough to remove temporary files, and not to be waited for at a job's end.
const GRACE: Duration = Duration::from_secs(5);
/// A command that takes a millisecond is not waited for much longer, and a long one costs nothing to wait for.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// What a command says is kept up to here, and begun again beyond: the end is what counts, and disks are finite.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// Of the last line that it said, for a message.
const MAX_SHOWN_CHARS: usize = 300;

/// Returns when the command has ended well.
pub(super) fn call(
    definition: &ToolDefinition,
    command: &CommandDefinition,
    scratch: &Scratch,
    input: &RunInput,
) -> Result<(), ToolError> {
    let value = |variable: Variable| match variable {
        Variable::Input => scratch.input().to_string_lossy().into_owned(),
        Variable::Selected => scratch.selected().to_string_lossy().into_owned(),
        Variable::Output => scratch.output().to_string_lossy().into_owned(),
        Variable::ServerName => input.folder().to_string(),
        Variable::PartitionId => input.partition_id().to_string(),
    };
    let mut words = command.arguments.iter().map(|argument| argument.fill(value));
    let program = words.next().unwrap_or_default();
    let log = Log::create(input)?;
    let folder = definition.folder();
    // A bare name is looked for in PATH; a path begins where the tool's file is.
    let path = if program.contains('/') { folder.join(&program) } else { PathBuf::from(&program) };
    let mut process = Command::new(path);
    let group = Group::start().map_err(|source| ToolError::Start { program: SHELL.into(), source })?;
    process.args(words).current_dir(folder).process_group(group.id.as_raw_nonzero().get());
    process.stdin(Stdio::null()).stdout(log.handle()?).stderr(log.handle()?);
    process.env("DDL_TOOL_NAME", &definition.name);
    for &(name, variable) in Variable::ALL {
        if variable != Variable::Selected || definition.selects == Selects::Images {
            process.env(format!("DDL_TOOL_{}", name.to_uppercase()), value(variable));
        }
    }
    process.envs(command.environment.iter().map(|(name, value)| (name, value)));
    let mut child =
        process.spawn().map_err(|source| ToolError::Start { program: program.clone(), source })?;
    let own = Pid::from_child(&child);
    let cut_off = wait(own, command.timeout, &log, input);
    if cut_off.is_err() {
        let _ = kill_process_group(group.id, Signal::TERM);
        let since = Instant::now();
        while !has_exited(own) && since.elapsed() < GRACE {
            thread::sleep(LONGEST_PAUSE);
        }
    }
    drop(group);
    let status = child.wait();
    cut_off.map_err(|error| match error {
        CutOff::Stopped(error) => error,
        CutOff::TooLong => {
            log.failure(&format!("`{program}` was ended: it took longer than {:?}", command.timeout))
        }
    })?;
    let status = status.map_err(|source| ToolError::Start { program: program.clone(), source })?;
    match (status.code(), status.signal()) {
        (Some(code), _) if command.success_exit_codes.contains(&code) => {
            log.remove_if_empty();
            Ok(())
        }
        (Some(code), _) => Err(log.failure(&format!("`{program}` ended with exit code {code}"))),
        (None, signal) => {
            Err(log.failure(&format!("`{program}` was ended by signal {}", signal.unwrap_or_default())))
        }
    }
}

/// A process group, of which nothing is left when it is dropped.
struct Group {
    guardian: Child,
    id: Pid,
}

/// Any that POSIX describes will do.
const SHELL: &str = "/bin/sh";
/// What ends the others politely is not to end the guardian.
const GUARDIAN: &str = "trap '' HUP INT TERM; read line; kill -KILL 0";

impl Group {
    fn start() -> io::Result<Self> {
        let mut guardian = Command::new(SHELL);
        guardian.args(["-c", GUARDIAN]).process_group(0);
        let guardian = guardian.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let id = Pid::from_child(&guardian);
        Ok(Self { guardian, id })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The guardian is not reaped yet, so its number is still that of the group.
        let _ = kill_process_group(self.id, Signal::KILL);
        let _ = self.guardian.wait();
    }
}

enum CutOff {
    Stopped(ToolError),
    TooLong,
}

/// Waits for a process, and leaves it to be reaped.
fn wait(process: Pid, timeout: Duration, log: &Log, input: &RunInput) -> Result<(), CutOff> {
    let since = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !has_exited(process) {
        input.check_stop().map_err(CutOff::Stopped)?;
        if since.elapsed() >= timeout {
            return Err(CutOff::TooLong);
        }
        log.keep_short();
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

fn has_exited(process: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error says that there is nobody to wait for.
    !matches!(waitid(WaitId::Pid(process), options), Ok(None) | Err(rustix::io::Errno::INTR))
}

/// What a command says, on both of its outputs: a file under `logs/tools/`.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn create(input: &RunInput) -> Result<Self, ToolError> {
        let server = format!("server_name={}", escape_hive(input.folder().as_str()));
        let folder = input.layout.logs().join("tools").join(&input.tool).join(server);
        create_folder(&folder)?;
        let path = folder.join(format!("partition_id={}.log", input.partition_id()));
        // For appending: what is written after a cut begins at its start.
        let file = File::options().read(true).append(true).create(true).open(&path);
        let file = file.and_then(|file| file.set_len(0).map(|()| file));
        let file =
            file.map_err(|source| StorageError::Io { action: "create", path: path.clone(), source })?;
        Ok(Self { path, file })
    }

    fn handle(&self) -> Result<File, ToolError> {
        let handle = self.file.try_clone();
        Ok(handle.map_err(|source| StorageError::Io { action: "open", path: self.path.clone(), source })?)
    }

    fn keep_short(&self) {
        if self.file.metadata().is_ok_and(|file| file.len() > MAX_LOG_BYTES) {
            let _ = self.file.set_len(0);
        }
    }

    fn remove_if_empty(&self) {
        if self.file.metadata().is_ok_and(|file| file.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// What went wrong, with its last words.
    fn failure(&self, what: &str) -> ToolError {
        let failure = match self.last_line() {
            Some(line) => format!("{what}; it said `{line}` (all of it is in `{}`)", self.path.display()),
            None => format!("{what}, and said nothing"),
        };
        self.remove_if_empty();
        ToolError::Failed(failure)
    }

    fn last_line(&self) -> Option<String> {
        let mut end = Vec::new();
        let mut file = &self.file;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
        file.take(4096).read_to_end(&mut end).ok()?;
        let text = String::from_utf8_lossy(&end);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().filter(|character| !character.is_control()).take(MAX_SHOWN_CHARS).collect())
    }
}
