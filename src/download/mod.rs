//! (download)
