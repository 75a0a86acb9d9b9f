//! Integration tests, in one binary: it links once.

mod support;
