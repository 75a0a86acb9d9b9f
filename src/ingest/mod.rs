//! (ingest)
