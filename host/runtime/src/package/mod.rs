//! Packages: from a file to a checked component, and the code made of it.

pub(crate) mod cache;
pub(crate) mod code;
pub(crate) mod compile;
pub(crate) mod engines;
pub(crate) mod inspect;
