//! Columns of text under construction, straight from bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use crate::model::UrlKey;

/// One column: values end to end, and where each ends. An empty value is a null.
#[derive(Debug)]
pub(super) struct TextColumn {
    values: Vec<u8>,
    offsets: Vec<i32>,
}

impl Default for TextColumn {
    fn default() -> Self {
        Self { values: Vec::new(), offsets: vec![0] }
    }
}

impl TextColumn {
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Callers keep a batch far below 2 GiB.
    pub(super) fn push(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.offsets.push(self.values.len() as i32);
    }

    /// Nulls up to `len` rows, or the last rows dropped down to it.
    pub(super) fn set_len(&mut self, len: usize) {
        self.offsets.resize(len + 1, self.values.len() as i32);
        self.values.truncate(self.offsets[len] as usize);
    }

    /// The array, and the rows whose bytes were not UTF-8 (they hold replacement characters now) with the
    /// keys of these bytes.
    pub(super) fn finish(&mut self) -> (ArrayRef, Vec<(u32, UrlKey)>) {
        let column = std::mem::take(self);
        let capacity = column.values.len() + column.values.len() / 8;
        self.values.reserve(capacity);
        let nulls =
            BooleanBuffer::collect_bool(column.len(), |row| column.offsets[row] < column.offsets[row + 1]);
        let nulls = Some(NullBuffer::new(nulls)).filter(|nulls| nulls.null_count() > 0);
        match build(column.values, column.offsets, nulls.clone()) {
            Ok(array) => (Arc::new(array), Vec::new()),
            Err((values, offsets)) => replace_invalid(&values, &offsets, nulls),
        }
    }
}

type Parts = (Vec<u8>, Vec<i32>);

fn build(values: Vec<u8>, offsets: Vec<i32>, nulls: Option<NullBuffer>) -> Result<StringArray, Parts> {
    if std::str::from_utf8(&values).is_err() {
        return Err((values, offsets));
    }
    // Valid as a whole, yet a character may straddle two values: the array's own check sees that.
    let values = Buffer::from_vec(values);
    let buffer = OffsetBuffer::new(ScalarBuffer::from(offsets));
    StringArray::try_new(buffer.clone(), values.clone(), nulls)
        .map_err(|_| (values.to_vec(), buffer.to_vec()))
}

fn replace_invalid(
    values: &[u8],
    offsets: &[i32],
    nulls: Option<NullBuffer>,
) -> (ArrayRef, Vec<(u32, UrlKey)>) {
    let mut invalid = Vec::new();
    let rows = offsets.windows(2).enumerate().map(|(row, ends)| {
        let bytes = &values[ends[0] as usize..ends[1] as usize];
        let text = String::from_utf8_lossy(bytes);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            invalid.push((row as u32, UrlKey::of_bytes(bytes)));
        }
        nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)).then_some(text)
    });
    let array: StringArray = rows.collect();
    (Arc::new(array), invalid)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn empty_is_null_and_bad_utf8_is_replaced_and_named() {
        let mut column = TextColumn::default();
        for value in [&b"ab"[..], b"", b"\xff", "ö".as_bytes()] {
            column.push(value);
        }
        let (array, invalid) = column.finish();
        let array = array.as_string::<i32>();
        assert_eq!(array.iter().collect::<Vec<_>>(), [Some("ab"), None, Some("\u{fffd}"), Some("ö")]);
        assert_eq!(invalid, [(2, UrlKey::of_bytes(b"\xff"))]);
        assert_eq!(column.len(), 0);
    }

    #[test]
    fn a_character_that_straddles_two_values_is_bad_in_both() {
        let mut column = TextColumn::default();
        column.push(b"a\xc3");
        column.push(b"\xb6b");
        let (array, invalid) = column.finish();
        assert_eq!(invalid, [(0, UrlKey::of_bytes(b"a\xc3")), (1, UrlKey::of_bytes(b"\xb6b"))]);
        assert_eq!(array.len(), 2);
    }

    #[test]
    fn set_len_pads_and_rolls_back() {
        let mut column = TextColumn::default();
        column.push(b"one");
        column.set_len(3);
        column.push(b"four");
        column.set_len(3);
        column.push(b"4");
        let (array, _) = column.finish();
        assert_eq!(array.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("one"), None, None, Some("4")]);
    }
}
