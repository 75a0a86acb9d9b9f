//! The rate controllers against real servers on the loopback interface: a few cells of the simulator's tables, in real
//! time, through the real fetcher.
//!
//! `cargo run --release --example rate_loopback [SECONDS]`: all cells at once, each for so long (60).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ddl::demo::{DemoFarm, FarmOptions, ServerBehaviour, plain_server};
use ddl::fetch::rate::RateControl;
use ddl::fetch::{ConnectTo, FetchOptions, FetchOutcome, Fetcher, ServerRules, UnboundedMemory};
use ddl::model::ServerName;
use url::Url;

/// Tasks that want to ask the server all the time; a partition has a few more than connections.
const TASKS: usize = 128;

struct Cell {
    behaviour: ServerBehaviour,
    /// Images per second of a client who knows the server.
    oracle: f64,
    options: FetchOptions,
}

/// What came of one cell.
struct Outcome {
    goodput: f64,
    refused_per_1000: f64,
    most_under_way: u32,
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let duration = Duration::from_secs(seconds);
    let contenders = ["fixed 10/s", "fixed 100/s", "AIMD", "PAARC", "adaptive"];
    let scenarios: [(&str, f64, ServerBehaviour); 4] = [
        ("steady: 20 slots, 200/s", 200.0, ServerBehaviour { num_workers: Some(20), ..latency(100) }),
        ("small: 1 slot, 1/s", 1.0, ServerBehaviour { num_workers: Some(1), ..latency(1000) }),
        (
            "rate limit 20/s, Retry-After",
            20.0,
            ServerBehaviour { requests_per_second: Some(20.0), burst: 20, ..latency(20) },
        ),
        (
            "4 connections, then 429",
            40.0,
            ServerBehaviour { max_in_flight: Some(4), retry_after: Duration::ZERO, ..latency(100) },
        ),
    ];
    println!("| scenario | {} |", contenders.join(" | "));
    println!("|---|{}", "---|".repeat(contenders.len()));
    let rows: Vec<_> = scenarios
        .into_iter()
        .map(|(name, oracle, behaviour)| {
            let cells = contenders.map(|contender| {
                let cell = Cell { behaviour: behaviour.clone(), oracle, options: options(contender) };
                thread::spawn(move || run(&cell, duration))
            });
            (name, cells)
        })
        .collect();
    for (name, cells) in rows {
        print!("| {name} |");
        for cell in cells {
            let Outcome { goodput, refused_per_1000, most_under_way } = cell.join().expect("no cell panics");
            print!(" {goodput:.2}, {refused_per_1000:.1}, {most_under_way} |");
        }
        println!();
    }
    println!("\nEach cell: goodput over the oracle's, refusals per 1,000 requests, most requests under way.");
}

fn latency(ms: u64) -> ServerBehaviour {
    ServerBehaviour { latency: Duration::from_millis(ms), ..ServerBehaviour::default() }
}

fn options(contender: &str) -> FetchOptions {
    let (rate_control, default_rate_limit) = match contender {
        "fixed 10/s" => (RateControl::Fixed, 10.0),
        "fixed 100/s" => (RateControl::Fixed, 100.0),
        "AIMD" => (RateControl::Aimd, 0.0),
        "PAARC" => (RateControl::Paarc, 0.0),
        _ => (RateControl::Adaptive, 0.0),
    };
    FetchOptions {
        user_agent: "ddl-bench (bench@ddl.example)".into(),
        respect_robots_txt: false,
        allow_private_networks: true,
        max_connections_per_server: TASKS,
        server_patience: Duration::from_secs(3600),
        rate_control,
        default_rate_limit,
        ..FetchOptions::default()
    }
}

fn run(cell: &Cell, duration: Duration) -> Outcome {
    let name = plain_server(0);
    let behaviours = [(name.clone(), cell.behaviour.clone())].into();
    let farm = DemoFarm::start(FarmOptions { behaviours, ..FarmOptions::default() }).expect("a farm starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let good = runtime.block_on(async {
        let connect_to: ConnectTo = format!("::{}", farm.addr()).parse().expect("an address is a target");
        let options = FetchOptions { connect_to: vec![connect_to], ..cell.options.clone() };
        let fetcher = Arc::new(Fetcher::new(options, ServerRules::default()).expect("sound options"));
        let until = Instant::now() + duration;
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(ask(fetcher.clone(), name.clone(), task, until))).collect();
        let mut good = 0;
        for task in tasks {
            good += task.await.expect("no task panics");
        }
        good
    });
    let counts = farm.counts(&name);
    Outcome {
        goodput: f64::from(good) / duration.as_secs_f64() / cell.oracle,
        refused_per_1000: 1000.0 * counts.num_refused as f64 / counts.num_requests as f64,
        most_under_way: counts.max_in_flight,
    }
}

/// Asks for one image after the other; returns how many there were in time.
async fn ask(fetcher: Arc<Fetcher>, name: String, task: usize, until: Instant) -> u32 {
    let server = fetcher.server(&ServerName::parse(&name).expect("a name"));
    let mut good = 0;
    for number in 0.. {
        let url = Url::parse(&format!("http://{name}/plain/{task}-{number}.jpg")).expect("a URL");
        let fetched = tokio::time::timeout_at(until.into(), fetcher.fetch(&url, &UnboundedMemory)).await;
        match fetched {
            Ok(FetchOutcome::Body(_)) => good += 1,
            Ok(_) => {
                let pause = server.pause().map_or(Instant::now(), |pause| pause.until);
                tokio::time::sleep_until(pause.min(until).into()).await;
            }
            Err(_) => break,
        }
        if Instant::now() >= until {
            break;
        }
    }
    good
}
