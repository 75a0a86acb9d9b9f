use super::super::Exit;
use super::super::args::InitArgs;
use crate::config::{DEFAULT_FILE, starter_file};

pub(super) fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let path = args.folder.join(DEFAULT_FILE);
    if path.exists() && !args.force {
        anyhow::bail!("`{}` exists; `--force` replaces it", path.display());
    }
    std::fs::create_dir_all(&args.folder)
        .map_err(|error| anyhow::anyhow!("cannot create folder `{}`: {error}", args.folder.display()))?;
    std::fs::write(&path, starter_file())
        .map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", path.display()))?;
    talk!("wrote {}; set `user_agent` in it, then run `ddl ingest LIST`", path.display());
    Ok(Exit::Done)
}
