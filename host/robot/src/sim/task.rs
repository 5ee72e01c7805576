//! What an episode asks for, in words, and how the simulator judges it. Only judges and the expert look in here: a skill
//! is handed the words, never the task.

use std::fmt;

use super::scene::Colour;

/// A job that the simulator can judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Touch that block with the closed hand, and no other.
    Touch(Colour),
    /// Put that block into the bowl, and let go of it.
    PlaceInBowl(Colour),
}

const TOUCH: [&str; 3] = ["touch the {} block", "tap the {} block", "press the {} block"];
const PLACE: [&str; 3] =
    ["put the {} block in the bowl", "place the {} block in the bowl", "drop the {} block in the bowl"];

/// The words of an instruction did not match a template of a task that the simulator can judge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the simulator cannot judge {instruction:?}: it knows {}",
    TOUCH.iter().chain(&PLACE).map(|t| format!("{:?}", t.replace("{}", "COLOUR"))).collect::<Vec<_>>().join(", ")
)]
pub struct UnknownTask {
    instruction: String,
}

impl Task {
    /// The colour of the block that the task is about.
    pub fn colour(self) -> Colour {
        match self {
            Self::Touch(colour) | Self::PlaceInBowl(colour) => colour,
        }
    }

    /// Every way to say this task; the first is how it is usually said.
    pub fn phrases(self) -> impl ExactSizeIterator<Item = String> {
        let templates = match self {
            Self::Touch(_) => TOUCH,
            Self::PlaceInBowl(_) => PLACE,
        };
        templates.into_iter().map(move |template| template.replace("{}", self.colour().word()))
    }

    /// The task that these words ask for.
    ///
    /// # Errors
    /// [`UnknownTask`] if they match no template.
    pub fn parse(instruction: &str) -> Result<Self, UnknownTask> {
        let normal = instruction.trim().to_lowercase();
        Colour::ALL
            .into_iter()
            .flat_map(|colour| [Self::Touch(colour), Self::PlaceInBowl(colour)])
            .find(|task| task.phrases().any(|phrase| phrase == normal))
            .ok_or_else(|| UnknownTask { instruction: instruction.into() })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.phrases().next().unwrap_or_default())
    }
}

/// How an episode stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The task is done.
    Success,
    /// It is not done, or not yet.
    Incomplete,
    /// A block that was not named was touched (for [`Task::Touch`]) or lifted (for [`Task::PlaceInBowl`]).
    WrongBlock(Colour),
    /// The task names a colour that no block on the table has.
    NotThere,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => formatter.write_str("success"),
            Self::Incomplete => formatter.write_str("not done"),
            Self::WrongBlock(colour) => write!(formatter, "wrong block ({})", colour.word()),
            Self::NotThere => formatter.write_str("no such block"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_of_a_task_is_understood_as_that_task() {
        for colour in Colour::ALL {
            for task in [Task::Touch(colour), Task::PlaceInBowl(colour)] {
                for phrase in task.phrases() {
                    assert_eq!(Task::parse(&phrase), Ok(task), "{phrase}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_instruction_is_refused_with_what_is_known() {
        let error = Task::parse("sing a song").unwrap_err().to_string();
        assert!(error.contains("sing a song") && error.contains("touch the COLOUR block"), "{error}");
    }
}
