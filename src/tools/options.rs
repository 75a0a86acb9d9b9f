//! What the user may set about tools (`tools_parameters`), and what they go by of the download's settings.

use std::path::PathBuf;

use serde::Deserialize;

use super::Keep;
use crate::imaging::{ImagingOptions, ResizeMode};
use crate::runtime::{MemoryBudget, MemoryPermit};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolOptions {
    /// `size`: images whose shorter side has fewer pixels are removed.
    pub threshold_size: u32,
    /// `resize`: the new size, in pixels: of the longer side, unless `resize_mode` says otherwise.
    pub new_resize_size: u32,
    /// `resize`: which side it is, and whether the result is a square.
    pub resize_mode: ResizeMode,
    /// `resize`: smaller images stay as they are; else they are enlarged.
    pub resize_only_if_bigger: bool,
    /// `verify`: images of one colour are removed.
    pub remove_blank: bool,
    /// `placeholder`: a picture is one if it came from so many URLs of a server.
    pub placeholder_min_urls: u64,
    /// How images are decoded and encoded.
    #[serde(skip)]
    pub imaging: ImagingOptions,
    /// Bytes that decoded images of all threads may share.
    #[serde(skip)]
    pub decode_memory: u64,
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
            resize_mode: ResizeMode::default(),
            resize_only_if_bigger: true,
            remove_blank: false,
            placeholder_min_urls: 10,
            imaging: ImagingOptions::default(),
            decode_memory: 512 << 20,
            keep: Keep::default(),
            near_distance: 0,
            against: None,
            against_fingerprint: 0,
        }
    }
}

impl ToolOptions {
    /// What decoded images of all threads may take: for a tool to make once, and to buy from ([`hold_memory`]).
    #[must_use]
    pub fn decode_budget(&self) -> MemoryBudget {
        MemoryBudget::new(self.decode_memory, self.decode_memory)
    }
}

/// Waits until so many bytes are free, or all of the budget: the decoder's own limits see to it that no image needs
/// more ([`decode_bytes_estimate`](crate::imaging::decode_bytes_estimate)). They are given back on drop.
pub fn hold_memory(budget: &MemoryBudget, bytes: u64) -> Option<MemoryPermit> {
    budget.acquire_blocking(bytes.min(budget.max_permit())).ok()
}
