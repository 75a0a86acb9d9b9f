//! Stands in for the catalog.

use thiserror::Error;

#[derive(Debug, Error)]
#[error("{0}")]
pub struct CatalogError(pub String);
