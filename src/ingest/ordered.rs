//! Work spread over threads, results in the order of the items.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Hands an item on; false means that nobody wants more, and the producer should return.
pub(super) type Push<'a, T> = &'a mut dyn FnMut(T) -> bool;

/// Runs `produce` on a thread of its own, `work` on `threads` threads and `consume` on this one.
///
/// Results reach `consume` in the order in which their items were produced, so what it does is the
/// same for any number of threads. At most `3 * threads` items are under way: that bounds memory.
///
/// # Errors
/// The first error in that order, then that of `produce`.
///
/// # Panics
/// If one of the three panics.
pub(super) fn ordered<T: Send, U: Send, R: Send, E: Send>(
    threads: usize,
    produce: impl FnOnce(Push<'_, T>) -> Result<R, E> + Send,
    work: impl Fn(T) -> Result<U, E> + Sync,
    mut consume: impl FnMut(U) -> Result<(), E>,
) -> Result<R, E> {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let (work_sender, work_receiver) = sync_channel(threads);
        let (order_sender, order_receiver) = sync_channel::<Receiver<Result<U, E>>>(threads);
        let producer = scope.spawn(move || {
            produce(&mut |item| {
                let (sender, receiver) = sync_channel(1);
                order_sender.send(receiver).is_ok() && work_sender.send((item, sender)).is_ok()
            })
        });
        let work_receiver = Mutex::new(work_receiver);
        let (work, work_receiver) = (&work, std::sync::Arc::new(work_receiver));
        for _ in 0..threads {
            let work_receiver = std::sync::Arc::clone(&work_receiver);
            scope.spawn(move || {
                loop {
                    let next = work_receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((item, sender)) = next else { return };
                    // Nobody listens any more once the consumer has failed.
                    let _ = sender.send(work(item));
                }
            });
        }
        drop(work_receiver);
        let mut consumed = Ok(());
        for result in order_receiver {
            // An item without a result: its worker panicked, and the scope passes that on.
            let Ok(result) = result.recv() else { break };
            consumed = result.and_then(&mut consume);
            if consumed.is_err() {
                break;
            }
        }
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        consumed.and(produced)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [1, 2, 5] {
            let mut seen = Vec::new();
            let produced: Result<&str, ()> = ordered(
                threads,
                |push| {
                    assert!((0..100_u64).all(push));
                    Ok("all")
                },
                |item| {
                    thread::sleep(Duration::from_micros(item * 7 % 50));
                    Ok(item * 2)
                },
                |item| {
                    seen.push(item);
                    Ok(())
                },
            );
            assert_eq!(produced, Ok("all"));
            assert_eq!(seen, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_stops_the_producer() {
        let endless = |push: Push<'_, u32>| {
            let mut item = 0;
            while push(item) {
                item += 1;
            }
            Ok::<(), u32>(())
        };
        let work = |item: u32| if item >= 10 { Err(item) } else { Ok(item) };
        assert_eq!(ordered(3, endless, work, |_| Ok(())), Err(10));
        assert_eq!(ordered(3, endless, Ok, |item| if item == 7 { Err(item) } else { Ok(()) }), Err(7));
        let failing = |push: Push<'_, u32>| {
            push(1);
            Err::<(), u32>(99)
        };
        assert_eq!(ordered(3, failing, Ok, |_| Ok(())), Err(99));
    }
}
