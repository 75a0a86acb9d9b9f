//! What the user may set about tools (`tools_parameters`).

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolOptions {
    /// `size`: images whose shorter side has fewer pixels are removed.
    pub threshold_size: u32,
    /// `resize`: the new longest side, in pixels.
    pub new_resize_size: u32,
}

impl Default for ToolOptions {
    fn default() -> Self {
        Self { threshold_size: 224, new_resize_size: 720 }
    }
}
