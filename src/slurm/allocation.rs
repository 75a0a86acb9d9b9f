//! How large the job around this process is.

/// What Slurm has granted. All `None` outside of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// `SLURM_JOB_NUM_NODES`.
    pub num_nodes: Option<u32>,
    /// `SLURM_NTASKS`: of the step, in one, else of the job.
    pub num_tasks: Option<u32>,
    /// `SLURM_JOB_PARTITION`.
    pub partition: Option<String>,
    /// `SLURMD_NODENAME`: this node. On virtual nodes of one machine another than the host's name.
    pub node: Option<String>,
    /// Whether `srun` has started this process (`SLURM_STEP_ID`). A batch script has no step of its own.
    pub is_step: bool,
}

impl Allocation {
    #[must_use]
    pub fn read() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text =
            |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let number = |name| text(name)?.parse().ok();
        Self {
            num_nodes: number("SLURM_JOB_NUM_NODES"),
            num_tasks: number("SLURM_NTASKS"),
            partition: text("SLURM_JOB_PARTITION"),
            node: text("SLURMD_NODENAME"),
            is_step: text("SLURM_STEP_ID").is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_made_up() {
        assert_eq!(Allocation::from_variables(|_| None), Allocation::default());
        let said = Allocation::from_variables(|name| match name {
            "SLURM_JOB_NUM_NODES" => Some("4".into()),
            "SLURM_NTASKS" => Some("many".into()),
            "SLURMD_NODENAME" => Some("n3".into()),
            "SLURM_JOB_PARTITION" => Some(String::new()),
            _ => None,
        });
        let expected = Allocation { num_nodes: Some(4), node: Some("n3".into()), ..Allocation::default() };
        assert_eq!(said, expected);
    }
}
