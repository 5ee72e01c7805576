//! What the contract knows that models can do.

use std::fmt;

use serde::Deserialize;

/// What the contract knows that models can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ability {
    /// Chunks of actions from what was seen.
    Act,
    /// Answers in words.
    Answer,
    /// Boxes around what is named.
    Locate,
    /// Vectors for comparing.
    Embed,
    /// Several observations at once.
    Video,
    /// Windows of sensor samples.
    Sensors,
}

impl Ability {
    /// In the contract's order.
    pub const ALL: [Self; 6] = [Self::Act, Self::Answer, Self::Locate, Self::Embed, Self::Video, Self::Sensors];

    /// As `skill.toml` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Answer => "answer",
            Self::Locate => "locate",
            Self::Embed => "embed",
            Self::Video => "video",
            Self::Sensors => "sensors",
        }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
