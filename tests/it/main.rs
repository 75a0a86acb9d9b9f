//! Integration tests, in one binary: it links once. They drive the real `ddl` against real servers.

mod audit;
mod beside;
mod dataset;
mod demo;
mod disk;
mod exports;
mod faults;
mod flowdc;
mod manifest;
mod messages;
mod plan;
mod query;
mod readers;
mod real_list;
mod renditions;
mod resume;
mod retract;
mod retry;
mod smoke;
mod street;
mod support;
mod terminal;
mod tools;
mod tools_custom;
mod tools_dedup;
mod tools_images;
