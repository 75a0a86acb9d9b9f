//! (imaging)
