//! What is set for single servers, from three sources, the later before the earlier:
//! 1. rules that ddl knows and ships: they only ever make a limit tighter than the user's own for all servers;
//! 2. `servers_profiles.csv`: rates;
//! 3. `servers` of the configuration: whatever it names, tighter or wider.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::error::FetchError;
use super::options::{FetchOptions, is_rate};
use super::rate::RateControl;
use crate::model::{ServerBudget, ServerName};

/// Less than this is a slip of units: not one image would fit.
const LEAST_BYTES: u64 = 1 << 20;

/// What is set for one server; what is not holds as for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerRule {
    /// Most requests/s, over the whole cluster; 0 is no limit.
    pub rate_limit: Option<f64>,
    /// Most requests under way, over the whole cluster.
    pub max_connections: Option<usize>,
    pub rate_control: Option<RateControl>,
    /// Most bytes of bodies in any 60 minutes, over the whole cluster; 0 is no limit.
    pub bytes_per_hour: Option<u64>,
    /// The same in any 24 hours.
    pub bytes_per_day: Option<u64>,
    /// Takes certificates that are expired, self-signed or of another name.
    pub accept_invalid_certificates: Option<bool>,
}

/// The rules of all servers that have any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerRules(HashMap<ServerName, ServerRule>);

impl ServerRules {
    /// Joins the three sources.
    #[must_use]
    pub fn layered(
        options: &FetchOptions,
        known: impl IntoIterator<Item = (ServerName, ServerRule)>,
        rates: impl IntoIterator<Item = (ServerName, f64)>,
        own: impl IntoIterator<Item = (ServerName, ServerRule)>,
    ) -> Self {
        let mut rules: HashMap<ServerName, ServerRule> =
            known.into_iter().map(|(name, rule)| (name, rule.tightened(options))).collect();
        for (name, rate) in rates {
            rules.entry(name).or_default().rate_limit = Some(rate);
        }
        for (name, rule) in own {
            let joined = rules.entry(name).or_default();
            *joined = ServerRule {
                rate_limit: rule.rate_limit.or(joined.rate_limit),
                max_connections: rule.max_connections.or(joined.max_connections),
                rate_control: rule.rate_control.or(joined.rate_control),
                bytes_per_hour: rule.bytes_per_hour.or(joined.bytes_per_hour),
                bytes_per_day: rule.bytes_per_day.or(joined.bytes_per_day),
                accept_invalid_certificates: rule
                    .accept_invalid_certificates
                    .or(joined.accept_invalid_certificates),
            };
        }
        Self(rules)
    }

    /// The rule of a server; an empty one if it has none.
    #[must_use]
    pub fn of(&self, server: &ServerName) -> ServerRule {
        self.0.get(server).copied().unwrap_or_default()
    }

    /// What is set for a server, over the whole cluster.
    #[must_use]
    pub fn budget(&self, server: &ServerName, options: &FetchOptions) -> ServerBudget {
        let rule = self.of(server);
        let max_connections = rule.max_connections.unwrap_or(options.max_connections_per_server);
        ServerBudget {
            rate: rule.rate_limit.unwrap_or(options.default_rate_limit),
            max_connections: u32::try_from(max_connections).unwrap_or(u32::MAX),
            bytes_per_hour: rule.bytes_per_hour.unwrap_or(0),
            bytes_per_day: rule.bytes_per_day.unwrap_or(0),
        }
    }

    /// Whether a server's certificate may be anything.
    pub(super) fn accepts_invalid_certificates(&self, server: &ServerName) -> bool {
        self.of(server).accept_invalid_certificates.unwrap_or(false)
    }

    /// Whether that is so for any server.
    pub(super) fn any_invalid_certificates(&self) -> bool {
        self.0.values().any(|rule| rule.accept_invalid_certificates == Some(true))
    }

    /// Most connections that a rule allows.
    pub(super) fn most_connections(&self) -> Option<usize> {
        self.0.values().filter_map(|rule| rule.max_connections).max()
    }

    /// # Errors
    /// The first rule that would make every request to a server wait for ever.
    pub(super) fn validate(&self) -> Result<(), FetchError> {
        for (name, rule) in &self.0 {
            let bad = |option, problem: String| Err(FetchError::BadOption { option, problem });
            if let Some(rate) = rule.rate_limit.filter(|rate| !is_rate(*rate)) {
                return bad(
                    "rate_limit",
                    format!("of server `{name}` is not a number of requests per second: {rate}"),
                );
            }
            if rule.max_connections == Some(0) {
                return bad(
                    "max_connections",
                    format!("of server `{name}` is zero: no request could be made"),
                );
            }
            for (option, bytes) in
                [("bytes_per_hour", rule.bytes_per_hour), ("bytes_per_day", rule.bytes_per_day)]
            {
                if let Some(bytes @ 1..LEAST_BYTES) = bytes {
                    return bad(
                        option,
                        format!("of server `{name}` is {bytes} bytes: no image would fit (0 is no limit)"),
                    );
                }
            }
        }
        Ok(())
    }
}

