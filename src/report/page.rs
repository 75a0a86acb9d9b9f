//! The page around the sections.

use super::figures::Figures;
use super::markup::Markup;
use super::sections;

const STYLE: &str = include_str!("style.css");

/// The page may show what is in it, and ask for nothing else, whatever got into it.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The whole page.
pub(super) fn html(figures: &Figures) -> String {
    let el = |tag, inner| Markup::element(tag, &[], inner);
    let name = Markup::foreign(&figures.name);
    let sections = sections::all(figures);
    let links = sections.iter().map(|section| {
        let link = Markup::element("a", &[("href", &format!("#{}", section.id))], Markup::text(section.name));
        el("li", link)
    });
    let navigation = Markup::element("nav", &[("aria-label", "Sections")], el("ul", links.collect()));
    let told = format!("As of {} UTC, by ddl {}.", figures.taken_at, env!("CARGO_PKG_VERSION"));
    let header =
        el("h1", Markup::text("Report: ").then(name)).then(el("p", Markup::text(told))).then(navigation);
    let body = sections.into_iter().map(|section| {
        let title = format!("{}-name", section.id);
        let heading = Markup::element("h2", &[("id", &title)], Markup::text(section.name));
        Markup::element(
            "section",
            &[("id", section.id), ("aria-labelledby", &title)],
            heading.then(section.body),
        )
    });
    let head = Markup::empty("meta", &[("charset", "utf-8")])
        .then(Markup::empty("meta", &[("http-equiv", "Content-Security-Policy"), ("content", POLICY)]))
        .then(Markup::empty(
            "meta",
            &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")],
        ))
        .then(Markup::empty("meta", &[("name", "color-scheme"), ("content", "light dark")]))
        .then(Markup::empty("meta", &[("name", "referrer"), ("content", "no-referrer")]))
        .then(el("title", Markup::text(format!("{}: report of a dataset", figures.name))))
        .then(el("style", Markup::literal(STYLE)));
    let page = el("head", head).then(el("body", el("header", header).then(el("main", body.collect()))));
    let page = Markup::element("html", &[("lang", "en")], page);
    format!("<!DOCTYPE html>\n{}\n", page.into_html())
}
