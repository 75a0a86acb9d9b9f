use super::super::args::{GlobalArgs, StageChoice, ToolArgs};
use super::super::progress::ToolProgress;
use super::super::{Exit, format, print_line};
use super::download::{leave_at_once, stopping};
use crate::cluster::{ClusterOptions, Ending, launch};
use crate::dispatch::{PublishedStatus, RunEnding, RunReport};
use crate::pipeline::{PipelineError, ToolEnding, ToolRequest, tool};
use crate::runtime::Shutdown;
use crate::tools::{Stage, StagesReport};

pub(super) fn run(global: &GlobalArgs, args: &ToolArgs) -> anyhow::Result<Exit> {
    let mut overrides = global.overrides();
    args.set(&mut overrides);
    let dataset = super::dataset(global, overrides)?;
    let name = args.tool();
    let cluster = launch(&ClusterOptions::default()).map_err(PipelineError::from)?;
    super::start_logging(global, &dataset, Some(format!("tool-{name}-{:02}", cluster.endpoint.rank)));
    let shutdown = Shutdown::new();
    let request = ToolRequest {
        name: name.to_owned(),
        stage: args.stage.map(StageChoice::stage),
        reset: args.reset.map(StageChoice::stage),
    };
    let (ending, leave) = tool(&dataset, &request, cluster, &shutdown, |num_ranks| {
        if num_ranks > 1 && !global.quiet {
            talk!("{num_ranks} ranks");
        }
        let mut progress = ToolProgress::new(global);
        let (shutdown, mut told) = (shutdown.clone(), global.quiet);
        move |status: &PublishedStatus| {
            if let Some(reason) = shutdown.requested().filter(|_| !told) {
                told = true;
                talk!("{}", stopping(reason));
            }
            progress.show(status);
        }
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
        ToolEnding::Worked => Exit::Done,
        ToolEnding::Forced => Exit::Interrupted,
    };
    if leave == Ending::Abandoned {
        leave_at_once(exit);
    }
    Ok(exit)
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
        text += "hint: `ddl check` compares the catalog with the files; the same command goes on from here\n";
    }
    if run.lost_ranks > 0 {
        text += &format!("warning: {} ranks were lost; others took over their work\n", run.lost_ranks);
    }
    if run.ending == RunEnding::Stopped {
        text += "run the same command again to go on\n";
    }
    text
}
