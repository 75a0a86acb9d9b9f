//! The sections of the page: each says one thing of the dataset, by a table, and a plot where a plot says it better.

use super::figures::{Bin, Figures, Ranking, Server};
use super::markup::{Attributes, Markup};
use super::plot::{self, Column};
use super::thumbnails::Thumbnail;
use crate::model::{ServerName, told_bytes, told_count, told_percent};

/// A section: its anchor, its name, what it says; nothing where there is nothing to say.
pub(super) struct Section {
    pub id: &'static str,
    pub name: &'static str,
    pub body: Markup,
}

pub(super) fn all(figures: &Figures) -> Vec<Section> {
    let section = |id, name, body| Section { id, name, body };
    [
        section("totals", "Totals", totals(figures)),
        section("time", "Over time", time(figures)),
        section("servers", "Servers", servers(figures)),
        section("failures", "Failures and skips", failures(figures)),
        section("sizes", "Sizes", sizes(figures)),
        section("contents", "Formats, licences, labels", contents(figures)),
        section("samples", "Sample images", samples(figures)),
        section("tools", "Tools", tools(figures)),
        section("duplicates", "Duplicates", duplicates(figures)),
    ]
    .into_iter()
    .filter(|section| !section.body.is_empty())
    .collect()
}

fn el(tag: &'static str, inner: Markup) -> Markup {
    Markup::element(tag, &[], inner)
}

fn with(tag: &'static str, attributes: Attributes<'_>, inner: Markup) -> Markup {
    Markup::element(tag, attributes, inner)
}

fn say(text: impl AsRef<str>) -> Markup {
    el("p", Markup::text(text))
}

fn heading(text: &str) -> Markup {
    el("h3", Markup::text(text))
}

/// A number that a program may want as well.
fn figure(id: &str, number: u64, told: &str) -> Markup {
    with("data", &[("id", &format!("figure-{id}")), ("value", &number.to_string())], Markup::text(told))
}

/// One word for each disposition: a class of the style sheet, and what people read.
const DISPOSITIONS: [(&str, &str); 4] =
    [("success", "Images"), ("failed", "Failed"), ("skipped", "Skipped"), ("pending", "Pending")];

fn totals(figures: &Figures) -> Markup {
    let totals = figures.totals;
    let counts = [totals.success, totals.failed, totals.skipped, totals.pending];
    let tile = |class: &str, name: &str, value: Markup, note: String| {
        let inner = el("dt", Markup::text(name)).then(el("dd", value)).then(with(
            "dd",
            &[("class", "note")],
            Markup::text(note),
        ));
        with("div", &[("class", class)], inner)
    };
    let whole = |id, number| figure(id, number, &told_count(number));
    let servers = format!("on {} servers", told_count(totals.servers));
    let mut tiles = tile("tile", "Records", whole("records", totals.records), servers);
    for ((class, name), count) in DISPOSITIONS.into_iter().zip(counts) {
        let share = told_percent(count, totals.records);
        tiles.push(&tile(&format!("tile {class}"), name, whole(class, count), share));
    }
    let mean = match totals.success {
        0 => String::new(),
        images => format!("{} each", told_bytes(totals.image_bytes / images)),
    };
    let bytes = figure("image_bytes", totals.image_bytes, &told_bytes(totals.image_bytes));
    tiles.push(&tile("tile", "Bytes stored", bytes, mean));
    if !figures.tools.is_empty() {
        let left = totals.success.saturating_sub(figures.num_removed);
        let note = format!("by tools; {} stay", told_count(left));
        tiles.push(&tile("tile", "Removed", whole("removed", figures.num_removed), note));
    }
    let parts: Vec<_> = DISPOSITIONS.into_iter().map(|(class, _)| class).zip(counts).collect();
    plot::parts(&parts).then(with("dl", &[("class", "tiles")], tiles))
}

/// A column of a table: its name, and whether it has numbers.
type Head<'a> = (&'a str, bool);

