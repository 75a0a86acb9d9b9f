//! How freely an image may be used, by what its record says of the licence.

/// The name of [`rank`] in SQL.
pub(super) const RANK: &str = "licence_rank";

/// The lower, the freer:
///
/// | rank | licence |
/// |---|---|
/// | 0 | CC0, public domain |
/// | 1 | CC BY |
/// | 2 | CC BY-SA |
/// | 3 | other Creative Commons licences: with NC or ND, or none of the known parts |
/// | 4 | unknown, or none |
///
/// Read are URLs (`http://creativecommons.org/licenses/by-nc/4.0/`), short names (`CC-BY-SA-4.0`) and names in words
/// (`Creative Commons Attribution-ShareAlike 4.0`), whatever the case, as words between other characters.
pub(super) fn rank(licence: Option<&str>) -> u8 {
    let text = licence.unwrap_or_default().to_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has = |one_of: &[&str]| words.iter().any(|word| one_of.contains(word));
    let has_pair = |first: &str, second: &str| words.windows(2).any(|pair| pair == [first, second]);
    if has(&["cc0", "publicdomain"]) || has_pair("public", "domain") || has_pair("cc", "zero") {
        return 0;
    }
    if !has(&["cc", "creativecommons"]) && !has_pair("creative", "commons") {
        return 4;
    }
    let is_non_commercial = has(&["nc", "noncommercial"]) || has_pair("non", "commercial");
    let is_no_derivatives = has(&["nd", "noderivs", "noderivatives"]) || has_pair("no", "derivatives");
    if is_non_commercial || is_no_derivatives {
        3
    } else if has(&["sa", "sharealike"]) || has_pair("share", "alike") {
        2
    } else if has(&["by", "attribution"]) {
        1
    } else {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freer_licences_come_first() {
        for (expected, licences) in [
            (
                0,
                &[
                    "CC0",
                    "cc0-1.0",
                    "http://creativecommons.org/publicdomain/zero/1.0/legalcode",
                    "Public Domain",
                ][..],
            ),
            (0, &["https://creativecommons.org/publicdomain/mark/1.0/", "CC Zero"]),
            (1, &["CC-BY-4.0", "http://creativecommons.org/licenses/by/4.0/legalcode", "CC BY"]),
            (1, &["Creative Commons Attribution 4.0 International"]),
            (2, &["CC_BY_SA", "https://creativecommons.org/licenses/by-sa/3.0/"]),
            (2, &["Creative Commons Attribution-ShareAlike 4.0"]),
            (3, &["http://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-SA 4.0", "CC BY-ND"]),
            (3, &["Creative Commons Attribution-NonCommercial", "Creative Commons"]),
            (4, &["", "Not provided", "All rights reserved", "GPL", "© A. Byrd", "access 4.0 by mail"]),
        ] {
            for licence in licences {
                assert_eq!(rank(Some(licence)), expected, "{licence}");
            }
        }
        assert_eq!(rank(None), 4);
    }
}
