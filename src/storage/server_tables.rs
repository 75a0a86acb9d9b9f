//! `servers_profiles.csv`, `ignored_servers.csv` and the like: tables of servers, as distributed-downloader has them.
//!
//! People write them by hand. A name is taken as it is meant (`A.org:80`, `https://a.org/` and `a.org` are one
//! server); one that can be no server's is told, because otherwise it would be without effect and nobody knew.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::model::ServerName;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerTableError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` has no column {expected}; its first line is `{found}`", path.display())]
    MissingColumn { path: PathBuf, expected: &'static str, found: String },
    /// A server that is lost here would be asked although it must not be, or too often.
    #[error("`{}`:{line}: there is no {expected} in this line", path.display())]
    ShortLine { path: PathBuf, line: u64, expected: &'static str },
    #[error("`{}`:{line}: `{value}` is not a number of requests per second", path.display())]
    BadRate { path: PathBuf, line: u64, value: String },
}

impl ServerTableError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::ShortLine { .. } => Some("mend the line or remove it".into()),
            Self::MissingColumn { expected, .. } => Some(format!(
                "its first line must name the columns, {expected} among them; or remove the file"
            )),
            Self::BadRate { .. } => Some("write a number such as `10` or `0.5`; 0 sets no rate".into()),
        }
    }
}

/// Distributed-downloader writes the one and reads the other.
const NAME_COLUMNS: &[&str] = &["server_name", "ServerName"];

/// Requests per second by server, from columns `server_name` and `rate_limit`. No file: no rates.
///
/// # Errors
/// When the file is there but not as described.
pub fn read_server_rates(path: &Path) -> Result<HashMap<ServerName, f64>, ServerTableError> {
    let Some(table) = Table::read(path)? else { return Ok(HashMap::new()) };
    let names = table.column(NAME_COLUMNS, "`server_name`")?;
    let rates = table.column(&["rate_limit"], "`rate_limit`")?;
    let mut by_server = HashMap::new();
    for row in &table.rows {
        let value = table.value(row, rates, "`rate_limit`")?;
        let rate = value.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
        let rate = rate.ok_or_else(|| ServerTableError::BadRate {
            path: path.to_owned(),
            line: row.line,
            value: value.to_owned(),
        })?;
        by_server.extend(table.server(row, names)?.map(|server| (server, rate)));
    }
    Ok(by_server)
}

/// Servers, from column `server_name` or `ServerName`. No file or an empty one: none.
///
/// # Errors
/// When the file is there but not as described.
pub fn read_server_list(path: &Path) -> Result<HashSet<ServerName>, ServerTableError> {
    let Some(table) = Table::read(path)? else { return Ok(HashSet::new()) };
    let names = table.column(NAME_COLUMNS, "`server_name` or `ServerName`")?;
    table.rows.iter().filter_map(|row| table.server(row, names).transpose()).collect()
}

/// A small comma-separated file with a header.
struct Table {
    path: PathBuf,
    header: Vec<String>,
    rows: Vec<Line>,
}

struct Line {
    /// In the file, from 1.
    line: u64,
    fields: Vec<String>,
}

impl Table {
    fn read(path: &Path) -> Result<Option<Self>, ServerTableError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ServerTableError::Io { path: path.to_owned(), source }),
        };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(&bytes[..]);
        let mut lines = reader.byte_records().map(|record| {
            let record = record?;
            Ok(Line {
                line: record.position().map_or(0, csv::Position::line),
                fields: record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect(),
            })
        });
        let io = |source: csv::Error| ServerTableError::Io { path: path.to_owned(), source: source.into() };
        let Some(header) = lines.next().transpose().map_err(io)? else { return Ok(None) };
        let mut rows: Vec<Line> = lines.collect::<Result<_, _>>().map_err(io)?;
        rows.retain(|row| row.fields.iter().any(|field| !field.is_empty()));
        Ok(Some(Self { path: path.to_owned(), header: header.fields, rows }))
    }

    fn column(&self, names: &[&str], expected: &'static str) -> Result<usize, ServerTableError> {
        let is_named = |field: &String| names.iter().any(|name| name.eq_ignore_ascii_case(field));
        self.header.iter().position(is_named).ok_or_else(|| ServerTableError::MissingColumn {
            path: self.path.clone(),
            expected,
            found: self.header.join(","),
        })
    }

    fn value<'r>(
        &self,
        row: &'r Line,
        column: usize,
        expected: &'static str,
    ) -> Result<&'r str, ServerTableError> {
        row.fields.get(column).map(String::as_str).ok_or_else(|| ServerTableError::ShortLine {
            path: self.path.clone(),
            line: row.line,
            expected,
        })
    }

    /// The server of a row; `None` when there is no name, or one that no URL can have.
    fn server(&self, row: &Line, names: usize) -> Result<Option<ServerName>, ServerTableError> {
        let name = self.value(row, names, "`server_name`")?;
        let server = ServerName::parse(name);
        if server.is_none() && !name.is_empty() {
            tracing::warn!(
                "`{}`:{}: `{}` is no server (`host` or `host:port`) and has no effect",
                self.path.display(),
                row.line,
                name.escape_debug()
            );
        }
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn ignored_servers_come_under_either_name() {
        for header in ["server_name", "ServerName", "\u{feff}id,ServerName"] {
            let row = if header.contains("id") { "1,Example.org" } else { "Example.org" };
            let (_folder, path) = file(&format!("{header}\r\n{row}\r\n\r\n"));
            let ignored = read_server_list(&path).unwrap();
            assert_eq!(ignored, HashSet::from([ServerName::from_catalog("example.org")]));
        }
        let (_folder, path) = file("");
        assert!(read_server_list(&path).unwrap().is_empty());
        assert!(read_server_list(Path::new("/no/such/file")).unwrap().is_empty());
        let (_folder, path) = file("server_name,why\n\"a.org\",\"slow, and more\"\n\n");
        assert_eq!(read_server_list(&path).unwrap(), HashSet::from([ServerName::from_catalog("a.org")]));
        let (_folder, path) = file("host\nexample.org\n");
        let error = read_server_list(&path).unwrap_err().to_string();
        assert!(
            error.contains("no column `server_name` or `ServerName`; its first line is `host`"),
            "{error}"
        );
    }

    #[test]
    fn rates_are_distributed_downloaders_profile() {
        let (_folder, path) =
            file("server_name,total_batches,success_count,error_count,rate_limit\ncontent.eol.org,1,0,0,5\n");
        let rates = read_server_rates(&path).unwrap();
        assert_eq!(rates[&ServerName::from_catalog("content.eol.org")], 5.0);
        let (_folder, path) = file("server_name,rate_limit\na,fast\n");
        assert!(read_server_rates(&path).unwrap_err().to_string().contains(":2: `fast` is not"));
    }

    #[test]
    fn names_are_taken_as_they_are_meant() {
        let (_folder, path) = file(
            "why,server_name\n,A.org:80\n,https://b.org\n,http://c.org:81/\n,*.d.org\n,e.org/images\n,\n",
        );
        let expect = ["a.org", "b.org", "c.org:81"].map(ServerName::from_catalog);
        assert_eq!(read_server_list(&path).unwrap(), HashSet::from(expect));
        let (_folder, path) = file("why,server_name\nslow,a.org\nslow\n");
        let error = read_server_list(&path).unwrap_err().to_string();
        assert!(error.ends_with(":3: there is no `server_name` in this line"), "{error}");
    }
}