fn table(caption: &str, heads: &[Head<'_>], rows: impl Iterator<Item = Vec<Markup>>) -> Markup {
    let class = |is_number| if is_number { "number" } else { "text" };
    let head = heads.iter().map(|&(name, is_number)| {
        with("th", &[("scope", "col"), ("class", class(is_number))], Markup::text(name))
    });
    let body = rows.map(|cells| {
        let cells = cells.into_iter().zip(heads).enumerate().map(|(at, (cell, &(_, is_number)))| {
            let class = class(is_number);
            match at {
                0 => with("th", &[("scope", "row"), ("class", class)], cell),
                _ => with("td", &[("class", class)], cell),
            }
        });
        el("tr", cells.collect())
    });
    let inner = el("caption", Markup::text(caption))
        .then(el("thead", el("tr", head.collect())))
        .then(el("tbody", body.collect()));
    // Wide tables scroll by themselves, also by keyboard.
    with(
        "div",
        &[("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", caption)],
        el("table", inner),
    )
}

fn number(value: u64) -> Markup {
    Markup::text(told_count(value))
}

fn nothing() -> Markup {
    Markup::text("\u{2013}")
}

/// "and K more", where there are more.
fn more(others: u64, what: &str, and: &str) -> Markup {
    match others {
        0 => Markup::default(),
        others => with(
            "p",
            &[("class", "more")],
            Markup::text(format!("and {} more {what}{and}", told_count(others))),
        ),
    }
}

fn time(figures: &Figures) -> Markup {
    let mut body = Markup::default();
    let line = &figures.time_line;
    if !line.steps.is_empty() {
        let columns: Vec<_> =
            line.steps.iter().map(|(label, value)| Column { label: label.clone(), value: *value }).collect();
        let title = format!("Images received per {} (UTC)", line.unit);
        let rows = line.steps.iter().map(|(label, value)| vec![Markup::text(label), number(*value)]);
        let table = table(&title, &[(line.unit, false), ("images", true)], rows);
        let most = line.steps.iter().max_by_key(|(_, value)| value);
        let description = most.map_or(String::new(), |(label, value)| {
            format!("{} steps; most in that of {label}: {} images", line.steps.len(), told_count(*value))
        });
        body.push(&plotted("time-plot", &title, &description, &columns, table));
    }
    if !figures.runs.is_empty() {
        let heads = [
            ("run", true),
            ("what", false),
            ("began (UTC)", false),
            ("took", true),
            ("ended", false),
            ("ranks", true),
            ("images", true),
            ("failed", true),
            ("bytes", true),
        ];
        let rows = figures.runs.iter().map(|run| {
            vec![
                number(run.run_id),
                Markup::text(&run.kind),
                Markup::text(&run.started_at),
                run.seconds.map_or_else(nothing, |seconds| Markup::text(duration(seconds))),
                Markup::text(run.ending.as_deref().unwrap_or("by itself it did not")),
                number(run.num_ranks),
                number(run.success),
                number(run.failed),
                Markup::text(told_bytes(run.image_bytes)),
            ]
        });
        body.push(&table("Runs, the last first", &heads, rows));
        body.push(&more(figures.num_runs.saturating_sub(figures.runs.len() as u64), "before", ""));
    }
    body
}

/// `1h 05m`
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A plot with its numbers as a table beneath, folded away.
fn plotted(id: &str, title: &str, description: &str, columns: &[Column], table: Markup) -> Markup {
    let fold = el("details", el("summary", Markup::text("The numbers as a table")).then(table));
    let inner =
        el("figcaption", Markup::text(title)).then(plot::columns(id, title, description, columns)).then(fold);
    el("figure", inner)
}

fn servers(figures: &Figures) -> Markup {
    if figures.servers.is_empty() {
        return Markup::default();
    }
    let heads = [
        ("server", false),
        ("images", true),
        ("share", false),
        ("failed", true),
        ("skipped", true),
        ("pending", true),
        ("bytes", true),
        ("requests", true),
        ("per second", true),
        ("errors", true),
        ("p50", true),
        ("p95", true),
    ];
    let rows = figures.servers.iter().map(|server| server_row(figures, server));
    let told = match figures.traffic.num_requests {
        0 => "No ledger of requests was kept, so their rates and times are not known.".to_owned(),
        requests => format!(
            "Of {} requests for images, over all runs: per second from the first to the last one; errors are those without \
             an answer, or with one of 400 and above; half of the answers came within p50, nineteen of twenty within p95.",
            told_count(requests)
        ),
    };
    say(told).then(table("Servers, those with most images first", &heads, rows)).then(more(
        figures.num_folders.saturating_sub(figures.servers.len() as u64),
        "servers",
        "",
    ))
}

fn server_row(figures: &Figures, server: &Server) -> Vec<Markup> {
    let name = server.server_name.as_deref();
    let mut row = vec![
        name.map_or_else(|| Markup::text("(no usable URL)"), Markup::foreign),
        number(server.success),
        share(server.success, figures.totals.success),
        number(server.failed),
        number(server.skipped),
        number(server.pending),
        Markup::text(told_bytes(server.image_bytes)),
    ];
    let traffic = name.and_then(|name| figures.traffic.servers.get(&ServerName::from_catalog(name)));
    match traffic {
        None => row.extend(std::iter::repeat_with(nothing).take(5)),
        Some(traffic) => row.extend([
            number(traffic.num_requests),
            Markup::text(format!("{:.1}", traffic.per_second())),
            Markup::text(told_percent(traffic.num_errors, traffic.num_requests)),
            Markup::text(milliseconds(traffic.percentile_ms(0.5))),
            Markup::text(milliseconds(traffic.percentile_ms(0.95))),
        ]),
    }
    row
}

fn milliseconds(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} ms") } else { format!("{:.1} s", value / 1000.0) }
}

