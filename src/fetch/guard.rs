//! Which addresses may be asked: a list must not make ddl knock on doors inside the user's network.
//!
//! Checked twice for every hop: an IP literal in the URL before anything is sent (connecting to one involves
//! no name resolution), and each resolved address in the resolver itself (so what was checked is what is
//! connected to; a name that changes between check and use gains nothing). `url` has already turned odd
//! spellings (`0x7f.1`, `2130706433`, `127.0.0.1.`) into plain addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use url::{Host, Url};

use super::address_range::AddressRange;

/// What an address is for, as far as the guard cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// A public address.
    Public,
    /// Loopback, private, shared (CGNAT), documentation and benchmark ranges: refused unless
    /// `allow_private_networks`, or a network of `allow_addresses` has them.
    Private,
    /// Link-local, unspecified, multicast, broadcast, reserved, and metadata services of clouds: refused unless
    /// `allow_addresses` names the very address. A network around it is not enough: it may be meant for others.
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
            Reach::Never => {
                write!(f, "address `{}` is not asked unless `allow_addresses` names it", self.address)
            }
            _ => write!(
                f,
                "address `{}` is private, and neither `allow_private_networks` nor `allow_addresses` admits it",
                self.address
            ),
        }
    }
}

impl std::error::Error for Forbidden {}

/// What the user admits besides public addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    allow_private: bool,
    allowed: Arc<[AddressRange]>,
}

impl Guard {
    /// Admits private addresses if so asked, and what the ranges name.
    #[must_use]
    pub fn new(allow_private: bool, allowed: &[AddressRange]) -> Self {
        Self { allow_private, allowed: allowed.into() }
    }

    /// # Errors
    /// If the URL's host is an IP literal that may not be asked. Names pass: their addresses are checked later.
    pub fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// # Errors
    /// If the address may not be asked.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Forbidden> {
        let reach = reach(address);
        let mut naming = self.allowed.iter().filter(|range| range.contains(address));
        let is_allowed = match reach {
            Reach::Public => true,
            Reach::Private => self.allow_private || naming.next().is_some(),
            Reach::Never => naming.any(AddressRange::is_single),
        };
        if is_allowed { Ok(()) } else { Err(Forbidden { address, reach }) }
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
        let (closed, open) = (Guard::new(false, &[]), Guard::new(true, &[]));
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
            assert_eq!(closed.check_url(&url).unwrap_err().reach, Reach::Private, "{text}");
            assert!(open.check_url(&url).is_ok(), "{text}");
        }
        for text in [
            "http://169.254.169.254/latest",
            "http://0/",
            "http://[fe80::1]/",
            "http://[::]/",
            "http://255.255.255.255/",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(open.check_url(&url).unwrap_err().reach, Reach::Never, "{text}");
        }
        assert!(closed.check_url(&Url::parse("http://localhost/").unwrap()).is_ok());
    }

    #[test]
    fn what_the_user_names_is_admitted_and_nothing_beside_it() {
        let check = |allowed: &[&str], address: &str, expect: bool| {
            let ranges: Vec<AddressRange> = allowed.iter().map(|text| text.parse().unwrap()).collect();
            let got = Guard::new(false, &ranges).check_address(address.parse().unwrap()).is_ok();
            assert_eq!(got, expect, "{allowed:?} {address}");
        };
        check(&[], "8.8.8.8", true);
        check(&["10.1.0.0/16"], "10.1.2.3", true);
        check(&["10.1.0.0/16"], "::ffff:10.1.2.3", true);
        check(&["10.1.0.0/16"], "10.2.0.1", false);
        check(&["10.1.0.0/16"], "64:ff9b::10.1.2.3", false);
        check(&["::1"], "127.0.0.1", false);
        check(&["0.0.0.0/0", "::/0"], "127.0.0.1", true);
        for never in ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "fd00:ec2::254"] {
            check(&["0.0.0.0/0", "::/0", "169.254.0.0/16", "fe80::/10"], never, false);
            check(&[never], never, true);
        }
    }
}
