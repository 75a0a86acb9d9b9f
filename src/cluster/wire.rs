//! The frame around a message: four bytes that say it is ours, the version of the protocol, then the
//! message in `postcard`.
//!
//! Length and integrity are the transport's business. The version is that of all messages together:
//! ranks of one run come from one binary, so there is nothing to negotiate, only a mistake to name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ClusterError;

/// Raised with every change of a message that crosses between ranks.
pub const PROTOCOL_VERSION: u16 = 3;

const MAGIC: [u8; 4] = *b"ddl\x1a";
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u16>();

/// A message as bytes to send.
///
/// # Errors
/// [`ClusterError::Encode`] for a type that `postcard` cannot write (maps of unknown length).
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>, ClusterError> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    postcard::to_extend(message, bytes).map_err(ClusterError::Encode)
}

/// The message in received bytes.
///
/// # Errors
/// [`ClusterError::NotAMessage`], [`ClusterError::ProtocolVersion`], [`ClusterError::Decode`] or
/// [`ClusterError::TrailingBytes`]; never a panic, whatever the bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClusterError> {
    let (header, body) =
        bytes.split_at_checked(HEADER_BYTES).ok_or(ClusterError::NotAMessage { bytes: bytes.len() })?;
    let (magic, version) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(ClusterError::NotAMessage { bytes: bytes.len() });
    }
    let theirs = u16::from_le_bytes([version[0], version[1]]);
    if theirs != PROTOCOL_VERSION {
        return Err(ClusterError::ProtocolVersion { theirs, ours: PROTOCOL_VERSION });
    }
    let (message, rest) = postcard::take_from_bytes(body)
        .map_err(|source| ClusterError::Decode { bytes: bytes.len(), source })?;
    if !rest.is_empty() {
        return Err(ClusterError::TrailingBytes { bytes: rest.len() });
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Letter {
        Hello,
        Claim { server: String, partitions: Vec<u32>, share: Option<f64> },
    }

    fn letter() -> Letter {
        Letter::Claim { server: "a.example".to_owned(), partitions: vec![1, 300, 70_000], share: Some(0.5) }
    }

    #[test]
    fn the_bytes_of_a_frame_are_fixed() {
        assert_eq!(encode(&Letter::Hello).unwrap(), [b'd', b'd', b'l', 0x1a, 3, 0, 0]);
    }

    #[test]
    fn a_message_comes_back() {
        assert_eq!(decode::<Letter>(&encode(&letter()).unwrap()).unwrap(), letter());
    }

    #[test]
    fn each_defect_has_its_name() {
        let good = encode(&letter()).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decode::<Letter>(&bytes).unwrap_err()
        };
        assert!(matches!(with(0, b'x'), ClusterError::NotAMessage { .. }));
        assert!(matches!(with(4, 9), ClusterError::ProtocolVersion { theirs: 9, ours: PROTOCOL_VERSION }));
        assert!(matches!(with(6, 7), ClusterError::Decode { .. }), "an unknown variant");
        assert!(matches!(decode::<Letter>(&good[..5]), Err(ClusterError::NotAMessage { bytes: 5 })));
        assert!(matches!(decode::<Letter>(&good[..good.len() - 1]), Err(ClusterError::Decode { .. })));
        let longer = [&good[..], b"!"].concat();
        assert!(matches!(decode::<Letter>(&longer), Err(ClusterError::TrailingBytes { bytes: 1 })));
    }

    proptest! {
        /// Lengths in the bytes are claims of the sender: they must not be believed before the bytes are there.
        #[test]
        fn any_body_is_a_message_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = encode(&Letter::Hello).unwrap();
            bytes.truncate(HEADER_BYTES);
            bytes.extend(body);
            if let Ok(message) = decode::<Letter>(&bytes) {
                prop_assert_eq!(format!("{:?}", decode::<Letter>(&encode(&message).unwrap()).unwrap()), format!("{message:?}"));
            }
        }
    }
}
