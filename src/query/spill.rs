//! Where queries put what does not fit into their memory: a folder that is made when it is first needed, so that
//! a dataset can be read by those who may not write to it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::spill_file::{SpillFile, TempFileFactory};

pub(super) struct SpillFolder {
    folder: PathBuf,
    max_bytes: u64,
    /// Keeps a folder of its own in `folder`, and removes it in the end.
    disk: Mutex<Option<Arc<DiskManager>>>,
}

impl SpillFolder {
    pub fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self { folder, max_bytes, disk: Mutex::new(None) }
    }

    fn disk(&self) -> Result<Arc<DiskManager>> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(disk) = &*disk {
            return Ok(disk.clone());
        }
        std::fs::create_dir_all(&self.folder)?;
        let made = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![self.folder.clone()]))
            .with_max_temp_directory_size(self.max_bytes)
            .build()?;
        Ok(disk.insert(Arc::new(made)).clone())
    }
}

impl TempFileFactory for SpillFolder {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        self.disk().and_then(|disk| disk.create_tmp_file(description)).map_err(|error| {
            DataFusionError::ResourcesExhausted(format!(
                "cannot write to `{}`: {}",
                self.folder.display(),
                error.strip_backtrace()
            ))
        })
    }
}
