//! Turns a list of image URLs into a clean, documented dataset.

pub mod catalog;
pub mod check;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod download;
pub mod export;
pub mod fetch;
pub mod imaging;
pub mod ingest;
pub mod model;
pub mod query;
pub mod runtime;
pub mod storage;
pub mod telemetry;
