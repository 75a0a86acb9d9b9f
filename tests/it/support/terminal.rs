//! A terminal of our own: what programs do only when they talk to a person.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// A process on a pseudo-terminal of 100 columns.
pub struct Terminal {
    master: File,
    child: Child,
    /// What came and was not yet asked for.
    seen: String,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptors are out parameters, the name and the modes are optional, the size outlives the
        // call; each descriptor is owned once. Between fork and exec only system calls are made.
        let (master, slave) = unsafe {
            let made = libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            );
            assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
            command.pre_exec(|| {
                // So that Ctrl-C on this terminal is the child's.
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
            (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let end = || slave.try_clone().unwrap();
        let child = command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { master: master.into(), child, seen: String::new() }
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// What stands on the terminal up to the end of `text`, without what was returned before.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(self.read(), "no `{text}` in:\n{}", self.seen);
        }
    }

    /// Waits for the end; returns the exit code and the rest of what was said.
    pub fn finish(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.seen))
    }

    /// Whether more came. A terminal whose other end is closed is an error on Linux.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.master.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.seen.push_str(&String::from_utf8_lossy(&piece[..length]));
                true
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
