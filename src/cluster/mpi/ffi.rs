//! The dozen MPI calls we make, with their results looked at.
//!
//! The safe interface of `rsmpi` ignores return codes and leaves errors fatal, so this uses the C
//! functions with `MPI_ERRORS_RETURN`. Buffers are owned by [`Transfers`] for as long as MPI may touch
//! them, and leaked rather than freed if a transfer never completes.
//!
//! # Safety of the whole file
//! MPI is initialised at `FUNNELED`: only the thread that initialised it may call it. [`World`] is proof
//! of that initialisation and cannot leave its thread (it is not `Send`), and every call needs it or a
//! `Transfers`, which holds requests and so is not `Send` either. All pointers handed over are to locals
//! that outlive the call, or to the heap buffers of `Transfers`.

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::{mem, ptr};

use mpi::ffi;

use super::super::ClusterError;
use super::super::endpoint::MAX_MESSAGE_BYTES;
use crate::model::Rank;

/// All our messages are of one kind; the frame inside tells them apart.
const TAG: c_int = 0;

/// How the library names itself. May be asked before it is initialised, from any thread.
pub(super) fn library_version() -> Option<String> {
    let mut text = [0_u8; ffi::MPI_MAX_LIBRARY_VERSION_STRING as usize];
    let mut length = 0;
    // SAFETY: the buffer is as long as the library asks; the call is allowed at any time.
    let code = unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast::<c_char>(), &raw mut length) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    (code == ffi::MPI_SUCCESS as c_int).then(|| String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The job this process belongs to.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rank: Rank,
    pub(super) size: u32,
    /// Keeps it on the thread that initialised MPI.
    thread_bound: PhantomData<*const ()>,
}

/// A message that has been matched with its receive and waits for a buffer.
pub(super) struct Matched {
    pub(super) from: Rank,
    pub(super) bytes: usize,
    handle: ffi::MPI_Message,
}

impl World {
    /// Initialises MPI on this thread.
    pub(super) fn join() -> Result<Self, ClusterError> {
        let mut initialized = 0;
        // SAFETY: may be called at any time, from any thread.
        check("MPI_Initialized", unsafe { ffi::MPI_Initialized(&raw mut initialized) })?;
        if initialized != 0 {
            return Err(ClusterError::JoinedBefore);
        }
        let mut provided = 0;
        // SAFETY: first call; null arguments are allowed since MPI-2.
        check("MPI_Init_thread", unsafe {
            ffi::MPI_Init_thread(
                ptr::null_mut(),
                ptr::null_mut(),
                ffi::RSMPI_THREAD_FUNNELED,
                &raw mut provided,
            )
        })?;
        // SAFETY: constants of the library.
        if provided < unsafe { ffi::RSMPI_THREAD_FUNNELED } {
            return Err(ClusterError::ThreadLevel { provided });
        }
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI is initialised on this thread.
        unsafe {
            let comm = ffi::RSMPI_COMM_WORLD;
            check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN))?;
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(comm, &raw mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(comm, &raw mut size))?;
        }
        Ok(Self { rank: rank as Rank, size: size as u32, thread_bound: PhantomData })
    }

    /// Starts sending; complete when the receiver has taken it.
    pub(super) fn send<T>(
        &self,
        to: Rank,
        payload: Vec<u8>,
        note: T,
        into: &mut Transfers<T>,
    ) -> Result<(), ClusterError> {
        // SAFETY: constants of the library, then a buffer that `into` keeps until the request completes.
        // The heap block of a `Vec` stays where it is when the `Vec` moves.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            check(
                "MPI_Issend",
                ffi::MPI_Issend(
                    payload.as_ptr().cast(),
                    payload.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    to as c_int,
                    TAG,
                    ffi::RSMPI_COMM_WORLD,
                    &raw mut request,
                ),
            )?;
            into.push(request, payload, note);
        }
        Ok(())
    }

    /// Takes the next message that has arrived from anybody, in the order of its sender.
    ///
    /// Looking three times is for OpenMPI, whose probe looks before it lets messages in: after a nap
    /// the first look finds nothing, and one nap more is what made round trips of 3.5 ms (measured;
    /// three looks: 20 us).
    pub(super) fn probe(&self) -> Result<Option<Matched>, ClusterError> {
        for _ in 0..3 {
            let mut found = 0;
            // SAFETY: a zeroed status is a valid value of that C struct, and MPI overwrites it.
            unsafe {
                let mut handle = ffi::RSMPI_MESSAGE_NULL;
                let mut status: ffi::MPI_Status = mem::zeroed();
                check(
                    "MPI_Improbe",
                    ffi::MPI_Improbe(
                        ffi::RSMPI_ANY_SOURCE,
                        TAG,
                        ffi::RSMPI_COMM_WORLD,
                        &raw mut found,
                        &raw mut handle,
                        &raw mut status,
                    ),
                )?;
                if found != 0 {
                    let mut count = 0;
                    check(
                        "MPI_Get_count",
                        ffi::MPI_Get_count(&raw const status, ffi::RSMPI_UINT8_T, &raw mut count),
                    )?;
                    // `MPI_UNDEFINED` is negative: no such message of ours exists.
                    let bytes = usize::try_from(count).ok().filter(|&n| n as u64 <= MAX_MESSAGE_BYTES);
                    let bytes = bytes.ok_or_else(|| ClusterError::Mpi {
                        call: "MPI_Get_count",
                        message: format!("a message of {count} bytes came in"),
                    })?;
                    return Ok(Some(Matched { from: status.MPI_SOURCE as Rank, bytes, handle }));
                }
            }
        }
        Ok(None)
    }

    /// Starts receiving a matched message into a buffer of its size.
    pub(super) fn receive<T>(
        &self,
        mut matched: Matched,
        note: T,
        into: &mut Transfers<T>,
    ) -> Result<(), ClusterError> {
        let mut buffer = vec![0; matched.bytes];
        // SAFETY: as for `send`; the buffer is as long as the message.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            check(
                "MPI_Imrecv",
                ffi::MPI_Imrecv(
                    buffer.as_mut_ptr().cast(),
                    buffer.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    &raw mut matched.handle,
                    &raw mut request,
                ),
            )?;
            into.push(request, buffer, note);
        }
        Ok(())
    }

    /// Starts a barrier, complete when every rank has started its own.
    pub(super) fn barrier<T>(&self, note: T, into: &mut Transfers<T>) -> Result<(), ClusterError> {
        // SAFETY: MPI is initialised on this thread.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            check("MPI_Ibarrier", ffi::MPI_Ibarrier(ffi::RSMPI_COMM_WORLD, &raw mut request))?;
            into.push(request, Vec::new(), note);
        }
        Ok(())
    }

    /// Ends MPI. Waits for all ranks.
    pub(super) fn finalize(self) -> Result<(), ClusterError> {
        // SAFETY: MPI is initialised on this thread, and `self` is gone afterwards.
        check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
    }
}

