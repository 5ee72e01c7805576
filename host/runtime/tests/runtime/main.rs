//! The runtime with real parts: guests compiled to components, a control loop over a small link, a small model.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod asking;
#[path = "../packages/bombs.rs"]
mod bombs;
mod cameras;
mod controller;
mod fixture;
mod hostile;
mod isolation;
mod leases;
mod loading;
mod lockstep;
#[path = "../models/mod.rs"]
mod models;
mod motion;
#[path = "../packages/mod.rs"]
mod packages;
mod quarantine;
mod replaying;
mod rooms;
mod services;
mod state;
mod swapping;
mod watching;
