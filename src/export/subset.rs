//! Balanced subsets: of each label, server or licence so many images at most, and so many in all.
//!
//! Each image draws a number from its uuid and the seed; those with the smallest are taken. So a subset depends on no
//! order, an image that is taken stays taken when the subset grows, and what is taken is spread over the whole dataset.
//! Memory: eight bytes for each image that is taken, and the names of the groups that are cut.

use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use serde::Serialize;

use super::ExportError;
use super::select::Selection;
use crate::query::QuerySession;

/// Which part of the chosen images is taken: `max_per`, one after the other, then `sample`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SubsetOptions {
    /// Of each group so many images at most.
    pub max_per: Vec<MaxPer>,
    /// So many images in all at most.
    pub sample: Option<u64>,
    /// Another seed takes other images.
    pub seed: u64,
}

/// At most so many images of each label, server or licence, as in `label=500`. Images without one are a group as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MaxPer {
    pub column: GroupColumn,
    pub images: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupColumn {
    Label,
    Server,
    License,
}

impl GroupColumn {
    fn column(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Server => "server_name",
            Self::License => "license",
        }
    }
}

impl fmt::Display for MaxPer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.column.column(), self.images)
    }
}

impl FromStr for MaxPer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, images) =
            text.split_once('=').ok_or_else(|| format!("`{text}` is not like `label=500`"))?;
        let column = match column.trim() {
            "label" => GroupColumn::Label,
            "server" | "server_name" => GroupColumn::Server,
            "license" | "licence" => GroupColumn::License,
            other => return Err(format!("`{other}` is none of label, server, license")),
        };
        let images = images.trim().parse().map_err(|_| format!("`{images}` is no number of images"))?;
        Ok(Self { column, images })
    }
}

/// A number that depends on the image and the seed alone. `purpose` makes two of them independent.
pub(super) fn draw(purpose: &str, seed: u64, uuid: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose.as_bytes()).update(&[0]).update(&seed.to_le_bytes()).update(uuid.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// The smallest numbers that were drawn, as many as are taken.
struct Smallest {
    taken: BinaryHeap<u64>,
    max: u64,
    /// The smallest that is not taken.
    left: u64,
}

impl Smallest {
    fn new(max: u64) -> Self {
        Self { taken: BinaryHeap::new(), max, left: u64::MAX }
    }

    fn draw(&mut self, number: u64) {
        if (self.taken.len() as u64) < self.max {
            self.taken.push(number);
            return;
        }
        match self.taken.peek_mut() {
            Some(mut largest) if number < *largest => {
                self.left = self.left.min(*largest);
                *largest = number;
            }
            _ => self.left = self.left.min(number),
        }
    }

    /// Smaller numbers are taken: none of two that are equal, if both would be too many. `None` takes all.
    fn cut(&self) -> Option<u64> {
        (self.left < u64::MAX).then_some(self.left)
    }
}

/// Groups that have too many images, each with the number below which they are taken.
struct Cut {
    /// Position of the group among the texts of a row.
    column: Option<usize>,
    below: HashMap<Option<String>, u64>,
}

impl Cut {
    fn takes(&self, number: u64, texts: &[Option<&str>]) -> bool {
        let group = self.column.and_then(|column| texts[column]);
        // Most groups are small, so most images are not looked up by a name that must be made for it.
        self.below.is_empty() || self.below.get(&group.map(str::to_owned)).is_none_or(|&below| number < below)
    }
}

/// What a condition looks at.
const COLUMNS: &str = "uuid, label, server_name, license";
const FUNCTION: &str = "ddl_in_subset";

/// A condition on the rows of `ordered_images`: the subset of `selection` has them.
pub(super) async fn condition(
    session: &QuerySession,
    selection: &Selection,
    options: &SubsetOptions,
) -> Result<String, ExportError> {
    let mut cuts: Vec<Cut> = Vec::new();
    for per in &options.max_per {
        let column = match per.column {
            GroupColumn::Label => 1,
            GroupColumn::Server => 2,
            GroupColumn::License => 3,
        };
        cuts.push(cut(session, selection, &cuts, options.seed, Some(column), per.images).await?);
    }
    if let Some(images) = options.sample {
        cuts.push(cut(session, selection, &cuts, options.seed, None, images).await?);
    }
    if cuts.is_empty() {
        return Ok("true".into());
    }
    let (cuts, seed) = (Arc::new(cuts), options.seed);
    session.register_texts_function(FUNCTION, 4, move |texts| {
        let number = draw("subset", seed, texts[0].unwrap_or_default());
        i64::from(cuts.iter().all(|cut| cut.takes(number, texts)))
    });
    Ok(format!("{FUNCTION}({COLUMNS}) = 1"))
}

async fn cut(
    session: &QuerySession,
    selection: &Selection,
    before: &[Cut],
    seed: u64,
    column: Option<usize>,
    images: u64,
) -> Result<Cut, ExportError> {
    let mut groups: HashMap<Option<String>, Smallest> = HashMap::new();
    for &slice in &selection.slices {
        let mut rows = session.stream(&selection.sql(COLUMNS, slice)).await?;
        while let Some(batch) = rows.next().await? {
            let columns: Vec<_> = batch.columns().iter().map(|column| column.as_string::<i32>()).collect();
            let mut texts = [None; 4];
            for row in 0..batch.num_rows() {
                for (text, column) in texts.iter_mut().zip(&columns) {
                    *text = column.is_valid(row).then(|| column.value(row));
                }
                let number = draw("subset", seed, texts[0].unwrap_or_default());
                if before.iter().all(|cut| cut.takes(number, &texts)) {
                    let group = column.and_then(|column| texts[column]).map(str::to_owned);
                    groups.entry(group).or_insert_with(|| Smallest::new(images)).draw(number);
                }
            }
        }
    }
    let below = groups.into_iter().filter_map(|(group, numbers)| Some((group, numbers.cut()?)));
    Ok(Cut { column, below: below.collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_smallest_are_taken_and_equals_never_make_too_many(
            numbers in proptest::collection::vec(0_u64..50, 0..60),
            max in 0_u64..20,
        ) {
            let mut smallest = Smallest::new(max);
            numbers.iter().for_each(|&number| smallest.draw(number));
            let below = smallest.cut().unwrap_or(u64::MAX);
            let (taken, left): (Vec<u64>, Vec<u64>) = numbers.iter().partition(|&&number| number < below);
            prop_assert!(taken.len() as u64 <= max);
            // The next larger number would make too many.
            if let Some(next) = left.iter().min() {
                let with_next = taken.len() + left.iter().filter(|number| *number == next).count();
                prop_assert!(with_next as u64 > max);
            }
        }
    }

    #[test]
    fn limits_of_groups_are_read() {
        let check = |text: &str, expect: Option<(GroupColumn, u64)>| {
            let read = text.parse::<MaxPer>().ok().map(|per| (per.column, per.images));
            assert_eq!(read, expect, "{text}");
        };
        check("label=500", Some((GroupColumn::Label, 500)));
        check(" server = 3 ", Some((GroupColumn::Server, 3)));
        check("licence=0", Some((GroupColumn::License, 0)));
        for wrong in ["label", "label=", "label=-1", "title=3", ""] {
            check(wrong, None);
        }
    }
}
