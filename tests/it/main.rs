//! Integration tests, in one binary: it links once. They drive the real `ddl` against real servers.

mod dataset;
mod disk;
mod faults;
mod query;
mod readers;
mod real_list;
mod resume;
mod support;
mod terminal;
