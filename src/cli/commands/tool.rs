use super::super::args::{GlobalArgs, StageChoice, ToolArgs};
use super::super::progress::ToolProgress;
use super::super::{Exit, format, print_line};
use crate::cluster::{ClusterOptions, launch};
use crate::config::ConfigError;
use crate::dispatch::{RunEnding, RunReport};
use crate::pipeline::{Dataset, PipelineError, ToolEnding, ToolRequest, find_tool, list_tools, tool};
use crate::runtime::Shutdown;
use crate::tools::{AGAINST, Registry, Stage, StagesReport};

pub(super) fn run(global: &GlobalArgs, args: &ToolArgs, tools: &Registry) -> anyhow::Result<Exit> {
    let Some(name) = args.tool() else { return list(global, args, tools) };
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    let found = find_tool(&dataset, tools, name)?;
    if (args.near.is_some() || args.against.is_some()) && !["dedup", AGAINST].contains(&found.name()) {
        talk!("error: `--near` and `--against` are of the tool `dedup`, not of `{}`", found.name());
        return Ok(Exit::Usage);
    }
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    super::start_logging(
        global,
        &dataset,
        Some(format!("tool-{}-{:02}", found.name(), cluster.endpoint.rank)),
    );
    let shutdown = Shutdown::new();
    let request = ToolRequest {
        tool: found,
        stage: args.stage.map(StageChoice::stage),
        reset: args.reset.map(StageChoice::stage),
    };
    let (ending, leave) = tool(&dataset, &request, cluster, &shutdown, |num_ranks| {
        let mut progress = ToolProgress::new(global);
        super::ranks::observer(global, &shutdown, num_ranks, move |status| progress.show(status))
    })?;
    let exit = match &ending {
        ToolEnding::Coordinated { run, stages } => {
            if args.json {
                print_line(serde_json::to_string_pretty(stages)?)?;
            } else if !global.quiet {
                talk!("{}", summary(stages, run.as_deref(), request.stage).trim_end());
            }
            match run.as_ref().map(|run| run.ending) {
                Some(RunEnding::Stopped) => Exit::Resumable,
                Some(RunEnding::Incomplete) => Exit::Error,
                Some(RunEnding::Done) | None => Exit::Done,
            }
        }
        ToolEnding::Stopped => {
            if !global.quiet {
                talk!("stopped early: nothing was chosen yet; run the same command again");
            }
            Exit::Resumable
        }
        ToolEnding::Worked => Exit::Done,
        ToolEnding::Forced => Exit::Interrupted,
    };
    Ok(super::ranks::leave(leave, exit))
}

fn list(global: &GlobalArgs, args: &ToolArgs, tools: &Registry) -> anyhow::Result<Exit> {
    let resolved = super::resolve(global, global.overrides())?;
    let dataset = match Dataset::new(resolved.clone()) {
        // Tools are there without a dataset, too.
        Err(PipelineError::Config(ConfigError::NoFile | ConfigError::Unset { .. })) => None,
        dataset => Some(dataset?),
    };
    let listed = list_tools(&resolved, dataset.as_ref(), tools)?;
    if args.json {
        print_line(serde_json::to_string_pretty(&listed)?)?;
        return Ok(Exit::Done);
    }
    let header = ["tool", "also", "from", "state", "does"];
    let mut rows = vec![header.map(str::to_owned)];
    for tool in listed {
        let state = match tool.stage {
            "new" => "-".to_owned(),
            "completed" => "done".to_owned(),
            "filtered" => "filtered".to_owned(),
            _ => format!("{} of {} partitions", format::count(tool.done), format::count(tool.partitions)),
        };
        rows.push([tool.name, tool.alias.unwrap_or_else(|| "-".into()), tool.from, state, tool.description]);
    }
    print_line(format::left_aligned(&rows))?;
    Ok(Exit::Done)
}

impl StageChoice {
    fn stage(self) -> Stage {
        match self {
            Self::Filter => Stage::Filter,
            Self::Schedule => Stage::Schedule,
            Self::Run => Stage::Run,
        }
    }
}

fn summary(stages: &StagesReport, run: Option<&RunReport>, only: Option<Stage>) -> String {
    let tool = &stages.tool;
    if matches!(only, Some(Stage::Filter | Stage::Schedule)) {
        return format!(
            "{tool}: {} partitions to go through; `ddl tool {tool}` does\n",
            format::count(stages.partitions)
        );
    }
    let mut text = match run.map(|run| run.ending) {
        Some(RunEnding::Stopped) => format!("{tool} stopped early: "),
        Some(RunEnding::Incomplete) => format!("{tool} ended, but is not complete: "),
        Some(RunEnding::Done) => format!("{tool} is done: "),
        None if stages.partitions == 0 => format!("{tool} is done: it chose nothing, "),
        None => format!("{tool} was done before: "),
    };
    text += &format!(
        "{} of {} partitions, {} images, {} to be removed",
        format::count(stages.done),
        format::count(stages.partitions),
        format::count(stages.images),
        format::count(stages.removed),
    );
    if stages.flagged > 0 {
        text += &format!(", {} flagged", format::count(stages.flagged));
    }
    if stages.new_images > 0 {
        text += &format!(", {} new images", format::count(stages.new_images));
    }
    text.push('\n');
    let Some(run) = run else { return text };
    for (partition, trouble) in &run.set_aside {
        text += &format!("error: {partition} was set aside: {trouble}\n");
    }
    if !run.set_aside.is_empty() {
        text += "hint: the same command goes on from here; `ddl check` says whether files are damaged\n";
    }
    if run.lost_ranks > 0 {
        text += &format!("warning: {} ranks were lost; others took over their work\n", run.lost_ranks);
    }
    if run.ending == RunEnding::Stopped {
        text += "run the same command again to go on\n";
    }
    text
}