impl ServerRule {
    /// The tighter of these limits and those for all servers.
    fn tightened(self, options: &FetchOptions) -> Self {
        let as_limit = |rate: f64| if rate > 0.0 { rate } else { f64::INFINITY };
        let rate_limit = self.rate_limit.map(|rate| {
            let rate = as_limit(rate).min(as_limit(options.default_rate_limit));
            if rate.is_finite() { rate } else { 0.0 }
        });
        let max_connections = self.max_connections.map(|most| most.min(options.max_connections_per_server));
        // What ships makes no exception of anybody's.
        Self { rate_limit, max_connections, accept_invalid_certificates: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_only_tightens_and_what_is_set_wins() {
        let options = FetchOptions {
            default_rate_limit: 5.0,
            max_connections_per_server: 4,
            ..FetchOptions::default()
        };
        let name = ServerName::from_catalog;
        let rule = |rate_limit, max_connections| ServerRule {
            rate_limit,
            max_connections,
            rate_control: Some(RateControl::Fixed),
            ..ServerRule::default()
        };
        let known = [
            (name("wide"), rule(Some(100.0), Some(100))),
            (name("free"), rule(Some(0.0), None)),
            (name("tight"), rule(Some(1.0), Some(1))),
            (name("profiled"), rule(Some(1.0), Some(1))),
            (name("set"), rule(Some(1.0), Some(1))),
        ];
        let own = [(name("set"), ServerRule { rate_limit: Some(0.0), ..ServerRule::default() })];
        let rules =
            ServerRules::layered(&options, known, [(name("profiled"), 50.0), (name("set"), 50.0)], own);
        let check = |server: &str, rate: Option<f64>, connections: Option<usize>| {
            assert_eq!(rules.of(&name(server)), rule(rate, connections), "{server}");
        };
        check("wide", Some(5.0), Some(4));
        check("free", Some(5.0), None);
        check("tight", Some(1.0), Some(1));
        check("profiled", Some(50.0), Some(1));
        check("set", Some(0.0), Some(1));
        assert_eq!(rules.of(&name("unknown")), ServerRule::default());
    }

    #[test]
    fn what_is_not_set_for_a_server_is_as_for_all() {
        let options = FetchOptions::default();
        let name = ServerName::from_catalog;
        let gb = 1_000_000_000;
        let known = ServerRule {
            bytes_per_hour: Some(5 * gb),
            bytes_per_day: Some(24 * gb),
            accept_invalid_certificates: Some(true),
            ..ServerRule::default()
        };
        let own = ServerRule { max_connections: Some(2), bytes_per_day: Some(0), ..ServerRule::default() };
        let rules =
            ServerRules::layered(&options, [(name("a"), known), (name("b"), known)], [], [(name("b"), own)]);
        let budget = ServerBudget { rate: 10.0, max_connections: 8, bytes_per_hour: 0, bytes_per_day: 0 };
        let of = |server| rules.budget(&name(server), &options);
        assert_eq!(of("a"), ServerBudget { bytes_per_hour: 5 * gb, bytes_per_day: 24 * gb, ..budget });
        assert_eq!(of("b"), ServerBudget { max_connections: 2, bytes_per_hour: 5 * gb, ..budget });
        assert_eq!(of("c"), budget);
        assert!(!rules.any_invalid_certificates(), "none ships");
    }

    #[test]
    fn unusable_rules_are_named() {
        let check = |rule: ServerRule, expect: &str| {
            let rules = ServerRules(HashMap::from([(ServerName::from_catalog("a.org"), rule)]));
            assert!(rules.validate().unwrap_err().to_string().starts_with(expect));
        };
        let rule = ServerRule::default();
        check(ServerRule { rate_limit: Some(f64::NAN), ..rule }, "`rate_limit` of server `a.org`");
        check(ServerRule { max_connections: Some(0), ..rule }, "`max_connections` of server `a.org`");
        check(ServerRule { bytes_per_hour: Some(5), ..rule }, "`bytes_per_hour` of server `a.org`");
        check(ServerRule { bytes_per_day: Some(24_000), ..rule }, "`bytes_per_day` of server `a.org`");
    }
}
