//! Hands values on: to the options of other rooms, through serde and by the names of their fields.
//!
//! A room's `XOptions` has fields named as the keys. `section` asks the type for its field names
//! and looks each up below the given groups, so a new option needs a line in the table and a field,
//! nothing between. A field without a key is an error: an option that no user can reach is a mistake
//! or must be named as such.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor,
};

use super::error::ConfigError;
use super::keys::{self, KEYS};
use super::resolve::Resolved;
use super::value::Value;

impl Resolved {
    /// Fills `T` from the keys below `groups` (`""` is the top level); the first group that has a
    /// field's name wins.
    ///
    /// `renames` pairs a field with the full path of its key; an empty path leaves it to `T`'s
    /// default. Durations come as `std::time::Duration`, sizes as integers, a group of keys as a struct.
    /// Where a field is an `Option`, an empty text and 0 come as `None`: in this table 0 is "automatic"
    /// or "no limit" wherever a field could be an `Option`.
    ///
    /// # Errors
    /// `Mismatch` when a field has no key, or a value does not fit its field.
    pub fn section<T: DeserializeOwned>(
        &self,
        groups: &[&str],
        renames: &[(&str, &str)],
    ) -> Result<T, ConfigError> {
        let section = Section { resolved: self, groups, renames };
        let options = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
        T::deserialize(section).map_err(|Reason(reason)| ConfigError::Mismatch { options, reason })
    }

