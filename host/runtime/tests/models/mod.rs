//! What models say and do, for the tests of this crate and of those above it.

#![allow(dead_code, reason = "not every test needs all of it")]

use waza_model::{Ability, About, ModelError, Query, Ticket};
use waza_runtime::Model;
use waza_runtime::model::Answer;

/// A model for the robot of these tests.
pub fn about(name: &str) -> About {
    About {
        name: name.into(),
        version: "1".into(),
        digest: String::new(),
        device: "nothing".into(),
        embodiment: None,
        cameras: vec!["front".into()],
        state_size: 6,
        action_size: 6,
        chunk_length: 16,
        action_steps: None,
        rate_hz: Some(10.0),
        sensors: None,
        abilities: vec![Ability::Act],
        obstacles: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Nobody asks it anything.
pub struct Silent(About);

impl Silent {
    pub fn new() -> Self {
        Self(about("silent"))
    }
}

impl Model for Silent {
    fn about(&self) -> &About {
        &self.0
    }

    fn act(&self, _: Query, _: &Ticket) -> Answer {
        Box::pin(async { Err(ModelError::Stopped) })
    }
}
