//! How the search for near-duplicates grows: random hashes, with near ones and equal ones planted among them.
//!
//! `near_scale HASHES DISTANCE [MEMORY_MIB [FOLDER]]` prints one row of the table in `docs/BENCHMARKS.md`. A tenth of the
//! hashes are 1 to 40 bits off an earlier one, and a hundredth equal one: how many of the planted pairs within the
//! distance were found is checked.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ddl::near::{HashesBuilder, NearError, NearOptions, Search, Shard, stars};
use ddl::runtime::Shutdown;
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [num_hashes, distance, rest @ ..] = &arguments[..] else {
        return Err("HASHES DISTANCE [MEMORY_MIB [FOLDER]]".into());
    };
    let (num_hashes, distance): (u64, u32) = (num_hashes.parse()?, distance.parse()?);
    let memory_mib: u64 = rest.first().map_or(Ok(1024), |mib| mib.parse())?;
    let folder = rest.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let options = NearOptions { distance, memory_bytes: memory_mib << 20, ..NearOptions::default() };

    let start = Instant::now();
    let mut hashes = HashesBuilder::new(&folder, &options);
    let mut planted = 0;
    for record in 0..num_hashes {
        let (hash, near) = synthetic(record);
        planted += u64::from(near.is_some_and(|near| (1..=distance).contains(&near)));
        hashes.push(record, &hash)?;
    }
    let hashes = hashes.finish()?;
    let collected = start.elapsed();

    let shutdown = Shutdown::new();
    let search = Search { options: &options, folder: &folder, shard: Shard::WHOLE, shutdown: &shutdown };
    let found = search.pairs_within(&hashes)?;
    let searched = start.elapsed();
    let (mut as_planted, mut others) = (0, 0);
    let pairs = found.pairs.inspect(|pair| {
        if let Ok(pair) = pair {
            match origin(pair.second) == Some(pair.first) {
                true => as_planted += 1,
                false => others += 1,
            }
        }
    });
    let mut removed = 0_u64;
    stars(pairs, hashes.copies(), num_hashes, |_| {
        removed += 1;
        Ok::<(), NearError>(())
    })?;
    let left_out: u64 = found.report.left_out.iter().map(|bucket| bucket.comparisons).sum();
    println!(
        "| hashes | distance | MiB given | collect s | search s | judge s | CPU s | peak MiB | comparisons | left out | planted pairs found | other pairs | copies | removed |"
    );
    println!("|{}", "---|".repeat(14));
    println!(
        "| {num_hashes} | {distance} | {memory_mib} | {:.1} | {:.1} | {:.1} | {:.0} | {} | {:.2e} | {left_out} | {as_planted}/{planted} | {others} | {} | {removed} |",
        collected.as_secs_f64(),
        (searched - collected).as_secs_f64(),
        (start.elapsed() - searched).as_secs_f64(),
        cpu_seconds(),
        peak_mib()?,
        found.report.comparisons as f64,
        hashes.counts().copies,
    );
    Ok(())
}

/// The record that a record was made from.
fn origin(record: u64) -> Option<u64> {
    let has_one = record >= 10 && (record % 10 == 9 || record % 100 == 50);
    has_one.then(|| fastrand::Rng::with_seed(!record).u64(..record / 10) * 10 + 1)
}

/// A hash, and by how many bits it differs from that of its origin.
fn synthetic(record: u64) -> ([u8; 32], Option<u32>) {
    let mut random = fastrand::Rng::with_seed(record);
    let Some(origin) = origin(record) else {
        let mut hash = [0; 32];
        random.fill(&mut hash);
        return (hash, None);
    };
    // Origins have none of their own.
    let (mut hash, _) = synthetic(origin);
    let bits = if record % 10 == 9 { random.u32(1..=40) } else { 0 };
    let before = hash;
    while distance(&before, &hash) < bits {
        let bit = random.usize(..256);
        let mask = 1 << (bit % 8);
        hash[bit / 8] = hash[bit / 8] & !mask | !before[bit / 8] & mask;
    }
    (hash, Some(bits))
}

fn distance(one: &[u8; 32], other: &[u8; 32]) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

/// CPU time of this process so far, all threads.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that the process had resident.
fn peak_mib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}
