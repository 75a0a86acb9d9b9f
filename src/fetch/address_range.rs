//! An address or a network, as a user names it: `192.168.1.20`, `10.0.0.0/8`, `fd00::/8`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// All addresses that agree with one in their first `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not an [`AddressRange`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error("neither an address nor a network such as `10.0.0.0/8`: `{text}`")]
pub struct ParseAddressRangeError {
    text: String,
}

impl AddressRange {
    /// Whether it is one address and not a network.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.prefix == length(self.address)
    }

    /// Whether an address is in it. An IPv4 address is the same in its IPv4-mapped form.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.address.is_ipv4() == address.is_ipv4()
            && (bits(self.address) ^ bits(address)).checked_shr(self.host_bits()).unwrap_or(0) == 0
    }

    fn host_bits(&self) -> u32 {
        u32::from(length(self.address) - self.prefix)
    }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for AddressRange {
    type Err = ParseAddressRangeError;

    fn from_str(text: &str) -> Result<Self, ParseAddressRangeError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let range = || {
            let written: IpAddr = address.parse().ok()?;
            let address = written.to_canonical();
            let Some(prefix) = prefix else { return Some(Self { address, prefix: length(address) }) };
            let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = prefix.parse().ok().filter(|_| is_number)?;
            // Of an IPv4-mapped network the first 96 bits are the mapping.
            let mapping = length(written) - length(address);
            let prefix = prefix.checked_sub(mapping).filter(|prefix| *prefix <= length(address))?;
            Some(Self { address, prefix })
        };
        range().ok_or_else(|| ParseAddressRangeError { text: text.to_owned() })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = ParseAddressRangeError;

    fn try_from(text: String) -> Result<Self, ParseAddressRangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        let check = |range: &str, address: &str, expect: bool| {
            let range: AddressRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expect, "{range} {address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3/8", "10.0.0.1", true);
        check("0.0.0.0/0", "255.1.2.3", true);
        check("0.0.0.0/0", "::1", false);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("::ffff:10.0.0.0/104", "10.9.9.9", true);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe80::1", false);
        check("::/0", "fe80::1", true);
        check("::1", "::1", true);
        check("::1/128", "::2", false);
    }

    #[test]
    fn what_is_written_is_read_again_and_what_is_neither_is_refused() {
        for text in ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "::1", "0.0.0.0/0"] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), text);
        }
        assert!("10.0.0.1/32".parse::<AddressRange>().unwrap().is_single());
        for text in [
            "",
            "localhost",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::/129",
            "::ffff:1.2.3.4/8",
            "fe80::1%eth0",
            "1.2.3.4:80",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
