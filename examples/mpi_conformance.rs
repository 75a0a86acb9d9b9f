//! Runs the conformance suite of the message passing as ranks of an MPI job, and measures it.
//!
//! `cargo build --features mpi --example mpi_conformance`, then
//! `mpirun -n 4 target/debug/examples/mpi_conformance`. Exit code 0 on every rank means that it passed.
//! With the argument `lose`, the last rank dies on the way and the others leave as survivors do;
//! `mpirun` then needs `--mca orte_abort_on_non_zero_status 0`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ddl::cluster::conformance::Suite;
use ddl::cluster::{Cluster, ClusterOptions, Ending, launch};

fn main() -> ExitCode {
    let Cluster { endpoint, membership } = match launch(&ClusterOptions::default()) {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (rank, size) = (endpoint.rank, endpoint.size);
    let mut suite = Suite::new(endpoint);
    let lose = std::env::args().nth(1).is_some_and(|argument| argument == "lose");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ran = runtime.block_on(async {
        let start = Instant::now();
        let measured = suite.run().await?;
        let seconds = start.elapsed().as_secs_f64();
        // The last transfers of others may still pass through; then nothing is left to do.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (cpu, idle) = (cpu_time(), Instant::now());
        tokio::time::sleep(Duration::from_secs(3)).await;
        let idle_cpu = (cpu_time() - cpu).as_secs_f64() / idle.elapsed().as_secs_f64() * 100.0;
        println!("rank {rank} of {size}: {seconds:.2} s, idle {idle_cpu:.2} % of a core, {measured:?}");
        if lose && rank == size - 1 {
            std::process::abort();
        }
        if lose {
            // The dead rank keeps a message for ever; leaving must not wait for it.
            suite.endpoint.outbox.send(size - 1, vec![0; 5_000_000]).map_err(|e| e.to_string())?;
            return Ok(suite.endpoint);
        }
        suite.say_goodbye().await
    });
    let mut endpoint = match ran {
        Ok(endpoint) => endpoint,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    if lose && rank != 0 {
        // `mpirun` ends the job when a rank leaves without `MPI_Finalize`: let rank 0 be the first.
        std::thread::sleep(Duration::from_secs(4));
    }
    let start = Instant::now();
    let ending = membership.finish(lose);
    println!("rank {rank}: {ending:?} after {:.1?}", start.elapsed());
    drop(endpoint.outbox);
    let leftover = runtime.block_on(endpoint.inbox.recv());
    let expected = if lose { Ending::Abandoned } else { Ending::Finished };
    if ending != expected || leftover.is_some() {
        eprintln!("error: rank {rank} ended with {ending:?}, leftover {leftover:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let nanoseconds = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}
