//! HTML that can only be put together escaped.

use std::fmt::Write as _;

/// Longest text of the dataset that is shown; the rest is cut off.
const MAX_TEXT: usize = 300;

/// A piece of HTML. Text gets into it escaped; tags and names of attributes are those of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Markup(String);

/// Attributes of an element: names are ours, values are escaped.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// HTML as it stands here in the source.
    pub fn literal(html: &'static str) -> Self {
        Self(html.to_owned())
    }

    /// Text that this program says.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self(escape(text.as_ref()))
    }

    /// Text that somebody else wrote: cut, and kept from changing the direction of what stands around it.
    pub fn foreign(text: &str) -> Self {
        let mut shown: String = text.chars().take(MAX_TEXT).collect();
        if shown.len() < text.len() {
            shown.push('\u{2026}');
        }
        Self::element("bdi", &[], Self::text(&shown))
    }

    pub fn element(tag: &'static str, attributes: Attributes<'_>, inner: Self) -> Self {
        let mut html = open(tag, attributes);
        let _ = write!(html, "{}</{tag}>", inner.0);
        Self(html)
    }

    /// An element without content, such as `img` or, in SVG, `rect`.
    pub fn empty(tag: &'static str, attributes: Attributes<'_>) -> Self {
        Self(open(tag, attributes))
    }

    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.0 += &next.0;
        self
    }

    pub fn push(&mut self, next: &Self) {
        self.0 += &next.0;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_html(self) -> String {
        self.0
    }
}

impl FromIterator<Markup> for Markup {
    fn from_iter<T: IntoIterator<Item = Self>>(pieces: T) -> Self {
        let mut all = Self::default();
        pieces.into_iter().for_each(|piece| all.push(&piece));
        all
    }
}

fn open(tag: &'static str, attributes: Attributes<'_>) -> String {
    let mut html = format!("<{tag}");
    for (name, value) in attributes {
        let _ = write!(html, " {name}=\"{}\"", escape(value));
    }
    html.push('>');
    html
}

/// Nothing of the result ends a text or an attribute in quotes. What cannot be seen, and could hide or turn around what can,
/// is replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                escaped.push('\u{fffd}')
            }
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_strangers_wrote_is_text() {
        let html = Markup::foreign("</bdi><script>alert('1')</script>\u{202e}\0&amp;").into_html();
        assert_eq!(
            html,
            "<bdi>&lt;/bdi&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\u{fffd}\u{fffd}&amp;amp;</bdi>"
        );
        let html = Markup::empty("img", &[("alt", "\" onerror=\"alert(1)")]).into_html();
        assert_eq!(html, "<img alt=\"&quot; onerror=&quot;alert(1)\">");
        assert!(Markup::foreign(&"x".repeat(1000)).into_html().len() < 400);
    }

    proptest! {
        #[test]
        fn no_text_opens_a_tag_or_ends_an_attribute(text in "\\PC{0,60}|[<>&\"' =/a-z\\x00-\\x1f]{0,60}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']) && !escaped.contains(char::is_control));
        }
    }
}
