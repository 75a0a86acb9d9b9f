//! Integration tests, in one binary: it links once. They drive the real `ddl` against real servers.

mod audit;
mod beside;
mod dataset;
mod demo;
mod disk;
mod faults;
mod messages;
mod query;
mod readers;
mod real_list;
mod renditions;
mod resume;
mod retry;
mod smoke;
mod street;
mod support;
mod terminal;
mod tools_dedup;