/// A share as a number and a bar.
fn share(value: u64, whole: u64) -> Markup {
    let told = with("span", &[("class", "share")], Markup::text(told_percent(value, whole)));
    plot::bar(value, whole).then(told)
}

fn ranking(caption: &str, what: &str, others: &str, counted: &str, ranking: &Ranking) -> Markup {
    if ranking.rows.is_empty() {
        return Markup::default();
    }
    let whole = ranking.rows.iter().map(|(_, count)| count).sum::<u64>() + ranking.in_others;
    let rows = ranking.rows.iter().map(|(value, count)| {
        let shown = match value.as_deref() {
            None | Some("") => Markup::text("(none)"),
            Some(value) => Markup::foreign(value),
        };
        vec![shown, number(*count), share(*count, whole)]
    });
    let rest = format!(", with {} {counted}", told_count(ranking.in_others));
    table(caption, &[(what, false), (counted, true), ("share", false)], rows).then(more(
        ranking.others,
        others,
        &rest,
    ))
}

fn failures(figures: &Figures) -> Markup {
    let (failed, skipped) = (&figures.failures, &figures.skips);
    if failed.rows.is_empty() && skipped.rows.is_empty() {
        return say("None.");
    }
    let failed = ranking("Why records have failed", "cause", "causes", "records", failed);
    let skipped = ranking("Why records were skipped", "reason", "reasons", "records", skipped);
    with("div", &[("class", "columns")], el("div", failed).then(el("div", skipped)))
}

