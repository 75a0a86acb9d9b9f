//! The numbers, by SQL.

use std::collections::BTreeMap;

use super::rows::Rows;
use super::thumbnails::{self, Thumbnail};
use super::traffic::Traffic;
use super::{ReportError, ReportOptions};
use crate::query::QuerySession;

/// Everything that a report tells.
#[derive(Debug)]
pub struct Figures {
    /// Name of the dataset's folder.
    pub name: String,
    /// When the numbers were taken; a text in UTC.
    pub taken_at: String,
    pub totals: Totals,
    pub runs: Vec<Run>,
    pub num_runs: u64,
    pub time_line: TimeLine,
    pub servers: Vec<Server>,
    pub num_folders: u64,
    pub traffic: Traffic,
    /// Why records have failed, and why they were skipped.
    pub failures: Ranking,
    pub skips: Ranking,
    pub longest_sides: Vec<Bin>,
    pub aspects: Vec<Bin>,
    pub file_sizes: Vec<Bin>,
    pub formats: Ranking,
    pub licenses: Ranking,
    pub labels: Ranking,
    pub tools: Vec<Tool>,
    /// Images that at least one tool removes.
    pub num_removed: u64,
    pub duplicates: Duplicates,
    /// UUIDs of the contact sheet.
    pub samples: Vec<String>,
    /// Pictures by UUID.
    pub thumbnails: BTreeMap<String, Thumbnail>,
}

/// The sums over everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: u64,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub pending: u64,
    /// Of the images as stored.
    pub image_bytes: u64,
    pub servers: u64,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub run_id: u64,
    pub kind: String,
    pub started_at: String,
    pub seconds: Option<u64>,
    pub ending: Option<String>,
    pub num_ranks: u64,
    pub success: u64,
    pub failed: u64,
    pub image_bytes: u64,
}

/// Images over time, in steps of one length.
#[derive(Clone, Debug, Default)]
pub struct TimeLine {
    /// `hour`, say.
    pub unit: &'static str,
    /// Start of each step in UTC, and its images; those without any are there, too.
    pub steps: Vec<(String, u64)>,
}

/// A folder of partitions: a server, or one that small servers share.
#[derive(Clone, Debug)]
pub struct Server {
    pub server_name: Option<String>,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
    pub pending: u64,
    pub image_bytes: u64,
}

/// The most frequent values of something, and how many others there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    pub rows: Vec<(Option<String>, u64)>,
    pub others: u64,
    /// Records of the others.
    pub in_others: u64,
}

/// A step of a distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bin {
    pub label: String,
    pub images: u64,
}

