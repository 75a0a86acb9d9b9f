//! All tools by name: those that are built in, and those that a program adds.

use std::fmt;
use std::sync::Arc;

use super::custom::CustomTool;
use super::dedup::{AGAINST, Dedup};
use super::placeholder::Placeholder;
use super::resize::Resize;
use super::size::Size;
use super::verify::Verify;
use super::{Tool, ToolDefinition, ToolError, ToolOptions};
use crate::model::nearest;

type Make = fn(&ToolOptions) -> Box<dyn Tool>;
type MakeShared = dyn Fn(&ToolOptions) -> Box<dyn Tool> + Send + Sync;

/// Name, distributed-downloader's name, and the tool.
const TOOLS: &[(&str, &str, Make)] = &[
    ("size", "size_based", |options| Box::new(Size::new(options))),
    ("resize", "resize", |options| Box::new(Resize::new(options))),
    ("verify", "image_verification", |options| Box::new(Verify::new(options))),
    ("placeholder", "placeholder", |options| Box::new(Placeholder::new(options))),
    ("dedup", "duplication_based", |options| Box::new(Dedup::new(options))),
    (AGAINST, AGAINST, |options| Box::new(Dedup::against(options))),
];

/// The longest name of a tool. It is also the name of a folder.
const MAX_NAME_BYTES: usize = 64;

/// Makes a tool, once its settings are known.
#[derive(Clone)]
pub struct ToolFactory {
    name: String,
    make: Arc<MakeShared>,
}

impl ToolFactory {
    /// The name of the tool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tool with these settings.
    #[must_use]
    pub fn make(&self, options: &ToolOptions) -> Box<dyn Tool> {
        (self.make)(options)
    }
}

impl fmt::Debug for ToolFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ToolFactory").field(&self.name).finish()
    }
}

impl From<ToolDefinition> for ToolFactory {
    fn from(definition: ToolDefinition) -> Self {
        let definition = Arc::new(definition);
        Self {
            name: definition.name.clone(),
            make: Arc::new(move |options| Box::new(CustomTool::new(definition.clone(), options))),
        }
    }
}

/// A tool that a [`Registry`] knows.
#[derive(Clone, Debug)]
pub struct RegisteredTool {
    pub factory: ToolFactory,
    /// A second name.
    pub alias: Option<String>,
    /// Whether it comes with ddl.
    pub built_in: bool,
}

/// The tools that there are in a program.
///
/// A program with one more tool is a `ddl` that has it, too (`examples/custom_tool.rs` is one):
///
/// ```no_run
/// use ddl::tools::{FilterInput, FilterTable, Registry, Selects, Tool, ToolError};
/// use futures_util::future::BoxFuture;
///
/// /// Removes what may move.
/// struct Gif;
///
/// impl Tool for Gif {
///     fn name(&self) -> &str {
///         "gif"
///     }
///     fn parameters(&self) -> String {
///         String::new()
///     }
///     fn selects(&self) -> Selects {
///         Selects::Images
///     }
///     fn filter<'a>(
///         &'a self,
///         input: &'a FilterInput<'a>,
///         table: &'a mut FilterTable,
///     ) -> BoxFuture<'a, Result<(), ToolError>> {
///         Box::pin(input.select(table, "image_format = 'gif'", "'gif'"))
///     }
/// }
///
/// let mut tools = Registry::default();
/// tools.add("gif", None, |_| Box::new(Gif))?;
/// ddl::cli::run_with(&tools);
/// # Ok::<(), ToolError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Registry {
    tools: Vec<RegisteredTool>,
}

impl Default for Registry {
    /// The built-in tools.
    fn default() -> Self {
        let tools = TOOLS.iter().map(|&(name, alias, make)| RegisteredTool {
            factory: ToolFactory { name: name.to_owned(), make: Arc::new(make) },
            alias: Some(alias.to_owned()),
            built_in: true,
        });
        Self { tools: tools.collect() }
    }
}

