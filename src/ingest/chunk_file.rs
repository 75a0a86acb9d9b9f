//! Rows that wait on disk: a file of chunks, each a complete Arrow IPC stream with its own schema.
//!
//! So chunks of one file may differ in their columns, and a file needs no end mark: it is read by the
//! process that wrote it, or thrown away.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use super::error::IngestError;

/// A file of chunks being written; removed with it.
#[derive(Debug)]
pub(super) struct ChunkFile {
    path: PathBuf,
    file: BufWriter<File>,
    num_chunks: u64,
}

impl ChunkFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, IngestError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(IngestError::write(folder))?;
        }
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.map_err(IngestError::write(&path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), path, num_chunks: 0 })
    }

    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), IngestError> {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let written = StreamWriter::try_new_with_options(&mut self.file, rows.schema_ref(), options)
            .and_then(|mut writer| writer.write(rows).and_then(|()| writer.finish()));
        written.map_err(as_write_error(&self.path))?;
        self.num_chunks += 1;
        Ok(())
    }

    /// The chunks, in the order in which they were written. May be asked for more than once.
    pub(super) fn read(
        &mut self,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, IngestError>> + use<>, IngestError> {
        self.file.flush().map_err(IngestError::write(&self.path))?;
        let path = self.path.clone();
        let file = File::open(&path).map_err(IngestError::read(&path))?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let chunks = (0..self.num_chunks).map(move |_| {
            let mut stream = StreamReader::try_new(&mut reader, None)?;
            let batch = stream.next().transpose()?;
            // To the end mark, behind which the next stream begins.
            let end = stream.next().transpose()?;
            match (batch, end) {
                (Some(batch), None) => Ok(batch),
                _ => Err(ArrowError::IpcError(format!("`{}` was changed", path.display())).into()),
            }
        });
        Ok(chunks)
    }
}

impl Drop for ChunkFile {
    fn drop(&mut self) {
        // What stays behind is swept by the next ingest.
        let _ = fs::remove_file(&self.path);
    }
}

fn as_write_error(path: &Path) -> impl FnOnce(ArrowError) -> IngestError + '_ {
    move |error| match error {
        ArrowError::IoError(_, source) => IngestError::write(path)(source),
        error => error.into(),
    }
}