#[derive(Clone, Debug)]
pub struct Tool {
    pub name: String,
    pub is_completed: bool,
    pub removed: u64,
    pub new_images: u64,
    /// Verdict and reason.
    pub reasons: Vec<(String, String, u64)>,
    pub other_reasons: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Duplicates {
    /// Images for which another of the dataset stays.
    pub images: u64,
    /// Images that stay for them.
    pub witnesses: u64,
    pub distances: Vec<(u64, u64)>,
    pub pairs: Vec<Pair>,
}

#[derive(Clone, Debug)]
pub struct Pair {
    pub uuid: String,
    pub witness: String,
    pub tool: String,
    pub distance: u64,
}

/// Steps of a time line: names for SQL, and how many seconds they have.
const UNITS: [(&str, i64); 6] =
    [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("week", 604_800), ("month", 2_629_746)];
/// A time line has no more steps of its unit, unless it is of months.
const MAX_STEPS: i64 = 90;
/// Reasons of one tool that are told.
const NUM_REASONS: usize = 12;
/// Runs that are told, the last ones.
const NUM_RUNS: usize = 15;

/// The longest sides that begin a step of their distribution.
const SIDES: [u32; 14] = [0, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192];
/// Kibibytes likewise.
const KIBIBYTES: [u32; 14] = [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
/// Width by height likewise, with their names.
const ASPECTS: [(f64, &str); 10] = [
    (0.0, "below 1:2"),
    (0.5, "1:2"),
    (0.64, "2:3"),
    (0.71, "3:4"),
    (0.85, "4:5"),
    (0.95, "1:1"),
    (1.05, "5:4"),
    (1.29, "4:3"),
    (1.42, "3:2"),
    (1.65, "16:9 and above"),
];

impl Figures {
    /// Asks for everything.
    ///
    /// # Errors
    /// When a query fails, or a file of the dataset or its ledger cannot be read.
    pub async fn read(session: &QuerySession, options: &ReportOptions) -> Result<Self, ReportError> {
        let name = session.layout().root().canonicalize().ok();
        let name = name.as_deref().and_then(|root| root.file_name()).unwrap_or_default().to_string_lossy();
        let now = Rows::of(session, "SELECT to_char(now(), '%Y-%m-%d %H:%M:%S') AS now").await?;
        let totals = totals(session).await?;
        let duplicates = duplicates(session, options).await?;
        let samples = samples(session, options).await?;
        let mut shown = samples.clone();
        shown.extend(duplicates.pairs.iter().flat_map(|pair| [pair.uuid.clone(), pair.witness.clone()]));
        shown.sort_unstable();
        shown.dedup();
        let of_images = |column: &str| format!("SELECT {column} AS what, 1 AS n FROM images");
        let rows = options.num_rows;
        let causes = |disposition: &str| {
            format!(
                "SELECT CASE WHEN cause = 'http_status' THEN cause || ' ' || cast(http_status AS varchar) \
                 ELSE cause END AS what, 1 AS n FROM urls WHERE disposition = '{disposition}'"
            )
        };
        let tools = tools(session).await?;
        let removed = "SELECT count(DISTINCT uuid) AS n FROM verdicts WHERE verdict = 'remove'";
        Ok(Self {
            name: name.into_owned(),
            taken_at: now.first().and_then(|row| row.text("now")).unwrap_or_default().to_owned(),
            runs: runs(session).await?,
            num_runs: number(session, "SELECT count(*) AS n FROM runs").await?,
            time_line: time_line(session).await?,
            servers: servers(session, rows).await?,
            num_folders: number(session, "SELECT count(*) AS n FROM servers").await?,
            traffic: Traffic::read(&session.layout().ledger())?,
            failures: ranking(session, &causes("failed"), rows).await?,
            skips: ranking(session, &causes("skipped"), rows).await?,
            longest_sides: longest_sides(session).await?,
            aspects: aspects(session).await?,
            file_sizes: file_sizes(session).await?,
            formats: ranking(session, &of_images("image_format"), rows).await?,
            licenses: ranking(session, &of_images("license"), rows).await?,
            labels: ranking(session, &of_images("label"), rows).await?,
            num_removed: if tools.is_empty() { 0 } else { number(session, removed).await? },
            tools,
            thumbnails: thumbnails::read(session, &shown).await?,
            totals,
            duplicates,
            samples,
        })
    }
}

async fn number(session: &QuerySession, sql: &str) -> Result<u64, ReportError> {
    Ok(Rows::of(session, sql).await?.first().map_or(0, |row| row.count("n")))
}

async fn totals(session: &QuerySession) -> Result<Totals, ReportError> {
    let sums = "SELECT sum(num_records) AS records, sum(success) AS success, sum(failed) AS failed, \
        sum(skipped) AS skipped, sum(pending) AS pending, sum(image_bytes) AS image_bytes, \
        bool_or(shared) AS has_shared, count(server_name) AS folders FROM servers";
    let rows = Rows::of(session, sums).await?;
    let Some(row) = rows.first() else { return Ok(Totals::default()) };
    let servers = match row.flag("has_shared") {
        true => number(session, "SELECT count(DISTINCT server_name) AS n FROM urls").await?,
        false => row.count("folders"),
    };
    Ok(Totals {
        records: row.count("records"),
        success: row.count("success"),
        failed: row.count("failed"),
        skipped: row.count("skipped"),
        pending: row.count("pending"),
        image_bytes: row.count("image_bytes"),
        servers,
    })
}

async fn runs(session: &QuerySession) -> Result<Vec<Run>, ReportError> {
    let sql = format!(
        "SELECT run_id, kind, to_char(started_at, '%Y-%m-%d %H:%M') AS started, ending, num_ranks, success, failed, \
         image_bytes, (cast(ended_at AS bigint) - cast(started_at AS bigint)) / 1000 AS seconds \
         FROM runs ORDER BY run_id DESC LIMIT {NUM_RUNS}"
    );
    let rows = Rows::of(session, &sql).await?;
    let run = |row: super::rows::Row<'_>| Run {
        run_id: row.count("run_id"),
        kind: row.text("kind").unwrap_or_default().to_owned(),
        started_at: row.text("started").unwrap_or_default().to_owned(),
        seconds: row.signed("seconds").map(i64::unsigned_abs),
        ending: row.text("ending").map(str::to_owned),
        num_ranks: row.count("num_ranks"),
        success: row.count("success"),
        failed: row.count("failed"),
        image_bytes: row.count("image_bytes"),
    };
    Ok(rows.iter().map(run).collect())
}

async fn time_line(session: &QuerySession) -> Result<TimeLine, ReportError> {
    let ends = "SELECT cast(min(fetched_at) AS bigint) AS first, cast(max(fetched_at) AS bigint) AS last FROM images";
    let rows = Rows::of(session, ends).await?;
    let ends = rows.first().and_then(|row| Some((row.signed("first")?, row.signed("last")?)));
    let Some((first, last)) = ends else { return Ok(TimeLine::default()) };
    let (unit, seconds) = unit_of((last - first) / 1000);
    let format = match unit {
        "second" => "%H:%M:%S",
        "minute" | "hour" => "%Y-%m-%d %H:%M",
        "month" => "%Y-%m",
        _ => "%Y-%m-%d",
    };
    let found = format!(
        "SELECT cast(date_trunc('{unit}', fetched_at) AS bigint) AS at, count(*) AS n FROM images GROUP BY 1"
    );
    let start = Rows::of(session, &format!("SELECT min(at) AS at FROM ({found})")).await?;
    let start = start.first().and_then(|row| row.signed("at")).unwrap_or(first);
    // Steps without images are to be seen as such. Months are not all of one length: only those with images are there.
    let steps = match unit {
        "month" => format!("SELECT at FROM ({found})"),
        _ => {
            let steps: Vec<_> =
                (start..=last).step_by(1000 * seconds as usize).map(|at| format!("({at})")).collect();
            format!("SELECT column1 AS at FROM (VALUES {})", steps.join(", "))
        }
    };
    let sql = format!(
        "SELECT to_char(to_timestamp_millis(steps.at), '{format}') AS step, coalesce(found.n, 0) AS n \
         FROM ({steps}) AS steps LEFT JOIN ({found}) AS found ON found.at = steps.at ORDER BY steps.at"
    );
    let rows = Rows::of(session, &sql).await?;
    let steps = rows.iter().map(|row| (row.text("step").unwrap_or_default().to_owned(), row.count("n")));
    Ok(TimeLine { unit, steps: steps.collect() })
}

/// The unit that cuts so many seconds into enough steps, and not too many.
fn unit_of(seconds: i64) -> (&'static str, i64) {
    UNITS.into_iter().find(|(_, step)| seconds / step < MAX_STEPS).unwrap_or(UNITS[UNITS.len() - 1])
}

async fn servers(session: &QuerySession, num_rows: usize) -> Result<Vec<Server>, ReportError> {
    let sql = format!(
        "SELECT server_name, success, failed, skipped, pending, image_bytes FROM servers \
         ORDER BY success DESC, num_records DESC, server_name LIMIT {num_rows}"
    );
    let rows = Rows::of(session, &sql).await?;
    let server = |row: super::rows::Row<'_>| Server {
        server_name: row.text("server_name").map(str::to_owned),
        success: row.count("success"),
        failed: row.count("failed"),
        skipped: row.count("skipped"),
        pending: row.count("pending"),
        image_bytes: row.count("image_bytes"),
    };
    Ok(rows.iter().map(server).collect())
}

