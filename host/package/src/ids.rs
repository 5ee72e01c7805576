//! What skills and their versions are called.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `vendor/name`, each of lower-case letters, digits and single hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SkillId(String);

impl SkillId {
    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SkillId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<SkillId> for String {
    fn from(id: SkillId) -> Self {
        id.0
    }
}

impl TryFrom<String> for SkillId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let word = |word: &str| {
            (1..=64).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !(word.starts_with('-') || word.ends_with('-') || word.contains("--"))
        };
        match text.split_once('/') {
            Some((vendor, name)) if word(vendor) && word(name) => Ok(Self(text)),
            _ => Err(format!("the id `{text}` is not vendor/name of lower-case letters, digits and hyphens")),
        }
    }
}

/// The SHA-256 of a component's file: what makes two builds of one version two things. Displays as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of what a hasher was given.
    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut digest = [0; 32];
        let decoded = hex::decode_to_slice(&text, &mut digest);
        match decoded {
            // One spelling for one digest.
            Ok(()) if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(Self(digest)),
            _ => Err(format!("`{text}` is no SHA-256 of 64 lower-case hexadecimal digits")),
        }
    }
}

/// Which version of which skill or controller: two builds of one version number are two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId {
    /// `vendor/name`.
    pub id: SkillId,
    /// As its manifest numbers it.
    pub version: semver::Version,
    /// Of its component.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_standard_and_reads_back_as_it_is_written() {
        // FIPS 180-4's example of one block.
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::try_from(text.to_owned()), Ok(digest));
        for wrong in ["", &text[..63], &format!("{text}0"), &text.replace('b', "g"), &text.to_uppercase()] {
            assert!(Digest::try_from(wrong.to_owned()).is_err(), "{wrong:?} was taken");
        }
    }
}
