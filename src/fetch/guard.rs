//! Which addresses may be asked: a list must not make ddl knock on doors inside the user's network.
//!
//! Checked twice for every hop: an IP literal in the URL before anything is sent (connecting to one involves
//! no name resolution), and each resolved address in the resolver itself (so what was checked is what is
//! connected to; a name that changes between check and use gains nothing). `url` has already turned odd
//! spellings (`0x7f.1`, `2130706433`, `127.0.0.1.`) into plain addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// What an address is for, as far as the guard cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// A public address.
    Public,
    /// Loopback, private, shared (CGNAT), documentation and benchmark ranges: refused unless
    /// `allow_private_networks`.
    Private,
    /// Link-local, unspecified, multicast, broadcast, reserved, and metadata services of clouds: always refused.
    Never,
}

/// An address that the guard refuses; also the error that the resolver passes through the HTTP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    pub address: IpAddr,
    pub reach: Reach,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            Reach::Never => write!(f, "address `{}` is never asked", self.address),
            _ => write!(f, "address `{}` is private and `allow_private_networks` is not set", self.address),
        }
    }
}

impl std::error::Error for Forbidden {}

/// # Errors
/// If the URL's host is an IP literal that may not be asked. Names pass: their addresses are checked later.
pub fn check_url(url: &Url, allow_private: bool) -> Result<(), Forbidden> {
    match url.host() {
        Some(Host::Ipv4(address)) => check_address(address.into(), allow_private),
        Some(Host::Ipv6(address)) => check_address(address.into(), allow_private),
        Some(Host::Domain(_)) | None => Ok(()),
    }
}

/// # Errors
/// If the address may not be asked.
pub fn check_address(address: IpAddr, allow_private: bool) -> Result<(), Forbidden> {
    match reach(address) {
        Reach::Public => Ok(()),
        Reach::Private if allow_private => Ok(()),
        reach => Err(Forbidden { address, reach }),
    }
}

/// Sorts an address into one of the three classes.
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// IANA IPv4 special-purpose registry.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [0, ..] | [169, 254, ..] | [224..=255, ..] => Reach::Never,
        // Alibaba Cloud keeps its metadata service in the shared range, Oracle Cloud in 192.0.0.0/24.
        // Azure's wire server hands out secrets of the machine from a public range.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Reach::Never,
        [10 | 127, ..]
        | [100, 64..=127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [192, 0, 0 | 2, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Private,
        _ => Reach::Public,
    }
}

/// IANA IPv6 special-purpose registry; forms that carry an IPv4 address are as far as that address.
fn reach_v6(address: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Never,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // IPv4-compatible, IPv4-mapped, IPv4-translated (SIIT), NAT64.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // NAT64 of the local network: its own idea of where the IPv4 address stands.
        [0x64, 0xff9b, 1, ..] => Reach::Private,
        // 6to4 names its relay; Teredo its server, and (inverted) its client.
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            embedded(high, low).max(embedded(!client_high, !client_low))
        }
        // Amazon's metadata service lives in the private range.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Reach::Never,
        // Unique local, the older site-local, documentation (two ranges), benchmark.
        [0xfc00..=0xfdff, ..]
        | [0xfec0..=0xfeff, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..]
        | [0x2001, 2, 0, ..] => Reach::Private,
        // Public addresses are all in 2000::/3 (RFC 4291); link-local and multicast are not.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_reach() {
        let table = [
            (
                Reach::Public,
                "8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.169.0.1 198.20.0.1 169.253.0.1 192.0.1.1",
            ),
            (
                Reach::Private,
                "10.0.0.1 127.0.0.1 127.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255",
            ),
            (Reach::Private, "192.0.0.1 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9"),
            (
                Reach::Never,
                "0.0.0.0 0.1.2.3 169.254.169.254 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 100.100.100.200 168.63.129.16",
            ),
            (Reach::Public, "2606:4700::1111 2a00:1450::1 64:ff9b::8.8.8.8 ::ffff:8.8.8.8 2002:808:808::1"),
            (Reach::Private, "::1 fc00::1 fdff::1 fec0::1 2001:db8::1 3fff::1 64:ff9b:1::1"),
            (
                Reach::Private,
                "::ffff:10.0.0.1 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::192.168.1.1 2002:7f00:1::1 2002:a00:1::",
            ),
            (Reach::Never, ":: fe80::1 febf::1 ff02::1 100::1 fd00:ec2::254 ::ffff:0.0.0.0 5f00::2 4000::1"),
            (
                Reach::Never,
                "::ffff:169.254.169.254 ::169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 ::ffff:168.63.129.16",
            ),
            // Teredo: server 65.54.227.120, client 192.0.2.45, then a link-local client.
            (Reach::Private, "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
            (Reach::Never, "2001:0:4136:e378:8000:63bf:5601:5601"),
        ];
        for (expect, addresses) in table {
            for text in addresses.split(' ') {
                let got = reach(text.parse().unwrap());
                assert_eq!(got, expect, "{text}");
            }
        }
    }

    #[test]
    fn literals_are_checked_in_every_spelling() {
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://2130706433/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.0.0.1/",
            "https://[::1]:8443/",
            "http://[::ffff:7f00:1]/",
            "http://[::127.0.0.1]/",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(check_url(&url, false).unwrap_err().reach, Reach::Private, "{text}");
            assert!(check_url(&url, true).is_ok(), "{text}");
        }
        for text in [
            "http://169.254.169.254/latest",
            "http://0/",
            "http://[fe80::1]/",
            "http://[::]/",
            "http://255.255.255.255/",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(check_url(&url, true).unwrap_err().reach, Reach::Never, "{text}");
        }
        assert!(check_url(&Url::parse("http://localhost/").unwrap(), false).is_ok());
    }
}