/// `rows` is a query of values (`what`) with numbers (`n`) to be summed.
async fn ranking(session: &QuerySession, rows: &str, num_rows: usize) -> Result<Ranking, ReportError> {
    let sums = format!("SELECT what, sum(n) AS n FROM ({rows}) GROUP BY what");
    let all = Rows::of(session, &format!("SELECT count(*) AS kinds, sum(n) AS n FROM ({sums})")).await?;
    let (kinds, sum) = all.first().map_or((0, 0), |row| (row.count("kinds"), row.count("n")));
    let most = Rows::of(session, &format!("{sums} ORDER BY n DESC, what LIMIT {num_rows}")).await?;
    let rows: Vec<_> = most.iter().map(|row| (row.text("what").map(str::to_owned), row.count("n"))).collect();
    let shown: u64 = rows.iter().map(|(_, n)| n).sum();
    Ok(Ranking {
        others: kinds.saturating_sub(rows.len() as u64),
        in_others: sum.saturating_sub(shown),
        rows,
    })
}

/// Images by the step that a value of theirs is in. `starts` are where the steps begin, in order.
async fn bins(session: &QuerySession, value: &str, starts: &[f64]) -> Result<Vec<u64>, ReportError> {
    let cases: Vec<_> =
        starts.iter().enumerate().rev().map(|(at, start)| format!("WHEN v >= {start:?} THEN {at}")).collect();
    let sql = format!(
        "SELECT bin, count(*) AS n FROM (SELECT CASE {} END AS bin FROM (SELECT {value} AS v FROM images)) \
         WHERE bin IS NOT NULL GROUP BY bin",
        cases.join(" ")
    );
    let mut counts = vec![0; starts.len()];
    for row in Rows::of(session, &sql).await?.iter() {
        if let Some(count) = counts.get_mut(row.count("bin") as usize) {
            *count = row.count("n");
        }
    }
    Ok(counts)
}

