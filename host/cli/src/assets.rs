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
        candidates
            .map(|folder| Self(folder.to_owned()))
            .find(|checkout| checkout.skills().join("Cargo.toml").is_file())
            .ok_or_else(|| {
                bad_input("no checkout of Waza", here.display(), "run this inside a clone of its repository")
            })
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
