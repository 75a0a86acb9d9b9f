use super::super::args::{DoctorArgs, GlobalArgs};
use super::super::{Exit, print_line};
use crate::doctor::{DoctorReport, Finding};
use crate::pipeline::doctor;

pub(super) fn run(global: &GlobalArgs, args: &DoctorArgs) -> anyhow::Result<Exit> {
    let dataset = super::dataset(global, global.overrides())?;
    super::start_logging(global, &dataset, None);
    let (report, leave) = doctor(&dataset, args.url.as_deref())?;
    let mut exit = Exit::Done;
    if let Some(report) = report {
        if args.json {
            print_line(serde_json::to_string_pretty(&report)?)?;
        } else {
            print_line(text(&report))?;
        }
        if report.failures > 0 {
            exit = Exit::Error;
        }
    }
    Ok(super::ranks::leave(leave, exit))
}

fn text(report: &DoctorReport) -> String {
    let mut text = String::new();
    if !report.run.is_empty() {
        text += "the run\n";
        report.run.iter().for_each(|finding| text += &line(finding));
    }
    for found in &report.nodes {
        match report.num_ranks {
            1 => text += &format!("node {}\n", found.node),
            _ => text += &format!("node {}, rank {}\n", found.node, found.rank),
        }
        found.findings.iter().for_each(|finding| text += &line(finding));
    }
    let count = |number: usize, one: &str, many: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    };
    let (failures, warnings) =
        (count(report.failures, "failure", "failures"), count(report.warnings, "warning", "warnings"));
    text + &match (report.failures, report.warnings) {
        (0, 0) => "ready: nothing stands in the way of a download".to_owned(),
        (0, _) => format!("ready, with {warnings}"),
        (_, 0) => format!("NOT ready: {failures}"),
        _ => format!("NOT ready: {failures}, {warnings}"),
    }
}

fn line(finding: &Finding) -> String {
    let mut line =
        format!("  {:<7}  {:<13}  {}\n", finding.level.as_str(), finding.check.as_str(), finding.message);
    if let Some(advice) = &finding.advice {
        line += &format!("{:26}-> {advice}\n", "");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Check, NodeFindings};

    #[test]
    fn each_line_has_its_level_and_what_to_do() {
        let report = DoctorReport {
            num_ranks: 2,
            num_nodes: 1,
            failures: 1,
            warnings: 0,
            run: vec![Finding::failure(Check::Launch, "rank 1 does not answer", "is its node alive?")],
            nodes: vec![NodeFindings {
                node: "n1".into(),
                rank: 0,
                findings: vec![
                    Finding::ok(Check::Cores, "8 of 8"),
                    Finding::skipped(Check::Egress, "no list"),
                ],
            }],
        };
        insta::assert_snapshot!(text(&report), @"
        the run
          FAILURE  launch         rank 1 does not answer
                                  -> is its node alive?
        node n1, rank 0
          ok       cores          8 of 8
          skipped  egress         no list
        NOT ready: 1 failure
        ");
    }
}