fn named(counts: Vec<u64>, label: impl Fn(usize) -> String) -> Vec<Bin> {
    counts.into_iter().enumerate().map(|(at, images)| Bin { label: label(at), images }).collect()
}

/// `64-127`, or what the last step has.
fn span(starts: &[u32], at: usize, unit: &str) -> String {
    match starts.get(at + 1) {
        Some(next) => format!("{}\u{2013}{}{unit}", starts[at], next - 1),
        None => format!("{}{unit} and more", starts[at]),
    }
}

async fn longest_sides(session: &QuerySession) -> Result<Vec<Bin>, ReportError> {
    let value = "cast(greatest(original_size[1], original_size[2]) AS double)";
    Ok(named(bins(session, value, &SIDES.map(f64::from)).await?, |at| span(&SIDES, at, "")))
}

async fn file_sizes(session: &QuerySession) -> Result<Vec<Bin>, ReportError> {
    let starts = KIBIBYTES.map(|kibibytes| f64::from(kibibytes) * 1024.0);
    let label = |at: usize| match KIBIBYTES.get(at + 1) {
        Some(next) => format!("{}\u{2013}{next}", KIBIBYTES[at]),
        None => format!("{} and more", KIBIBYTES[at]),
    };
    Ok(named(bins(session, "cast(image_bytes AS double)", &starts).await?, label))
}

async fn aspects(session: &QuerySession) -> Result<Vec<Bin>, ReportError> {
    let value = "cast(original_size[2] AS double) / nullif(original_size[1], 0)";
    let counts = bins(session, value, &ASPECTS.map(|(start, _)| start)).await?;
    Ok(named(counts, |at| ASPECTS[at].1.to_owned()))
}

async fn tools(session: &QuerySession) -> Result<Vec<Tool>, ReportError> {
    let known = "SELECT tool, completed, removed, new_images FROM tools ORDER BY tool";
    let mut tools = Vec::new();
    for row in Rows::of(session, known).await?.iter() {
        let name = row.text("tool").unwrap_or_default();
        let sql = format!(
            "SELECT verdict, reason, count(*) AS n FROM verdicts WHERE tool = {} GROUP BY verdict, reason \
             ORDER BY n DESC, verdict, reason",
            super::rows::quoted(name)
        );
        let found = Rows::of(session, &sql).await?;
        let text = |row: super::rows::Row<'_>, name| row.text(name).unwrap_or_default().to_owned();
        let mut reasons: Vec<_> =
            found.iter().map(|row| (text(row, "verdict"), text(row, "reason"), row.count("n"))).collect();
        let other_reasons = reasons.len().saturating_sub(NUM_REASONS) as u64;
        reasons.truncate(NUM_REASONS);
        tools.push(Tool {
            name: name.to_owned(),
            is_completed: row.flag("completed"),
            removed: row.count("removed"),
            new_images: row.count("new_images"),
            reasons,
            other_reasons,
        });
    }
    Ok(tools)
}

/// Duplicates within the dataset: the witnesses of `dedup_against` are in another one.
const PAIRS: &str = "FROM verdicts WHERE witness IS NOT NULL AND tool <> 'dedup_against'";

