//! A look at the way to a server, before anything is asked of it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::{Host, Url};

use super::fetcher::Fetcher;
use super::proxy::ProxyUrl;

/// Where a request would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Through a proxy, which resolves names by itself.
    pub is_proxied: bool,
    /// What would be connected to; none behind a proxy.
    pub addresses: Vec<IpAddr>,
}

impl Fetcher {
    /// Finds where a request for `url` would go. Whether that is an address that may be asked is not said.
    ///
    /// # Errors
    /// Why it can go nowhere, in a line for people.
    pub async fn route(&self, url: &Url) -> Result<Route, String> {
        let target = self.clients.target(url)?;
        if target.is_proxied() {
            return Ok(Route { is_proxied: true, addresses: Vec::new() });
        }
        let addresses = match target.connects_to() {
            Some(Host::Domain(name)) => {
                let within = self.options.connect_timeout;
                match timeout(within, self.dns.lookup(name)).await {
                    Ok(found) => found.map_err(|error| error.to_string())?,
                    Err(_) => return Err(format!("`{name}`: no answer within {} s", within.as_secs())),
                }
            }
            Some(Host::Ipv4(address)) => vec![(*address).into()],
            Some(Host::Ipv6(address)) => vec![(*address).into()],
            None => Vec::new(),
        };
        Ok(Route { is_proxied: false, addresses })
    }
}

/// Connects to a proxy, and hangs up.
///
/// # Errors
/// Why that cannot be done, in a line for people.
pub async fn reach_proxy(proxy: &ProxyUrl, within: Duration) -> Result<(), String> {
    let url = proxy.url()?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    match timeout(within, TcpStream::connect((host.as_str(), port))).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", within.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::FetchOptions;
    use super::super::rules::ServerRules;
    use super::*;

    fn fetcher(options: FetchOptions) -> Fetcher {
        let options = FetchOptions { user_agent: "t (t@t.example)".into(), ..options };
        Fetcher::new(options, ServerRules::default()).unwrap()
    }

    #[tokio::test]
    async fn a_route_is_an_address_or_a_proxy() {
        let url = |text| Url::parse(text).unwrap();
        let direct = fetcher(FetchOptions::default());
        let route = direct.route(&url("http://192.0.2.1/x")).await.unwrap();
        assert_eq!(route, Route { is_proxied: false, addresses: vec![IpAddr::from([192, 0, 2, 1])] });
        assert!(!direct.route(&url("http://localhost/x")).await.unwrap().addresses.is_empty());
        let error = direct.route(&url("http://no-such-name.invalid/")).await.unwrap_err();
        assert!(error.contains("no-such-name.invalid"), "{error}");

        let connect_to = vec!["::127.0.0.1:81".parse().unwrap()];
        let elsewhere = fetcher(FetchOptions { connect_to, ..FetchOptions::default() });
        let route = elsewhere.route(&url("http://no-such-name.invalid/")).await.unwrap();
        assert_eq!(route.addresses, [IpAddr::from([127, 0, 0, 1])]);

        let http_proxy = Some(ProxyUrl::new("http://127.0.0.1:1"));
        let proxied = fetcher(FetchOptions { http_proxy, ..FetchOptions::default() });
        assert!(proxied.route(&url("http://no-such-name.invalid/")).await.unwrap().is_proxied);
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_there_is_told_from_one_that_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let within = Duration::from_secs(10);
        reach_proxy(&ProxyUrl::new(&format!("http://{address}")), within).await.unwrap();
        drop(listener);
        let error = reach_proxy(&ProxyUrl::new(&format!("{address}")), within).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
