//! Panics that are expected: codecs panic on hostile bytes, and that is a failure of one image.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Whether a panic of this thread is caught and told of by whoever catches it.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run`; a panic becomes its message. What it may have left half done is the caller's to judge.
///
/// The panic passes the process's panic hook all the same: see [`silence_caught_panics`].
///
/// # Errors
/// What the panic said.
pub fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let outer = IS_CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(outer);
    result.map_err(|panic| panic_message(panic.as_ref()))
}

/// Keeps panics that [`catch_panic`] catches from being printed. For a binary, once: the hook is the process's.
pub fn silence_caught_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IS_CAUGHT.get() {
            print(panic);
        }
    }));
}

/// What a panic said.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_uncaught_panics_reach_the_hook_beneath() {
        // The hook is the process's, and so are the panics of other tests that may run meanwhile.
        let me = std::thread::current().id();
        let printed = Arc::new(AtomicUsize::new(0));
        let count = printed.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match std::thread::current().id() == me {
            true => drop(count.fetch_add(1, Ordering::SeqCst)),
            false => before(panic),
        }));
        silence_caught_panics();
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(catch_panic(|| -> u8 { panic!("index {}", 7) }), Err("index 7".to_owned()));
        assert_eq!(
            catch_panic(|| catch_panic(|| panic!("within"))).map(|inner: Result<(), _>| inner.is_err()),
            Ok(true)
        );
        assert_eq!(printed.load(Ordering::SeqCst), 0);
        assert!(catch_unwind(|| panic!("nobody tells of it")).is_err());
        assert_eq!(printed.load(Ordering::SeqCst), 1);
    }
}
