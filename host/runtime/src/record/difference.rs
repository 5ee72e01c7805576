//! The first thing that a skill did otherwise than it was recorded.

use std::fmt;

/// Where a replay left its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Calls before it, all of them the same: the number of the call that differs, if it is a call.
    pub call: u64,
    /// Robot time at which the recorded side happened, ns.
    pub at_ns: u64,
    /// What was recorded.
    pub recorded: String,
    /// What the skill did now.
    pub now: String,
}

/// The most characters of a side that are shown.
const SHOWN: usize = 400;

/// Of these, before the first that differs.
const BEFORE: usize = 160;

impl Difference {
    /// Both sides, cut down to the surroundings of the first character that differs.
    pub fn sides(&self) -> [String; 2] {
        let same = self.recorded.chars().zip(self.now.chars()).take_while(|(a, b)| a == b).count();
        [&self.recorded, &self.now].map(|side| excerpt(side, same))
    }
}

fn excerpt(side: &str, same: usize) -> String {
    let length = side.chars().count();
    if length <= SHOWN {
        return side.into();
    }
    let from = same.saturating_sub(BEFORE).min(length - SHOWN);
    let shown: String = side.chars().skip(from).take(SHOWN).collect();
    let (before, after) = (if from > 0 { "..." } else { "" }, if from + SHOWN < length { "..." } else { "" });
    format!("{before}{shown}{after}")
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [recorded, now] = self.sides();
        let seconds = self.at_ns as f64 / 1e9;
        writeln!(formatter, "after {} equal calls, at {seconds:.3} s of robot time", self.call)?;
        writeln!(formatter, "  recorded: {recorded}")?;
        write!(formatter, "  now:      {now}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_long_sides_the_surroundings_of_the_first_difference_are_shown() {
        let side = |end: &str| format!("{}{end}{}", "x".repeat(1000), "y".repeat(1000));
        let difference = Difference { call: 3, at_ns: 1_500_000_000, recorded: side("é"), now: side("b") };
        let text = difference.to_string();
        assert!(text.starts_with("after 3 equal calls, at 1.500 s"), "{text}");
        let [recorded, now] = difference.sides();
        assert!(recorded.contains("xé") && now.contains("xb"), "{text}");
        assert!(recorded.chars().count() <= SHOWN + 6 && recorded.starts_with("...x") && recorded.ends_with("y..."));
    }
}