fn distribution(id: &str, title: &str, what: &str, bins: &[Bin]) -> Markup {
    let counted: u64 = bins.iter().map(|bin| bin.images).sum();
    if counted == 0 {
        return Markup::default();
    }
    // What is empty at either end says nothing.
    let first = bins.iter().position(|bin| bin.images > 0).unwrap_or(0);
    let last = bins.iter().rposition(|bin| bin.images > 0).unwrap_or(0);
    let bins = &bins[first..=last];
    let columns: Vec<_> =
        bins.iter().map(|bin| Column { label: bin.label.clone(), value: bin.images }).collect();
    let rows =
        bins.iter().map(|bin| vec![Markup::text(&bin.label), number(bin.images), share(bin.images, counted)]);
    let table = table(title, &[(what, false), ("images", true), ("share", false)], rows);
    let most = bins.iter().max_by_key(|bin| bin.images);
    let description = most.map_or(String::new(), |bin| {
        format!("{} images; most, {}, at {}", told_count(counted), told_count(bin.images), bin.label)
    });
    plotted(id, title, &description, &columns, table)
}

fn sizes(figures: &Figures) -> Markup {
    let plots =
        distribution("sides", "Longest side as received, in pixels", "pixels", &figures.longest_sides)
            .then(distribution("aspects", "Aspect, width to height", "aspect", &figures.aspects))
            .then(distribution("files", "Size of the stored image, in KiB", "KiB", &figures.file_sizes));
    if plots.is_empty() { plots } else { with("div", &[("class", "columns")], plots) }
}

fn contents(figures: &Figures) -> Markup {
    let tables = [
        ranking("Formats", "format", "formats", "images", &figures.formats),
        ranking("Licences", "licence", "licences", "images", &figures.licenses),
        ranking("Labels", "label", "labels", "images", &figures.labels),
    ];
    let tables: Markup =
        tables.into_iter().filter(|table| !table.is_empty()).map(|table| el("div", table)).collect();
    if tables.is_empty() { tables } else { with("div", &[("class", "columns")], tables) }
}

fn tools(figures: &Figures) -> Markup {
    if figures.tools.is_empty() {
        return Markup::default();
    }
    let heads = [
        ("tool", false),
        ("state", false),
        ("removes", true),
        ("of all images", false),
        ("new images", true),
    ];
    let rows = figures.tools.iter().map(|tool| {
        vec![
            Markup::foreign(&tool.name),
            Markup::text(if tool.is_completed { "completed" } else { "not completed" }),
            number(tool.removed),
            share(tool.removed, figures.totals.success),
            number(tool.new_images),
        ]
    });
    let mut body = say(
        "What a tool removes is still in the dataset: an export leaves it out where it is told to (--clean). An image may \
         be removed by several.",
    );
    body.push(&table("What each tool removes", &heads, rows));
    let reasons = figures.tools.iter().flat_map(|tool| {
        tool.reasons.iter().map(|(verdict, reason, count)| {
            vec![Markup::foreign(&tool.name), Markup::text(verdict), Markup::foreign(reason), number(*count)]
        })
    });
    let reasons: Vec<_> = reasons.collect();
    if !reasons.is_empty() {
        let heads = [("tool", false), ("verdict", false), ("reason", false), ("images", true)];
        body.push(&table("Why", &heads, reasons.into_iter()));
        body.push(&more(figures.tools.iter().map(|tool| tool.other_reasons).sum(), "reasons", ""));
    }
    body
}

/// A perceptual hash has so many bits.
const MAX_DISTANCE: u64 = 256;

