//! A command line on one line, cut as a shell would cut it, though none runs it.

/// Why a line cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongWords {
    #[error("a quotation mark is not closed")]
    OpenQuote,
    /// A shell would do something with it.
    #[error("`{0}` means something to a shell only, and none runs it")]
    ForShells(char),
}

/// What a shell would not pass on as it is.
const FOR_SHELLS: &[char] = &['|', '&', ';', '<', '>', '(', ')', '$', '`', '*', '?', '~', '#'];

/// Cuts at blanks. Quotation marks and backslashes keep together what they surround, with the rules of POSIX (2.2).
///
/// # Errors
/// When a quotation mark is not closed, or something stands outside of quotation marks that only a shell understands.
pub fn split_words(line: &str) -> Result<Vec<String>, WrongWords> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            _ if character.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(WrongWords::OpenQuote)? {
                        '\'' => break,
                        inner => word.push(inner),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(WrongWords::OpenQuote)? {
                        '"' => break,
                        '\\' => match characters.next().ok_or(WrongWords::OpenQuote)? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        expanded @ ('$' | '`') => return Err(WrongWords::ForShells(expanded)),
                        inner => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ if FOR_SHELLS.contains(&character) => return Err(WrongWords::ForShells(character)),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_as_a_shell_cuts_them() {
        let check = |line: &str, words: &[&str]| assert_eq!(split_words(line).unwrap(), words, "{line}");
        check("", &[]);
        check("  python3  grey.py\t{input}\n", &["python3", "grey.py", "{input}"]);
        check(r#"a 'b c' "d  e" f\ g"#, &["a", "b c", "d  e", "f g"]);
        check(r#"'' "" x''y"#, &["", "", "xy"]);
        check(r#""a\"b\\c\n" 'd\'e"#, &[r#"a"b\c\n"#, r"d\e"]);
        check("'$HOME | *' a=b", &["$HOME | *", "a=b"]);
        assert_eq!(split_words("a 'b"), Err(WrongWords::OpenQuote));
        assert_eq!(split_words("a \"b\\"), Err(WrongWords::OpenQuote));
        for (line, character) in
            [("a | b", '|'), ("a > b", '>'), ("a $B", '$'), ("a \"$B\"", '$'), ("a; b", ';')]
        {
            assert_eq!(split_words(line), Err(WrongWords::ForShells(character)), "{line}");
        }
    }
}
