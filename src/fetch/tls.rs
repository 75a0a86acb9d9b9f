//! Whom to trust: the platform's certificate store and the user's own certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::error::FetchError;

/// Trust shared by all clients. The caller adds the protocols to offer (ALPN).
///
/// A machine without any certificate store still gets a configuration: plain http works, and https fails with
/// a TLS cause. A warning says so.
pub(super) fn client_config(ca_certificate: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let extra = ca_certificate.map(read_certificates).transpose()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Client(error.into()))?;
    let config = match Verifier::new_with_extra_roots(extra.iter().flatten().cloned(), provider) {
        Ok(verifier) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Err(error) => match ca_certificate {
            Some(path) => {
                return Err(FetchError::CaCertificate { path: path.to_owned(), problem: error.to_string() });
            }
            None => {
                tracing::warn!(%error, "no certificate store on this machine: https will fail; set `ca_certificate`");
                builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
            }
        },
    };
    Ok(config)
}

/// The same, but any certificate is taken: for servers whose users have said so.
pub(super) fn without_verification(mut config: ClientConfig) -> ClientConfig {
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(algorithms)));
    config
}

/// Takes any certificate. Nothing is known of who is at the other end; who only listens learns nothing.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let fail = |problem: String| FetchError::CaCertificate { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail(error.to_string()))?;
    if certificates.is_empty() { Err(fail("no PEM certificate in it".to_owned())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_useless_certificate_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let check = |content: &str| {
            let path = folder.path().join("ca.pem");
            std::fs::write(&path, content).unwrap();
            assert!(matches!(client_config(Some(&path)), Err(FetchError::CaCertificate { .. })), "{content}");
        };
        check("");
        check("not PEM");
        check("-----BEGIN CERTIFICATE-----\n####\n-----END CERTIFICATE-----\n");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(client_config(Some(&folder.path().join("none.pem"))).is_err());
    }
}
