//! `ignored_servers.csv` and the like: a column of server names.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use arrow::array::AsArray;

use super::delimited::DelimitedReader;
use super::error::IngestError;
use super::options::InputFormat;
use super::raw_batch::MalformedLog;
use super::source::Header;
use crate::model::ServerName;

/// The names under `server_name` or `ServerName` (distributed-downloader writes the one and reads the
/// other), lower-cased. A file that does not exist names none.
pub(super) fn read_server_list(
    path: &Path,
    max_row_bytes: usize,
) -> Result<HashSet<ServerName>, IngestError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(IngestError::read(path)(error)),
    };
    let mut reader = DelimitedReader::open(path, Box::new(file), InputFormat::Csv, max_row_bytes)?;
    // A server that is lost here would be asked although it must not be.
    let mut malformed = MalformedLog { strict: true, ..MalformedLog::default() };
    let mut names = HashSet::new();
    while let Some(batch) = reader.next_batch(&mut malformed)? {
        let header = Header::new(path, batch.rows.schema_ref());
        let column = match header.find("ServerName") {
            Some(column) => column,
            None => header.require("server_name", "a list of servers needs")?,
        };
        let values = batch.rows.column(column).as_string::<i32>().iter().flatten();
        names.extend(values.map(|name| ServerName::from_catalog(&name.trim().to_ascii_lowercase())));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_headers_are_read_and_absence_is_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ignored_servers.csv");
        assert!(read_server_list(&path, 1000).unwrap().is_empty());
        for header in ["server_name", "ServerName,why"] {
            let more = if header.contains(',') { ",slow" } else { "" };
            std::fs::write(&path, format!("{header}\nA.org{more}\nb:81{more}\n")).unwrap();
            let names = read_server_list(&path, 1000).unwrap();
            let expect = ["a.org", "b:81"].map(ServerName::from_catalog);
            assert_eq!(names, HashSet::from(expect));
        }
        std::fs::write(&path, "host\na\n").unwrap();
        assert!(read_server_list(&path, 1000).is_err());
    }
}
