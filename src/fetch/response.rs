//! An answer: its header, and its body as it comes.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::{HeaderMap, StatusCode, Version};
use hyper_util::client::legacy::connect::HttpInfo;

/// A response whose header has come.
#[derive(Debug)]
pub(super) struct Response(hyper::Response<Incoming>);

impl Response {
    pub fn new(response: hyper::Response<Incoming>) -> Self {
        Self(response)
    }

    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Whether its connection carries other requests, too.
    pub fn is_http2(&self) -> bool {
        self.0.version() == Version::HTTP_2
    }

    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// Bytes of the body that are still to come, where the header has said how many.
    pub fn content_length(&self) -> Option<u64> {
        self.0.body().size_hint().exact()
    }

    /// Whom the connection is with: the server, or the proxy.
    pub fn remote_address(&self) -> Option<IpAddr> {
        self.0.extensions().get::<HttpInfo>().map(|info| info.remote_addr().ip())
    }

    /// The next piece of the body; `None` when that is over.
    pub async fn chunk(&mut self) -> hyper::Result<Option<Bytes>> {
        while let Some(frame) = self.0.body_mut().frame().await.transpose()? {
            // The others are trailers.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}
