//! Slips of the keyboard: which known word a wrong one was most likely meant to be.

/// Longer than any word we know by far: not a slip, and not worth the time.
const MAX_BYTES: usize = 100;

/// How many letters are wrong, missing, too many or swapped, whatever the case; `None` when these are different
/// words: more than a third.
#[must_use]
pub fn num_typos(written: &str, meant: &str) -> Option<usize> {
    if written.len() > MAX_BYTES || meant.len() > MAX_BYTES {
        return None;
    }
    let typos = strsim::damerau_levenshtein(&written.to_lowercase(), &meant.to_lowercase());
    (typos <= (written.len() / 3).max(1)).then_some(typos)
}

/// The word that was most likely meant; of equally likely ones the first by the alphabet.
pub fn nearest<'w>(written: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let words = words.into_iter().filter(|word| !word.is_empty());
    words.filter_map(|word| Some((num_typos(written, word)?, word))).min().map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_words() {
        let check = |written: &str, expect: Option<&str>| {
            assert_eq!(nearest(written, ["", "gbif", "generic", "image_url", "jpeg"]), expect, "{written}");
        };
        check("GBFI", Some("gbif"));
        check("jpg", Some("jpeg"));
        check("imageurl", Some("image_url"));
        check("link", None);
        check("", None);
        check(&"a".repeat(1 << 20), None);
    }
}
