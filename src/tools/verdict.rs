//! What a tool says of one image.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};

use crate::model::RecordIndex;
use crate::storage::verdicts_schema;

/// What is to become of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// An export that is cleaned by the tool leaves it out.
    Remove,
    /// Nothing; it can be asked for.
    Flag,
}

impl VerdictKind {
    /// As in the column `verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Flag => "flag",
        }
    }

    /// Reads what [`VerdictKind::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Remove, Self::Flag].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a tool says of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub record: RecordIndex,
    pub uuid: String,
    pub kind: VerdictKind,
    /// In a word or two, such as `too_small`.
    pub reason: String,
    /// `uuid` of the image that stays in place of this one.
    pub witness: Option<String>,
    /// How far the two are from each other; what of, the tool says.
    pub distance: Option<i32>,
}

/// `servers` has the true servers of records in a folder that many share.
pub(super) fn verdict_batch(verdicts: &[Verdict], servers: &HashMap<RecordIndex, String>) -> RecordBatch {
    let text = |value: fn(&Verdict) -> Option<&str>| -> ArrayRef {
        Arc::new(verdicts.iter().map(value).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(|verdict| Some(&verdict.uuid)),
        Arc::new(verdicts.iter().map(|verdict| Some(verdict.record as i32)).collect::<Int32Array>()),
        text(|verdict| Some(verdict.kind.as_str())),
        text(|verdict| Some(&verdict.reason)),
        text(|verdict| verdict.witness.as_deref()),
        Arc::new(verdicts.iter().map(|verdict| verdict.distance).collect::<Int32Array>()),
        Arc::new(verdicts.iter().map(|verdict| servers.get(&verdict.record)).collect::<StringArray>()),
    ];
    RecordBatch::try_new(verdicts_schema(), columns).expect("columns follow the schema")
}
