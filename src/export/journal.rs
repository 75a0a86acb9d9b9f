//! What an export into a folder has finished, so that it goes on after a kill.
//!
//! `.ddl-export` in the folder has a line for what is exported, then one for each unit (a shard, a file, a run of images)
//! whose files are whole and durable, and one when all is done. A unit knows a digest of the rows that it is made of: an
//! export that is started again goes through the rows, and where a unit has other ones than there are now, the folder is
//! of another export and is left alone. The line of a unit is written after its files, so what has no line is written again.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ExportError;
use super::target::refuse_own;
use crate::storage::{DatasetLayout, create_folder};

const NAME: &str = ".ddl-export";
/// Another one when files come out otherwise.
const VERSION: u32 = 1;

/// A piece of an export that is written whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Unit {
    pub num_images: u64,
    /// Of the rows that it is made of.
    pub digest: String,
    /// Bytes of the images.
    pub image_bytes: u64,
    pub files: Vec<UnitFile>,
    /// No rows came after it.
    pub is_last: bool,
}

/// A file of a unit that others refer to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct UnitFile {
    /// Path in the folder.
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Export { version: u32, format: String, options: serde_json::Value },
    Unit(Unit),
    Complete,
}

/// The journal of one export, locked.
pub(super) struct Journal {
    folder: PathBuf,
    file: File,
    done: VecDeque<Unit>,
    /// All units, those that were done before and those of now.
    pub units: Vec<Unit>,
    is_complete: bool,
}

impl Journal {
    /// Begins an export into a folder that is empty or not there, or goes on with the one that was begun.
    ///
    /// # Errors
    /// `OtherExport` when the folder has something else, `InUse` when another process is at it.
    pub fn open(
        layout: &DatasetLayout,
        folder: &Path,
        format: &str,
        options: &impl Serialize,
    ) -> Result<Self, ExportError> {
        refuse_own(layout, folder)?;
        let failed = |source| ExportError::Write { path: folder.to_owned(), source };
        create_folder(folder)?;
        let path = folder.join(NAME);
        let is_begun = path.try_exists().map_err(failed)?;
        let num_there = fs::read_dir(folder).map_err(failed)?.count();
        if !is_begun && num_there > 0 {
            return Err(ExportError::NotEmpty { path: folder.to_owned() });
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        // Where locks do not work, nobody is kept out.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(ExportError::InUse { path: folder.to_owned() });
        }
        let header = Line::Export {
            version: VERSION,
            format: format.to_owned(),
            options: serde_json::to_value(options).map_err(|error| failed(error.into()))?,
        };
        let (mut lines, mut whole) = read_lines(&file).map_err(failed)?;
        if num_there == 1 {
            // Nothing was written yet, so it may as well be another export.
            (lines, whole) = (VecDeque::new(), 0);
        }
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0)).map(drop)).map_err(failed)?;
        let mut journal = Self {
            folder: folder.to_owned(),
            file,
            done: VecDeque::new(),
            units: Vec::new(),
            is_complete: false,
        };
        match lines.pop_front() {
            None => journal.append(&header)?,
            Some(line) if line == header => {}
            Some(_) => return Err(journal.other()),
        }
        for line in lines {
            match line {
                Line::Unit(unit) => journal.done.push_back(unit),
                Line::Complete => journal.is_complete = true,
                Line::Export { .. } => return Err(journal.other()),
            }
        }
        Ok(journal)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether everything was there before.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The next unit that was done before, for its rows to be compared.
    pub fn next_done(&mut self) -> Option<Unit> {
        self.done.pop_front()
    }

    /// The same, if it has a file of which the name begins so.
    pub fn next_done_of(&mut self, prefix: &str) -> Option<Unit> {
        let is_of = |unit: &Unit| unit.files.iter().any(|file| file.name.starts_with(prefix));
        if self.done.front().is_some_and(is_of) { self.done.pop_front() } else { None }
    }

    /// Takes a unit over that was done before, if it has these rows.
    ///
    /// # Errors
    /// `OtherExport`.
    pub fn take_over(
        &mut self,
        unit: Unit,
        num_images: u64,
        digest: &str,
        is_last: bool,
    ) -> Result<(), ExportError> {
        if (unit.num_images, unit.digest.as_str(), unit.is_last) != (num_images, digest, is_last) {
            return Err(self.other());
        }
        self.units.push(unit);
        Ok(())
    }

    /// Notes a unit whose files are durable.
    ///
    /// # Errors
    /// `OtherExport` when the export was complete without it; when the disk is full.
    pub fn done(&mut self, unit: Unit) -> Result<(), ExportError> {
        if self.is_complete {
            return Err(self.other());
        }
        self.append(&Line::Unit(unit.clone()))?;
        self.units.push(unit);
        Ok(())
    }

    /// Notes that everything is there.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(mut self) -> Result<(), ExportError> {
        if self.is_complete { Ok(()) } else { self.append(&Line::Complete) }
    }

    fn append(&mut self, line: &Line) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { path: self.folder.join(NAME), source };
        let mut text = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).and_then(|()| self.file.sync_data()).map_err(failed)
    }

    fn other(&self) -> ExportError {
        ExportError::OtherExport { path: self.folder.clone() }
    }
}

