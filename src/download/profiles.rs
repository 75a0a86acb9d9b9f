//! `servers_profiles.csv` and `ignored_servers.csv`, as distributed-downloader has them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::model::ServerName;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` has no column {expected}; its first line is `{found}`", path.display())]
    MissingColumn { path: PathBuf, expected: &'static str, found: String },
    #[error("`{}`:{line}: `{value}` is not a number of requests per second", path.display())]
    BadRate { path: PathBuf, line: usize, value: String },
}

/// Requests per second by server, from columns `server_name` and `rate_limit`. No file: no rates.
///
/// # Errors
/// When the file is there but not as described.
pub fn read_server_rates(path: &Path) -> Result<HashMap<ServerName, f64>, ProfileError> {
    let Some(table) = Table::read(path)? else { return Ok(HashMap::new()) };
    let names = table.column(&["server_name", "ServerName"], "`server_name`")?;
    let rates = table.column(&["rate_limit"], "`rate_limit`")?;
    let mut by_server = HashMap::new();
    for (line, fields) in &table.rows {
        let (Some(name), Some(value)) = (fields.get(names), fields.get(rates)) else { continue };
        let rate = value.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
        let rate = rate.ok_or_else(|| ProfileError::BadRate {
            path: path.to_owned(),
            line: *line,
            value: value.clone(),
        })?;
        by_server.insert(ServerName::from_catalog(&name.to_lowercase()), rate);
    }
    Ok(by_server)
}

/// Servers to leave alone, from column `server_name` or `ServerName`. No file or an empty one: none.
///
/// # Errors
/// When the file is there but not as described.
pub fn read_ignored_servers(path: &Path) -> Result<HashSet<ServerName>, ProfileError> {
    let Some(table) = Table::read(path)? else { return Ok(HashSet::new()) };
    let names = table.column(&["server_name", "ServerName"], "`server_name` or `ServerName`")?;
    Ok(table
        .rows
        .iter()
        .filter_map(|(_, fields)| fields.get(names))
        .filter(|name| !name.is_empty())
        .map(|name| ServerName::from_catalog(&name.to_lowercase()))
        .collect())
}

/// A small comma-separated file: names of servers and numbers, which are never quoted across lines.
struct Table {
    path: PathBuf,
    header: Vec<String>,
    rows: Vec<(usize, Vec<String>)>,
}

impl Table {
    fn read(path: &Path) -> Result<Option<Self>, ProfileError> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ProfileError::Io { path: path.to_owned(), source }),
        };
        let fields = |line: &str| -> Vec<String> {
            line.split(',').map(|field| field.trim().trim_matches('"').to_owned()).collect()
        };
        let mut lines = text
            .trim_start_matches('\u{feff}')
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim().is_empty());
        let Some((_, header)) = lines.next() else { return Ok(None) };
        Ok(Some(Self {
            path: path.to_owned(),
            header: fields(header),
            rows: lines.map(|(number, line)| (number, fields(line))).collect(),
        }))
    }

    fn column(&self, names: &[&str], expected: &'static str) -> Result<usize, ProfileError> {
        self.header.iter().position(|field| names.contains(&field.as_str())).ok_or_else(|| {
            ProfileError::MissingColumn { path: self.path.clone(), expected, found: self.header.join(",") }
        })
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
            let ignored = read_ignored_servers(&path).unwrap();
            assert_eq!(ignored, HashSet::from([ServerName::from_catalog("example.org")]));
        }
        let (_folder, path) = file("");
        assert!(read_ignored_servers(&path).unwrap().is_empty());
        assert!(read_ignored_servers(Path::new("/no/such/file")).unwrap().is_empty());
        let (_folder, path) = file("host\nexample.org\n");
        let error = read_ignored_servers(&path).unwrap_err().to_string();
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
}
