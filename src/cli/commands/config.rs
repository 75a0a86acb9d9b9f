use super::super::args::{ConfigCommand, GlobalArgs};
use super::super::{Exit, print_line};
use crate::config::{show, to_yaml};

pub(super) fn run(global: &GlobalArgs, command: &ConfigCommand) -> anyhow::Result<Exit> {
    let ConfigCommand::Show { yaml } = command;
    let resolved = super::resolve(global, global.overrides())?;
    if *yaml {
        print_line(to_yaml(&resolved).trim_end())?;
        return Ok(Exit::Done);
    }
    let values = show(&resolved);
    let width = values.iter().map(|value| value.key.len() + value.value.len() + 2).max().unwrap_or(0).min(70);
    for value in values {
        let setting = format!("{}: {}", value.key, value.value);
        print_line(format!("{setting:<width$}  # {}", value.origin))?;
    }
    Ok(Exit::Done)
}
