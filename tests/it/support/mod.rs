//! Servers for tests, all on the loopback interface and gone when dropped.
//!
//! - [`nasty`]: a raw TCP server that misbehaves as scripted, path by path;
//! - [`tls`]: a certificate authority for tests and a farm that speaks for every name, over TLS and plain;
//! - [`street`]: servers of different manners, each with a log that says who was rude;
//! - [`slurm`]: a real Slurm of virtual nodes;
//! - [`terminal`]: a process on a pseudo-terminal;
//! - polite servers with limits and a request log are in the library: `ddl::demo::DemoFarm`.

#![allow(dead_code, reason = "each topic uses its part of the support")]

pub mod nasty;
pub mod project;
pub mod slurm;
pub mod street;
pub mod terminal;
pub mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Ends a test that cannot run here. Where `make test` has set up everything, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("TESTS_MUST_RUN").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

/// A listener on a thread and a runtime of its own; both end when it is dropped.
#[derive(Debug)]
pub struct Listener {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a free port of 127.0.0.1 and runs `serve` as a task for each connection.
    pub fn start<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (started, starts) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                started.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        _ = &mut stopped => break,
                    };
                    match accepted {
                        Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                        // Out of file descriptors, most likely: some will come free.
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            });
            // Dropping the runtime here ends every connection.
        });
        let addr = starts.recv().expect("the listener starts");
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
