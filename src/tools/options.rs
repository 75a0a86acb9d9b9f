//! What the user may set about tools (`tools_parameters`).

use std::path::PathBuf;

use serde::Deserialize;

use super::Keep;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolOptions {
    /// `size`: images whose shorter side has fewer pixels are removed.
    pub threshold_size: u32,
    /// `resize`: the new longest side, in pixels.
    pub new_resize_size: u32,
    /// `dedup`: which of several images stays.
    pub keep: Keep,
    /// `dedup` and `dedup_against`: bits in which perceptual hashes may differ; 0 looks for equal images only.
    pub near_distance: u32,
    /// `dedup_against`: the other dataset.
    pub against: Option<PathBuf>,
    /// What is in it, by whoever opens it: when it changes, the tool starts again.
    #[serde(skip)]
    pub against_fingerprint: u64,
}

impl Default for ToolOptions {
    fn default() -> Self {
        Self {
            threshold_size: 224,
            new_resize_size: 720,
            keep: Keep::default(),
            near_distance: 0,
            against: None,
            against_fingerprint: 0,
        }
    }
}