/// Transfers under way, each with its buffer and what its owner wants to know when it is done.
pub(super) struct Transfers<T> {
    /// As MPI wants them: in a row. The same index in `owned` belongs to it.
    requests: Vec<ffi::MPI_Request>,
    owned: Vec<(Vec<u8>, T)>,
    done: Vec<c_int>,
}

impl<T> Transfers<T> {
    pub(super) fn new() -> Self {
        Self { requests: Vec::new(), owned: Vec::new(), done: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn push(&mut self, request: ffi::MPI_Request, buffer: Vec<u8>, note: T) {
        self.requests.push(request);
        self.owned.push((buffer, note));
    }

    /// Calls `completed` for every transfer that is done, in no order; says whether there was one.
    pub(super) fn collect(&mut self, mut completed: impl FnMut(Vec<u8>, T)) -> Result<bool, ClusterError> {
        if self.requests.is_empty() {
            return Ok(false);
        }
        self.done.resize(self.requests.len(), 0);
        let mut num_done = 0;
        // SAFETY: `requests` and `done` have the length given; statuses are not wanted. Requests exist
        // only between `World::join` and `World::finalize`, on that thread.
        check("MPI_Testsome", unsafe {
            ffi::MPI_Testsome(
                self.requests.len() as c_int,
                self.requests.as_mut_ptr(),
                &raw mut num_done,
                self.done.as_mut_ptr(),
                ffi::RSMPI_STATUSES_IGNORE,
            )
        })?;
        // From the back, so that `swap_remove` moves none that is still to be removed.
        let done = &mut self.done[..usize::try_from(num_done).unwrap_or(0)];
        done.sort_unstable_by(|a, b| b.cmp(a));
        for &index in &*done {
            self.requests.swap_remove(index as usize);
            let (buffer, note) = self.owned.swap_remove(index as usize);
            completed(buffer, note);
        }
        Ok(!done.is_empty())
    }
}

impl<T> Drop for Transfers<T> {
    /// Gives up buffers that MPI may still read or write.
    fn drop(&mut self) {
        mem::forget(mem::take(&mut self.owned));
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), ClusterError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0_u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the buffer is as long as the library asks; the call is allowed wherever errors come from.
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &raw mut length) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    let message = if known == ffi::MPI_SUCCESS as c_int {
        String::from_utf8_lossy(&text[..length]).into_owned()
    } else {
        format!("error {code}")
    };
    Err(ClusterError::Mpi { call, message })
}
