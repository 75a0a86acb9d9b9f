//! What tools remove from an export, and what of each.

use std::collections::BTreeMap;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use serde::Serialize;

use super::ExportError;
use crate::query::{QuerySession, ToolState};

/// Tools that an export may name: each has a bit of a number.
const MAX_TOOLS: usize = 32;

/// Which tools' verdicts an export follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CleanOptions {
    /// Names of tools.
    pub tools: Vec<String>,
    /// Follows them also where they have not seen all images, or not those that there are now.
    pub allow_stale: bool,
}

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removals {
    /// Images before any was.
    pub images: u64,
    /// Images that one tool or several remove.
    pub removed: u64,
    /// Images that exactly these tools remove.
    pub by_tools: Vec<RemovedBy>,
}

/// Images that exactly these tools remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemovedBy {
    pub tools: Vec<String>,
    pub images: u64,
}

impl Removals {
    /// Images that a tool removes, alone or with others.
    #[must_use]
    pub fn of(&self, tool: &str) -> u64 {
        let with_it = self.by_tools.iter().filter(|by| by.tools.iter().any(|name| name == tool));
        with_it.map(|by| by.images).sum()
    }
}

/// Checks that each tool has been run on the images that there are.
pub(super) fn check(session: &QuerySession, options: &CleanOptions) -> Result<(), ExportError> {
    if options.tools.len() > MAX_TOOLS {
        return Err(ExportError::TooManyTools { max: MAX_TOOLS });
    }
    for tool in &options.tools {
        let error = match session.tool_state(tool) {
            None => ExportError::ToolNotRun { tool: tool.clone() },
            Some(ToolState { is_current: false, .. }) => ExportError::ToolStale { tool: tool.clone() },
            Some(ToolState { is_completed: false, .. }) => ExportError::ToolIncomplete { tool: tool.clone() },
            Some(ToolState { .. }) => continue,
        };
        match error {
            error if !options.allow_stale => return Err(error),
            error @ ExportError::ToolNotRun { .. } => return Err(error),
            error => tracing::warn!("{error}"),
        }
    }
    Ok(())
}

/// A condition on the rows of `ordered_images as images` in a slice: no tool removes them.
pub(super) fn condition(tools: &[String], (first, last): (usize, usize)) -> String {
    if tools.is_empty() {
        return "true".into();
    }
    format!(
        "not exists (select 1 from ordered_verdicts as v where v.\"ddl:partition\" = images.\"ddl:partition\" \
         and v.record = images.record and {})",
        removing(tools, (first, last))
    )
}

fn removing(tools: &[String], (first, last): (usize, usize)) -> String {
    let names: Vec<_> = tools.iter().map(|tool| format!("'{}'", tool.replace('\'', "''"))).collect();
    format!(
        "v.verdict = 'remove' and v.tool in ({}) and v.\"ddl:partition\" between {first} and {last}",
        names.join(", ")
    )
}

/// Counts what the tools remove, slice by slice: a slice bounds what is grouped at once.
pub(super) async fn removals(
    session: &QuerySession,
    tools: &[String],
    slices: &[(usize, usize)],
) -> Result<Removals, ExportError> {
    let mut removals = Removals { images: session.num_images(), ..Removals::default() };
    if tools.is_empty() {
        return Ok(removals);
    }
    let bits: Vec<_> = tools
        .iter()
        .enumerate()
        .map(|(bit, tool)| format!("when '{}' then {}", tool.replace('\'', "''"), 1_u64 << bit))
        .collect();
    let mut by_mask: BTreeMap<i64, u64> = BTreeMap::new();
    for &slice in slices {
        let sql = format!(
            "select mask, count(*) as images from (select bit_or(case v.tool {} else 0 end) as mask \
             from ordered_verdicts as v where {} group by v.\"ddl:partition\", v.record) group by mask",
            bits.join(" "),
            removing(tools, slice)
        );
        for batch in session.collect(&sql).await? {
            let (masks, images) =
                (batch["mask"].as_primitive::<Int64Type>(), batch["images"].as_primitive::<Int64Type>());
            for (&mask, &images) in masks.values().iter().zip(images.values()) {
                *by_mask.entry(mask).or_default() += images as u64;
            }
        }
    }
    for (mask, images) in by_mask {
        let tools = tools.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
        removals.by_tools.push(RemovedBy { tools: tools.map(|(_, tool)| tool.clone()).collect(), images });
        removals.removed += images;
    }
    Ok(removals)
}