    /// One value, as any type that serde can make of it.
    ///
    /// # Errors
    /// `Mismatch` when there is no such key, or its value does not fit `T`.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ConfigError> {
        let value = self.get(path).ok_or_else(|| Reason(format!("there is no key `{path}`")));
        value.and_then(|value| T::deserialize(ValueDeserializer::new(value))).map_err(|Reason(reason)| {
            ConfigError::Mismatch {
                options: std::any::type_name::<T>(),
                reason: format!("`{path}`: {reason}"),
            }
        })
    }

    /// Asks that each path exists that these keys name; standard input (`-`) does.
    ///
    /// # Errors
    /// `MissingPath`, with the place where it was set, when nothing is there.
    pub fn require_paths(&self, paths: &[&str]) -> Result<(), ConfigError> {
        for key in paths.iter().filter_map(|path| keys::position(path)) {
            let (value, at) = &self.entries()[key];
            let named = match value {
                Value::Text(path) if !path.is_empty() => std::slice::from_ref(path),
                Value::List(paths) => paths,
                _ => &[],
            };
            for path in named.iter().filter(|path| *path != "-") {
                std::fs::metadata(path).map_err(|source| ConfigError::MissingPath {
                    at: at.clone(),
                    key: KEYS[key].path,
                    path: path.into(),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

/// Why a value does not fit.
#[derive(Debug)]
struct Reason(String);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

impl de::Error for Reason {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// What stands under a field's name: a value, or a group of keys.
enum Found<'de> {
    Value(&'static str, &'de Value),
    Group(&'static str),
}

#[derive(Clone, Copy)]
struct Section<'s, 'de> {
    resolved: &'de Resolved,
    groups: &'s [&'s str],
    renames: &'s [(&'s str, &'s str)],
}

impl<'de> Section<'_, 'de> {
    /// `None` when the field is to keep its default.
    fn find(&self, field: &str) -> Result<Option<Found<'de>>, Reason> {
        let renamed =
            self.renames.iter().find(|(name, _)| *name == field).map(|(_, path)| (*path).to_owned());
        if renamed.as_deref() == Some("") {
            return Ok(None);
        }
        let paths = self.groups.iter().map(|group| match *group {
            "" => field.to_owned(),
            group => format!("{group}.{field}"),
        });
        let paths: Vec<String> = renamed.map_or_else(|| paths.collect(), |path| vec![path]);
        for path in &paths {
            if let Some(key) = keys::position(path) {
                return Ok(Some(Found::Value(KEYS[key].path, &self.resolved.entries()[key].0)));
            }
            if let Some((group, _)) = keys::GROUPS.iter().find(|(group, _)| group == path) {
                return Ok(Some(Found::Group(group)));
            }
        }
        Err(Reason(format!("no key for the field `{field}`")))
    }
}

impl<'de> Deserializer<'de> for Section<'_, 'de> {
    type Error = Reason;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Reason> {
        Err(Reason("a struct with named fields is needed".to_owned()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Reason> {
        visitor.visit_map(Fields { section: self, fields: fields.iter(), found: None })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Walks the fields of a struct.
struct Fields<'s, 'de> {
    section: Section<'s, 'de>,
    fields: std::slice::Iter<'static, &'static str>,
    found: Option<Found<'de>>,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Reason;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Reason> {
        for field in self.fields.by_ref() {
            self.found = self.section.find(field)?;
            if self.found.is_some() {
                return seed.deserialize(BorrowedStrDeserializer::<Reason>::new(field)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Reason> {
        match self.found.take() {
            Some(Found::Value(path, value)) => seed
                .deserialize(ValueDeserializer::new(value))
                .map_err(|Reason(reason)| Reason(format!("`{path}`: {reason}"))),
            Some(Found::Group(group)) => {
                seed.deserialize(Section { resolved: self.section.resolved, groups: &[group], renames: &[] })
            }
            None => Err(Reason("a value was asked for before its field".to_owned())),
        }
    }
}

struct ValueDeserializer<'a> {
    value: &'a Value,
    /// Whether nothing can be said by not being there: then 0 is 0.
    in_map: bool,
}

impl<'a> ValueDeserializer<'a> {
    fn new(value: &'a Value) -> Self {
        Self { value, in_map: false }
    }
}

impl<'de> IntoDeserializer<'de, Reason> for ValueDeserializer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for ValueDeserializer<'de> {
    type Error = Reason;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Reason> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) | Value::Bytes(number) => visitor.visit_u64(*number),
            Value::Number(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            // The form in which serde writes `std::time::Duration`.
            Value::Duration(duration) => {
                let fields = [("secs", duration.as_secs()), ("nanos", u64::from(duration.subsec_nanos()))];
                let fields = MapDeserializer::<_, Reason>::new(fields.into_iter());
                visitor.visit_map(fields)
            }
            Value::List(texts) => {
                visitor.visit_seq(SeqDeserializer::<_, Reason>::new(texts.iter().map(String::as_str)))
            }
            Value::Rules(rules) => {
                let rules = rules.iter().map(|(from, ranks)| (*from, *ranks));
                visitor.visit_map(MapDeserializer::<_, Reason>::new(rules))
            }
            Value::Maps(maps) => {
                let maps = maps.iter().map(|value| ValueDeserializer { value, in_map: true });
                visitor.visit_seq(SeqDeserializer::new(maps))
            }
            Value::Map(map) => {
                let entries = map
                    .iter()
                    .map(|(name, value)| (name.as_str(), ValueDeserializer { value, in_map: true }));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Reason> {
        match self.value {
            _ if self.in_map => visitor.visit_some(self),
            Value::Text(text) if text.is_empty() => visitor.visit_none(),
            Value::Integer(0) => visitor.visit_none(),
            Value::Number(number) if *number == 0.0 => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Reason> {
        v.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Reason> {
        match self.value {
            Value::Text(text) => {
                let text: BorrowedStrDeserializer<'de, Reason> = BorrowedStrDeserializer::new(text);
                text.deserialize_enum(name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use crate::config::resolve::parse;
    use crate::model::{HashAlgorithm, ImageEncoding};
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Options {
        user_agent: String,
        ca_certificate: Option<PathBuf>,
        connect_timeout: Duration,
        max_body_bytes: u64,
        max_redirects: u32,
        default_rate_limit: f64,
        image_encoding: ImageEncoding,
        input_format: Option<String>,
        schedule_rules: BTreeMap<u32, u32>,
        path_to_input: Vec<PathBuf>,
        columns: Columns,
        pixels: Option<u32>,
        headers: Vec<(String, String)>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Columns {
        url: Option<String>,
        label: Option<String>,
    }

    const GROUPS: &[&str] = &["", "downloader_parameters", "ingest_parameters"];

    #[test]
    fn options_are_filled_by_their_names() {
        let text = "user_agent: me@x.org\nimage_encoding: PNG\ncolumns: {label: species}\npath_to_input: [a, b]\n\
                    schedule_rules: {1: 1, 50: 2}\ndownloader_parameters: {connect_timeout: 1500ms, image_size: 224}\n";
        let renames = [("pixels", "downloader_parameters.image_size"), ("headers", "")];
        let options: Options = parse("t", text).unwrap().section(GROUPS, &renames).unwrap();
        let expect = Options {
            user_agent: "me@x.org".to_owned(),
            connect_timeout: Duration::from_millis(1500),
            max_body_bytes: 100 << 20,
            max_redirects: 5,
            default_rate_limit: 10.0,
            image_encoding: ImageEncoding::Png,
            schedule_rules: BTreeMap::from([(1, 1), (50, 2)]),
            path_to_input: vec!["a".into(), "b".into()],
            columns: Columns { url: None, label: Some("species".to_owned()) },
            pixels: Some(224),
            ..Options::default()
        };
        assert_eq!(options, expect);
    }

    #[test]
    fn nothing_is_none() {
        let resolved = parse("t", "downloader_parameters: {default_rate_limit: 0}").unwrap();
        assert_eq!(resolved.read::<Option<usize>>("downloader_parameters.cpu_threads").unwrap(), None);
        assert_eq!(resolved.read::<Option<f64>>("downloader_parameters.default_rate_limit").unwrap(), None);
        assert_eq!(resolved.read::<Option<u32>>("downloader_parameters.max_redirects").unwrap(), Some(5));
        assert_eq!(resolved.read::<usize>("downloader_parameters.cpu_threads").unwrap(), 0);
    }

    #[test]
    fn servers_are_read_as_they_are_set() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Rule {
            rate_limit: Option<f64>,
            max_connections: Option<usize>,
        }
        let resolved =
            parse("t", "servers: {a.org: {rate_limit: 0, source: me}, b.org: {max_connections: 3}}").unwrap();
        let rules: BTreeMap<String, Rule> = resolved.read("servers").unwrap();
        assert_eq!(rules["a.org"], Rule { rate_limit: Some(0.0), max_connections: None });
        assert_eq!(rules["b.org"], Rule { rate_limit: None, max_connections: Some(3) });
    }

    #[test]
    fn fields_without_a_key_or_of_another_type_are_errors() {
        let resolved = parse("t", "downloader_parameters: {max_body_bytes: 110 MiB}").unwrap();
        let missing = resolved.section::<Options>(GROUPS, &[("headers", "")]).unwrap_err();
        assert_eq!(missing.to_string(), "options of Options: no key for the field `pixels`");
        let narrow = resolved.read::<u16>("downloader_parameters.max_body_bytes").unwrap_err().to_string();
        assert!(
            narrow.contains("`downloader_parameters.max_body_bytes`: invalid value: integer"),
            "{narrow}"
        );
        assert!(resolved.read::<u64>("no.such.key").is_err());
        assert_eq!(resolved.read::<HashAlgorithm>("hash_algorithm").unwrap(), HashAlgorithm::Blake3);
        assert_eq!(resolved.read::<Duration>("catalog_parameters.lease_timeout").unwrap().as_secs(), 120);
    }

    #[test]
    fn paths_that_do_not_exist_are_located() {
        let text = "\nca_certificate: /no/such/file.pem\npath_to_input: ['-', Cargo.toml, no/such.csv]\n";
        let resolved = parse("ddl.yaml", text).unwrap();
        let error = |path| resolved.require_paths(&["excluded_servers_path", path]).unwrap_err().to_string();
        let file = error("ca_certificate");
        assert!(file.starts_with("ddl.yaml:2: `ca_certificate` names `/no/such/file.pem`: "), "{file}");
        let list = error("path_to_input");
        assert!(list.starts_with("ddl.yaml:3: `path_to_input` names `no/such.csv`: "), "{list}");
        let resolved = parse("ddl.yaml", "path_to_input: Cargo.toml").unwrap();
        resolved.require_paths(&["path_to_input", "ingest_parameters.temp_folder"]).unwrap();
    }
}
