//! One JSON object, field by field, each value as it is written.
//!
//! `serde_json` would turn numbers into its own (`1.10` into 1.1, long ids into floats), so it is asked
//! only where a value ends and whether it is one.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// A value of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JsonValue<'a> {
    Null,
    /// Without quotes and escapes.
    Text(Cow<'a, str>),
    /// All else: number, boolean, array or object.
    Written(&'a str),
}

/// Hands on the fields of the object that the line consists of.
///
/// # Errors
/// Says what is wrong and where, or what `each` says. Fields before that were handed on.
pub(super) fn for_each_field<'a>(
    line: &'a str,
    mut each: impl FnMut(&str, JsonValue<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = Rest { line, at: 0 };
    rest.expect("{", "the line is no JSON object")?;
    if !rest.take("}") {
        loop {
            let JsonValue::Text(name) = rest.value()? else { return Err(rest.error("a name is expected")) };
            rest.expect(":", "`:` is expected")?;
            each(&name, rest.value()?)?;
            if !rest.take(",") {
                break;
            }
        }
        rest.expect("}", "`,` or `}` is expected")?;
    }
    rest.skip_space();
    if rest.at == line.len() { Ok(()) } else { Err(rest.error("there is more behind the object")) }
}

/// What is not read yet.
struct Rest<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn skip_space(&mut self) {
        let text = &self.line[self.at..];
        self.at = self.line.len() - text.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip_space();
        let found = self.line[self.at..].starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn expect(&mut self, sign: &str, otherwise: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(self.error(otherwise)) }
    }

    fn value(&mut self) -> Result<JsonValue<'a>, String> {
        self.skip_space();
        let text = &self.line[self.at..];
        // The common case: a string without escapes.
        if let Some(inner) = text.strip_prefix('"')
            && let Some(end) = inner.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))
            && inner.as_bytes()[end] == b'"'
        {
            self.at += end + 2;
            return Ok(JsonValue::Text(Cow::Borrowed(&inner[..end])));
        }
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        if !matches!(values.next(), Some(Ok(_))) {
            return Err(self.error("no JSON value begins"));
        }
        let written = &text[..values.byte_offset()];
        let value = match written.as_bytes()[0] {
            b'n' => JsonValue::Null,
            b'"' => match serde_json::from_str(written) {
                Ok(text) => JsonValue::Text(Cow::Owned(text)),
                Err(_) => return Err(self.error("a text with a bad escape begins")),
            },
            _ => JsonValue::Written(written),
        };
        self.at += written.len();
        Ok(value)
    }

    fn error(&self, what: &str) -> String {
        format!("{what} at column {}", self.at + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(line: &str) -> Result<Vec<(String, String)>, String> {
        let mut fields = Vec::new();
        for_each_field(line, |name, value| {
            let value = match value {
                JsonValue::Null => "null".to_owned(),
                JsonValue::Text(text) => format!("{text:?}"),
                JsonValue::Written(text) => text.to_owned(),
            };
            fields.push((name.to_owned(), value));
            Ok(())
        })?;
        Ok(fields)
    }

    #[test]
    fn values_are_as_they_are_written() {
        let check = |value: &str, expect: &str| {
            let line = format!(" {{ \"a\" : {value},\"b\":{value} }} ");
            let expect = [("a".to_owned(), expect.to_owned()), ("b".to_owned(), expect.to_owned())];
            assert_eq!(fields(&line).as_deref(), Ok(&expect[..]), "{line}");
        };
        for same in ["1.10", "12345678901234567890123", "-0.0", "1e400", "true", "null", "\"é\"", "[1, {}]"]
        {
            check(same, same);
        }
        check(r#""\u00e9\n""#, r#""é\n""#);
        assert_eq!(fields("{}"), Ok(Vec::new()));
        assert_eq!(fields(r#"{"\u0061":1}"#), Ok(vec![("a".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let nested = format!("{{\"a\":{}", "[".repeat(100_000));
        for line in
            ["", "7", "[1]", "{", "{}x", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":01}", "{1:2}", &nested]
        {
            assert!(fields(line).is_err(), "{line}");
        }
        assert!(fields("{\"a\":1 \"b\":2}").unwrap_err().ends_with("at column 8"));
    }

    proptest! {
        #[test]
        fn what_is_an_object_is_what_serde_json_says(line in "\\{(\"[ab\\\\\"\t]{0,3}\":[ ]?([0-9.e-]{1,4}|true|null|\"[a\\\\nu0\"\t]{0,6}\"|[\\[\\]{}1,]{0,4}),?){0,3}\\} ?") {
            let parsed: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&line);
            // Numbers that it cannot hold are no fault of the line.
            let is_too_large = parsed.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            prop_assert!(fields(&line).is_ok() == parsed.is_ok() || is_too_large, "{}: {:?}", line, fields(&line));
            if let Ok(parsed) = parsed {
                let mut names: Vec<String> = fields(&line).unwrap().into_iter().map(|(name, _)| name).collect();
                names.sort();
                names.dedup();
                let mut expect: Vec<String> = parsed.keys().cloned().collect();
                expect.sort();
                prop_assert_eq!(names, expect);
            }
        }
    }
}
