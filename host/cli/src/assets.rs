//! Where the checkout keeps what the commands use.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::fault::bad_input;

/// A checkout of Waza.
#[derive(Debug, Clone)]
pub struct Checkout(PathBuf);

impl Checkout {
    /// The checkout around the current folder, or else the one that this binary was built from.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().unwrap_or_default();
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let candidates = here.ancestors().chain([built_from.as_path()]);
        candidates.map(|folder| Self(folder.to_owned())).find(Self::is_one).ok_or_else(|| {
            let way_out =
                "run this inside a clone of its repository, or name a folder with --model and one for the skill";
            bad_input("no checkout of Waza", here.display(), way_out)
        })
    }

    /// A vendor's workspace may have skills, too.
    fn is_one(&self) -> bool {
        self.skills().join("Cargo.toml").is_file() && self.checkpoint().is_dir()
    }

    /// The workspace of the first-party skills.
    pub fn skills(&self) -> PathBuf {
        self.0.join("skills")
    }

    /// The bundled checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("host/model/checkpoints/tabletop")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_of_a_vendors_skills_is_no_checkout() {
        let vendor = tempfile::tempdir().unwrap();
        std::fs::create_dir(vendor.path().join("skills")).unwrap();
        std::fs::write(vendor.path().join("skills/Cargo.toml"), "[workspace]\n").unwrap();
        assert!(!Checkout(vendor.path().into()).is_one());
        assert!(Checkout::find().unwrap().is_one());
    }
}