/// The lines that are whole, and how long they are.
fn read_lines(file: &File) -> io::Result<(VecDeque<Line>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut lines, mut whole, mut text) = (VecDeque::new(), 0, Vec::new());
    loop {
        text.clear();
        let bytes = reader.read_until(b'\n', &mut text)?;
        match serde_json::from_slice(&text) {
            Ok(line) if text.ends_with(b"\n") => lines.push_back(line),
            // What a kill has cut off.
            _ => return Ok((lines, whole)),
        }
        whole += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LayoutOptions;

    #[test]
    fn what_a_kill_cuts_off_is_forgotten_and_the_rest_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let layout = DatasetLayout::new(temp.path().join("out"), LayoutOptions::default());
        let folder = temp.path().join("export");
        let open = |options: &str| Journal::open(&layout, &folder, "webdataset", &options);
        let unit = Unit { num_images: 3, digest: "d".into(), ..Unit::default() };
        drop(open("mistyped").unwrap());
        let mut journal = open("a").unwrap();
        assert!(matches!(open("a"), Err(ExportError::InUse { .. })));
        fs::write(folder.join("shard"), "").unwrap();
        journal.done(unit.clone()).unwrap();
        drop(journal);
        let mut file = File::options().append(true).open(folder.join(NAME)).unwrap();
        file.write_all(b"{\"unit\":{\"num_im").unwrap();

        let mut journal = open("a").unwrap();
        let again = journal.next_done().unwrap();
        assert!(journal.next_done().is_none());
        let error = journal.take_over(again.clone(), 3, "other", false).unwrap_err();
        assert!(matches!(error, ExportError::OtherExport { .. }) && error.hint().is_some());
        journal.take_over(again, 3, "d", false).unwrap();
        journal.done(Unit { is_last: true, ..unit }).unwrap();
        journal.finish().unwrap();
        let mut journal = open("a").unwrap();
        assert_eq!(std::iter::from_fn(|| journal.next_done()).count(), 2);
        assert!(journal.done(Unit::default()).is_err());
        drop(journal);
        assert!(matches!(open("b"), Err(ExportError::OtherExport { .. })));

        let foreign = temp.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "precious").unwrap();
        let refused = Journal::open(&layout, &foreign, "webdataset", &"a");
        assert!(matches!(refused, Err(ExportError::NotEmpty { .. })));
        let own = Journal::open(&layout, &layout.images(), "webdataset", &"a");
        assert!(matches!(own, Err(ExportError::OwnFile { .. })));
    }
}
