//! What the verbs that run as ranks tell, and how they leave.

use super::super::Exit;
use super::super::args::GlobalArgs;
use crate::cluster::Ending;
use crate::dispatch::PublishedStatus;
use crate::runtime::{Shutdown, StopReason};

/// Shows the status of a run; once it is asked to stop, says so.
pub(super) fn observer(
    global: &GlobalArgs,
    shutdown: &Shutdown,
    num_ranks: u32,
    mut show: impl FnMut(&PublishedStatus),
) -> impl FnMut(&PublishedStatus) {
    if num_ranks > 1 && !global.quiet {
        talk!("{num_ranks} ranks");
    }
    let (shutdown, mut told) = (shutdown.clone(), global.quiet);
    move |status| {
        if let Some(reason) = shutdown.requested().filter(|_| !told) {
            told = true;
            talk!("{}", stopping(reason));
        }
        show(status);
    }
}

fn stopping(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Interrupt => {
            "stopping: what is under way may still arrive, then parts are sealed; Ctrl-C again stops at once"
        }
        _ => "stopping: what is under way may still arrive, then parts are sealed",
    }
}

/// The exit code, unless ranks are gone: MPI's own exit routines would wait for them, so the process then ends here.
pub(super) fn leave(ending: Ending, exit: Exit) -> Exit {
    if ending == Ending::Abandoned {
        leave_at_once(exit);
    }
    exit
}

/// `_exit`: without the exit routines of any library.
fn leave_at_once(exit: Exit) -> ! {
    // SAFETY: `_exit` has no preconditions; nothing in this process is left to be flushed.
    unsafe { libc::_exit(exit as i32) }
}
