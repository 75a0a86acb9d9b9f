//! Fields that are quoted as a whole, within one line.

/// The pieces of a field's value: itself, or what is between its quotes, cut behind the first of each
/// two quotes. A field with a single quote inside is not quoted as a whole.
pub(super) fn unquoted(value: &[u8], quote: u8) -> impl Iterator<Item = &[u8]> {
    let inner = value.strip_prefix(&[quote]).and_then(|rest| rest.strip_suffix(&[quote]));
    let mut rest = inner.filter(|inner| is_doubled(inner, quote)).unwrap_or(value);
    let is_inner = rest.len() < value.len();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = memchr::memchr(quote, rest).filter(|_| is_inner);
        let (piece, behind) = at.map_or((rest, &[][..]), |at| (&rest[..=at], &rest[at + 2..]));
        rest = behind;
        Some(piece)
    })
}

/// Whether all quotes come in pairs.
fn is_doubled(mut text: &[u8], quote: u8) -> bool {
    while let Some(at) = memchr::memchr(quote, text) {
        if text.get(at + 1) != Some(&quote) {
            return false;
        }
        text = &text[at + 2..];
    }
    true
}