fn duplicates(figures: &Figures) -> Markup {
    let duplicates = &figures.duplicates;
    if duplicates.images == 0 {
        return Markup::default();
    }
    let told = format!(
        "{} images are duplicates of {} that stay. The distance is the number of bits, of 256, in which perceptual hashes \
         differ; 0 are equal files, or equal hashes.",
        told_count(duplicates.images),
        told_count(duplicates.witnesses)
    );
    let mut body = say(told);
    let most = duplicates.distances.iter().map(|&(distance, _)| distance).max().unwrap_or(0);
    let at =
        |distance| duplicates.distances.iter().find(|&&(found, _)| found == distance).map_or(0, |&(_, n)| n);
    // Distances at which there are none are to be seen as such.
    let columns: Vec<_> = (0..=most.min(MAX_DISTANCE))
        .map(|distance| Column { label: distance.to_string(), value: at(distance) })
        .collect();
    if columns.len() > 1 {
        let title = "Duplicates by distance";
        let rows =
            duplicates.distances.iter().map(|&(distance, count)| vec![number(distance), number(count)]);
        let table = table(title, &[("distance", true), ("images", true)], rows);
        body.push(&plotted("distances", title, "", &columns, table));
    }
    let pairs = duplicates.pairs.iter().map(|pair| {
        let pictures = el("div", picture(figures, &pair.uuid, "goes"))
            .then(el("div", picture(figures, &pair.witness, "stays")));
        let caption = format!("distance {}, by {}", pair.distance, pair.tool);
        let inner = with("div", &[("class", "two")], pictures).then(el("figcaption", Markup::text(caption)));
        with("figure", &[("class", "pair")], inner)
    });
    let pairs: Markup = pairs.collect();
    if !pairs.is_empty() {
        body.push(&heading("Pairs, the farthest apart first").then(with(
            "div",
            &[("class", "pairs")],
            pairs,
        )));
        body.push(&more(duplicates.images.saturating_sub(duplicates.pairs.len() as u64), "pairs", ""));
    }
    body
}

fn samples(figures: &Figures) -> Markup {
    let shown: Vec<_> =
        figures.samples.iter().filter_map(|uuid| Some((uuid, figures.thumbnails.get(uuid)?))).collect();
    if shown.is_empty() {
        return Markup::default();
    }
    let sheet: Markup = shown
        .iter()
        .map(|(uuid, thumbnail)| {
            let lines = caption(thumbnail);
            el("figure", image(thumbnail, uuid).then(el("figcaption", lines)))
        })
        .collect();
    let told = format!(
        "{} of the images that no tool removes, chosen by their UUIDs.",
        told_count(shown.len() as u64)
    );
    say(told).then(with("div", &[("class", "sheet")], sheet))
}

fn caption(thumbnail: &Thumbnail) -> Markup {
    let label = thumbnail.label.as_deref();
    let label = label.map_or_else(Markup::default, |label| el("strong", Markup::foreign(label)));
    let size = format!("{} \u{d7} {}", thumbnail.size.width, thumbnail.size.height);
    label
        .then(with("span", &[("class", "from")], Markup::foreign(&thumbnail.server_name)))
        .then(el("span", Markup::text(size)))
}

/// One of a pair; of an image that is no longer in the dataset only that.
fn picture(figures: &Figures, uuid: &str, what: &str) -> Markup {
    let picture = match figures.thumbnails.get(uuid) {
        Some(thumbnail) => {
            let size = format!("{} \u{d7} {}", thumbnail.size.width, thumbnail.size.height);
            image(thumbnail, uuid).then(el("span", Markup::text(size)))
        }
        None => with("span", &[("class", "none")], Markup::text("no longer in the dataset")),
    };
    with("span", &[("class", "what")], Markup::text(what)).then(picture)
}

/// The picture of an image. What it shows is known by its label, if by anything.
fn image(thumbnail: &Thumbnail, uuid: &str) -> Markup {
    let Some(picture) = &thumbnail.picture else {
        return with("span", &[("class", "none")], Markup::text("cannot be decoded"));
    };
    let mut shown: String = thumbnail.label.as_deref().unwrap_or("an image").chars().take(120).collect();
    shown += &format!(", from {}", thumbnail.server_name);
    let told = format!(
        "{} \u{2014} {} \u{2014} {}",
        thumbnail.identifier.chars().take(200).collect::<String>(),
        thumbnail.license.as_deref().unwrap_or("no licence given").chars().take(120).collect::<String>(),
        uuid
    );
    let attributes = [("src", picture.as_str()), ("alt", &shown), ("title", &told)];
    Markup::empty("img", &attributes)
}
