//! Plots, as SVG in the page: columns, and bars in the cells of tables. Colours are the style sheet's.
//!
//! A plot has a title and a description for those who do not see it, and stands beside a table with its numbers.

use super::markup::Markup;
use crate::model::told_count;

/// One column.
pub(super) struct Column {
    pub label: String,
    pub value: u64,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;
/// A letter of the labels, about, which have 12.5 pixels.
const LETTER: f64 = 7.0;
/// No column is wider, however few there are.
const MAX_COLUMN: f64 = 72.0;

/// Columns side by side, with a scale. `id` is the page's for the title and the description.
pub(super) fn columns(id: &str, title: &str, description: &str, columns: &[Column]) -> Markup {
    let most = columns.iter().map(|column| column.value).max().unwrap_or(0);
    let scale = Scale::to(most);
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let height_of = |value: u64| inner_height * value as f64 / scale.top as f64;
    let base = TOP + inner_height;
    let mut drawing = Markup::default();
    for line in scale.lines() {
        let y = base - height_of(line);
        drawing.push(&shape(
            "line",
            "grid",
            &[("x1", LEFT), ("x2", WIDTH - RIGHT), ("y1", y), ("y2", y)],
            None,
        ));
        drawing.push(&label("end", LEFT - 6.0, y + 4.0, &short(line)));
    }
    let step = inner_width / columns.len().max(1) as f64;
    let width = (step * 0.82).max(step - 6.0).clamp(0.0, MAX_COLUMN);
    let longest = columns.iter().map(|column| column.label.chars().count()).max().unwrap_or(0);
    // As many labels as there is room for.
    let every = ((longest as f64 * LETTER + 8.0) / step).ceil().max(1.0) as usize;
    for (at, column) in columns.iter().enumerate() {
        let x = LEFT + step * at as f64 + (step - width) / 2.0;
        let height = if column.value == 0 { 0.0 } else { height_of(column.value).max(1.0) };
        let told = format!("{}: {}", column.label, told_count(column.value));
        let place = [("x", x), ("y", base - height), ("width", width), ("height", height)];
        drawing.push(&shape("rect", "column", &place, Some(&told)));
        if at % every == 0 {
            let (middle, half) =
                (LEFT + step * (at as f64 + 0.5), column.label.chars().count() as f64 * LETTER / 2.0);
            let (anchor, x) = if middle + half > WIDTH { ("end", WIDTH) } else { ("middle", middle) };
            drawing.push(&label(anchor, x, base + 16.0, &column.label));
        }
    }
    drawing.push(&shape(
        "line",
        "axis",
        &[("x1", LEFT), ("x2", WIDTH - RIGHT), ("y1", base), ("y2", base)],
        None,
    ));
    let (title_id, text_id) = (format!("{id}-title"), format!("{id}-text"));
    let names = Markup::element("title", &[("id", &title_id)], Markup::text(title)).then(Markup::element(
        "desc",
        &[("id", &text_id)],
        Markup::text(description),
    ));
    Markup::element(
        "svg",
        &[
            ("class", "plot"),
            ("role", "img"),
            ("viewBox", &format!("0 0 {WIDTH} {HEIGHT}")),
            ("aria-labelledby", &title_id),
            ("aria-describedby", &text_id),
        ],
        names.then(drawing),
    )
}

/// Parts of a whole in one bar, each with the class that has its colour. For the eye only: the numbers stand beside it.
pub(super) fn parts(parts: &[(&'static str, u64)]) -> Markup {
    let whole: u64 = parts.iter().map(|(_, value)| value).sum();
    let mut x = 0.0;
    let mut drawing = Markup::default();
    for &(class, value) in parts {
        let width = 1000.0 * value as f64 / whole.max(1) as f64;
        drawing.push(&shape(
            "rect",
            class,
            &[("x", x), ("y", 0.0), ("width", width), ("height", 20.0)],
            None,
        ));
        x += width;
    }
    wide("parts", "0 0 1000 20", drawing)
}

/// The part of a whole, as a bar in a cell. For the eye only.
pub(super) fn bar(value: u64, whole: u64) -> Markup {
    let width = 100.0 * value as f64 / whole.max(1) as f64;
    let back = shape("rect", "back", &[("x", 0.0), ("y", 0.0), ("width", 100.0), ("height", 10.0)], None);
    let front = shape("rect", "column", &[("x", 0.0), ("y", 0.0), ("width", width), ("height", 10.0)], None);
    wide("bar", "0 0 100 10", back.then(front))
}

/// A drawing that fills its box whatever that is.
fn wide(class: &str, view_box: &str, drawing: Markup) -> Markup {
    let attributes =
        [("class", class), ("viewBox", view_box), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
    Markup::element("svg", &attributes, drawing)
}

fn shape(tag: &'static str, class: &str, place: &[(&'static str, f64)], told: Option<&str>) -> Markup {
    let numbers: Vec<_> = place.iter().map(|&(name, value)| (name, format!("{value:.1}"))).collect();
    let mut attributes = vec![("class", class)];
    attributes.extend(numbers.iter().map(|(name, value)| (*name, value.as_str())));
    let inner = told.map_or_else(Markup::default, |told| Markup::element("title", &[], Markup::text(told)));
    Markup::element(tag, &attributes, inner)
}

fn label(anchor: &str, x: f64, y: f64, text: &str) -> Markup {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    Markup::element("text", &[("text-anchor", anchor), ("x", &x), ("y", &y)], Markup::text(text))
}

/// A scale from zero, in steps of 1, 2 or 5 times a power of ten.
struct Scale {
    step: u64,
    top: u64,
}

impl Scale {
    fn to(most: u64) -> Self {
        let mut power: u64 = 1;
        let step = loop {
            let fits = |factor: &u64| most.div_ceil(power.saturating_mul(*factor)) <= 5;
            match [1, 2, 5].into_iter().find(fits) {
                Some(factor) => break power.saturating_mul(factor),
                None => power = power.saturating_mul(10),
            }
        };
        Self { step, top: most.div_ceil(step).max(1).saturating_mul(step) }
    }

    fn lines(&self) -> impl Iterator<Item = u64> {
        (0..=self.top / self.step).map(|line| line * self.step)
    }
}

/// `1.5M`
fn short(value: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.into_iter().find(|&(unit, _)| value >= unit) {
        Some((unit, name)) => {
            let text = format!("{:.1}", value as f64 / unit as f64);
            format!("{}{name}", text.trim_end_matches(".0"))
        }
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_few_round_steps_and_reach_the_most() {
        for most in [0, 1, 4, 5, 6, 7, 99, 100, 101, 1999, 123_456, u64::MAX / 100] {
            let scale = Scale::to(most);
            assert!(scale.top >= most && scale.lines().count() <= 6, "{most}: {} {}", scale.step, scale.top);
            assert!(scale.step.to_string().trim_end_matches('0').len() == 1, "{most}: {}", scale.step);
        }
        assert_eq!([0, 950, 1000, 1500, 2_000_000].map(short), ["0", "950", "1k", "1.5k", "2M"]);
    }

    #[test]
    fn a_plot_is_told_to_those_who_do_not_see_it() {
        let plotted = [Column { label: "<b>".into(), value: 3 }, Column { label: "c".into(), value: 0 }];
        let svg = columns("x", "Sizes", "3 images", &plotted).into_html();
        assert!(svg.contains("role=\"img\"") && svg.contains("<title id=\"x-title\">Sizes</title>"), "{svg}");
        assert!(svg.contains("<title>&lt;b&gt;: 3</title>") && !svg.contains("<b>"), "{svg}");
        assert!(!svg.contains("NaN") && !columns("x", "", "", &[]).into_html().contains("NaN"));
        assert!(!bar(0, 0).into_html().contains("NaN") && !parts(&[("a", 0)]).into_html().contains("NaN"));
    }
}