async fn duplicates(session: &QuerySession, options: &ReportOptions) -> Result<Duplicates, ReportError> {
    let sums = format!("SELECT count(DISTINCT uuid) AS images, count(DISTINCT witness) AS witnesses {PAIRS}");
    let sums = Rows::of(session, &sums).await?;
    let (images, witnesses) =
        sums.first().map_or((0, 0), |row| (row.count("images"), row.count("witnesses")));
    if images == 0 {
        return Ok(Duplicates::default());
    }
    let distances = format!("SELECT coalesce(distance, 0) AS d, count(*) AS n {PAIRS} GROUP BY 1 ORDER BY 1");
    let distances = Rows::of(session, &distances).await?;
    // The most doubtful first; among equals any, but always the same.
    let pairs = format!(
        "SELECT uuid, witness, tool, coalesce(distance, 0) AS d {PAIRS} ORDER BY d DESC, reverse(uuid), tool LIMIT {}",
        options.num_pairs.min(super::options::MAX_PICTURES)
    );
    let pairs = Rows::of(session, &pairs).await?;
    let pair = |row: super::rows::Row<'_>| Pair {
        uuid: row.text("uuid").unwrap_or_default().to_owned(),
        witness: row.text("witness").unwrap_or_default().to_owned(),
        tool: row.text("tool").unwrap_or_default().to_owned(),
        distance: row.count("d"),
    };
    Ok(Duplicates {
        images,
        witnesses,
        distances: distances.iter().map(|row| (row.count("d"), row.count("n"))).collect(),
        pairs: pairs.iter().map(pair).collect(),
    })
}

/// Any images that no tool removes, but always the same: the end of a UUID is as good as chance.
async fn samples(session: &QuerySession, options: &ReportOptions) -> Result<Vec<String>, ReportError> {
    let sql = format!(
        "SELECT uuid FROM images WHERE NOT EXISTS (SELECT 1 FROM verdicts WHERE verdicts.uuid = images.uuid \
         AND verdicts.verdict = 'remove') ORDER BY reverse(uuid) LIMIT {}",
        options.num_samples.min(super::options::MAX_PICTURES)
    );
    let rows = Rows::of(session, &sql).await?;
    Ok(rows.iter().filter_map(|row| row.text("uuid").map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::fixture::Fixture;

    #[test]
    fn a_time_line_has_enough_steps_and_not_too_many() {
        let hours = |hours: i64| unit_of(hours * 3600).0;
        assert_eq!([unit_of(0).0, unit_of(89).0, unit_of(90).0], ["second", "second", "minute"]);
        assert_eq!([hours(1), hours(2), hours(80), hours(24 * 80)], ["minute", "hour", "hour", "day"]);
        assert_eq!([hours(24 * 365), hours(24 * 365 * 20)], ["week", "month"]);
    }

    #[tokio::test]
    async fn the_numbers_are_those_of_the_dataset() {
        let fixture = Fixture::full(100);
        let (a, shared) = (fixture.key("a.example"), fixture.key("SHARED-0001"));
        fixture.add_tool("size", &[(a, "a.example", &[0, 3]), (shared, "SHARED-0001", &[0])]);
        let session = fixture.session();
        let options = ReportOptions { num_samples: 2, num_pairs: 1, num_rows: 1 };
        let figures = Figures::read(&session, &options).await.unwrap();
        let totals = figures.totals;
        assert_eq!(totals.success, 6);
        assert_eq!(totals.records, totals.success + totals.failed + totals.skipped + totals.pending);
        assert_eq!(
            totals.servers,
            number(&session, "SELECT count(DISTINCT server_name) AS n FROM urls").await.unwrap()
        );
        for bins in [&figures.longest_sides, &figures.aspects, &figures.file_sizes] {
            assert_eq!(bins.iter().map(|bin| bin.images).sum::<u64>(), 6, "{bins:?}");
        }
        assert_eq!(figures.time_line.steps.iter().map(|(_, n)| n).sum::<u64>(), 6, "{:?}", figures.time_line);
        let failed: u64 = figures.failures.rows.iter().map(|(_, n)| n).sum();
        assert_eq!(failed + figures.failures.in_others, totals.failed);
        assert_eq!((figures.servers.len(), figures.samples.len()), (1, 2));
        assert_eq!((figures.tools.len(), figures.num_removed), (1, 3));
        assert_eq!(figures.tools[0].reasons.iter().map(|(_, _, n)| n).sum::<u64>(), 3);
    }
}