impl Registry {
    /// Adds a tool, which may have a second name.
    ///
    /// # Errors
    /// `Name` when one of the names cannot be that of a tool, belongs to another, or is not what the tool itself says.
    pub fn add(
        &mut self,
        name: &str,
        alias: Option<&str>,
        make: impl Fn(&ToolOptions) -> Box<dyn Tool> + Send + Sync + 'static,
    ) -> Result<(), ToolError> {
        let refuse = |name: &str, reason: String| Err(ToolError::Name { name: name.to_owned(), reason });
        for name in std::iter::once(name).chain(alias) {
            if !is_tool_name(name) {
                return refuse(name, format!("names have {NAME_RULE}"));
            }
            if let Some(other) = self.find(name) {
                return refuse(name, format!("it is that of the tool `{}`", other.name()));
            }
        }
        let factory = ToolFactory { name: name.to_owned(), make: Arc::new(make) };
        let tool = factory.make(&ToolOptions::default());
        if tool.name() != name {
            return refuse(name, format!("the tool calls itself `{}`", tool.name()));
        }
        self.tools.push(RegisteredTool { factory, alias: alias.map(str::to_owned), built_in: false });
        Ok(())
    }

    /// The tools in the order in which they were added.
    #[must_use]
    pub fn tools(&self) -> &[RegisteredTool] {
        &self.tools
    }

    /// The tool of a name, or of its second name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ToolFactory> {
        let mut tools = self.tools.iter();
        let tool = tools.find(|tool| tool.factory.name == name || tool.alias.as_deref() == Some(name))?;
        Some(tool.factory.clone())
    }

    /// That there is no tool of a name, neither here nor among `others`.
    #[must_use]
    pub fn unknown(&self, name: &str, others: &[String]) -> ToolError {
        let names = self.tools.iter().map(|tool| tool.factory.name());
        let known: Vec<_> = names.chain(others.iter().map(String::as_str)).collect();
        let aliases = self.tools.iter().filter_map(|tool| tool.alias.as_deref());
        ToolError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, known.iter().copied().chain(aliases)).map(str::to_owned),
            known: known.iter().map(|&name| name.to_owned()).collect(),
        }
    }
}

/// What [`is_tool_name`] asks for, in words.
pub const NAME_RULE: &str = "lower-case letters, digits and underscores, the first a letter";

/// Whether a text can be a tool's name: that of a folder, and of the table `tool_NAME`.
#[must_use]
pub fn is_tool_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= MAX_NAME_BYTES
        && text.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_have_two_names_and_slips_are_told() {
        let registry = Registry::default();
        for name in ["size", "size_based"] {
            let factory = registry.find(name).unwrap();
            assert_eq!(factory.make(&ToolOptions::default()).name(), "size");
        }
        assert!(registry.find("siez").is_none());
        let error = registry.unknown("siez", &["grey".into()]);
        assert_eq!(error.to_string(), "there is no tool `siez`; is `size` meant?");
        assert!(error.hint().unwrap().contains("size") && error.hint().unwrap().contains("grey"));
        assert!(registry.unknown("gray", &["grey".into()]).to_string().ends_with("is `grey` meant?"));
    }

    #[test]
    fn every_built_in_tool_is_called_as_it_calls_itself_and_says_what_it_does() {
        for tool in Registry::default().tools() {
            let made = tool.factory.make(&ToolOptions::default());
            assert_eq!(made.name(), tool.factory.name());
            assert!(!made.description().is_empty(), "{tool:?}");
            assert!(is_tool_name(tool.factory.name()), "{tool:?}");
        }
    }

    #[test]
    fn a_name_belongs_to_one_tool() {
        let mut registry = Registry::default();
        let mut add = |name: &str, alias: Option<&str>| {
            let own = name.trim_end_matches('!').to_owned();
            let made = move |options: &ToolOptions| -> Box<dyn Tool> {
                match own.as_str() {
                    "size" | "other" => Box::new(Size::new(options)),
                    _ => Box::new(CustomTool::new(Arc::new(ToolDefinition::named(&own)), options)),
                }
            };
            registry.add(name, alias, made).map_err(|error| error.to_string())
        };
        assert_eq!(add("grey", Some("gray")), Ok(()));
        for (name, alias, reason) in [
            ("size", None, "it is that of the tool `size`"),
            ("blur", Some("size_based"), "it is that of the tool `size`"),
            ("gray", None, "it is that of the tool `grey`"),
            ("other", None, "the tool calls itself `size`"),
            ("../x", None, NAME_RULE),
            ("Grey", None, NAME_RULE),
            ("", None, NAME_RULE),
        ] {
            let error = add(name, alias).unwrap_err();
            assert!(error.ends_with(reason), "{error}");
        }
        assert_eq!(registry.find("gray").unwrap().name(), "grey");
        assert_eq!(registry.tools().len(), TOOLS.len() + 1);
    }
}
