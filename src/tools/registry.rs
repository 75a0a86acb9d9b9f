//! All tools by name.

use super::dedup::{AGAINST, Dedup};
use super::size::Size;
use super::{Tool, ToolError, ToolOptions};
use crate::model::nearest;

type Make = fn(&ToolOptions) -> Box<dyn Tool>;

/// Name, distributed-downloader's name, and the tool.
const TOOLS: &[(&str, &str, Make)] = &[
    ("size", "size_based", |options| Box::new(Size::new(options))),
    ("dedup", "duplication_based", |options| Box::new(Dedup::new(options))),
    (AGAINST, AGAINST, |options| Box::new(Dedup::against(options))),
];

/// The names there are.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TOOLS.iter().map(|(name, ..)| *name).collect()
}

/// The tool of a name, or of distributed-downloader's name for it.
///
/// # Errors
/// `Unknown`, with the nearest name.
pub fn find(name: &str, options: &ToolOptions) -> Result<Box<dyn Tool>, ToolError> {
    match TOOLS.iter().find(|(known, alias, _)| [*known, *alias].contains(&name)) {
        Some((.., make)) => Ok(make(options)),
        None => Err(ToolError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, TOOLS.iter().flat_map(|(name, alias, _)| [*name, *alias]))
                .map(str::to_owned),
            known: names().into_iter().map(str::to_owned).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_have_two_names_and_slips_are_told() {
        let options = ToolOptions::default();
        for name in ["size", "size_based"] {
            assert_eq!(find(name, &options).unwrap().name(), "size");
        }
        let error = find("siez", &options).err().unwrap();
        assert_eq!(error.to_string(), "there is no tool `siez`; is `size` meant?");
        assert!(error.hint().unwrap().contains("size"));
    }
}
