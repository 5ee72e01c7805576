//! Why a package is refused.

use std::path::{Path, PathBuf};

use crate::manifest::{ManifestError, WIT};

/// Why a package was refused, or could not be looked at. Each message is one line with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The engine or a thread could not be had.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// The manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The component could not be read.
    #[error("cannot read {path}: {source}; build the skill with `cargo build --release --target wasm32-wasip2`", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than the host takes.
    #[error("{path} has {bytes} bytes, the host takes at most {most}; strip it and build it for release", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// Compiling or instantiating it would be more work than any useful component is.
    #[error("{path} has too many {what}; build it for release, and split what is really so large", path = .path.display())]
    Outsized {
        /// The file.
        path: PathBuf,
        /// Of what, with both numbers.
        what: String,
    },
    /// The file is no component.
    #[error("{path} is no WebAssembly component: {what}", path = .path.display())]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// What it is, and a way out.
        what: String,
    },
    /// The component imports or exports another version of the contract.
    #[error("{path} is built for {found}, this host speaks version {WIT}; build it against wit/v{WIT}", path = .path.display())]
    WrongWit {
        /// The file.
        path: PathBuf,
        /// The interface that it names.
        found: String,
    },
    /// The component uses an interface that its manifest does not ask for.
    #[error("{path} imports {import}, which its manifest does not ask for; add \"{permission}\" to `permissions` in skill.toml", path = .path.display())]
    Undeclared {
        /// The file.
        path: PathBuf,
        /// The interface.
        import: String,
        /// What would have to be declared.
        permission: String,
    },
    /// The component imports something that no skill gets.
    #[error("{path} imports {import}, which {what}", path = .path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The interface.
        import: String,
        /// Why not, and a way out.
        what: String,
    },
    /// The component exports no world of the contract.
    #[error("{path} exports no {missing}; build it for the world `{world}` of waza:skill@{WIT}", path = .path.display())]
    MissingExport {
        /// The file.
        path: PathBuf,
        /// The interface or function.
        missing: String,
        /// That has it.
        world: &'static str,
    },
    /// The component does not fit the contract in some other way.
    #[error("{path} does not fit the contract: {what}; build it against wit/v{WIT}", path = .path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

impl PackageError {
    /// A component that does not fit the contract, with wasmtime's reason in one line.
    pub fn misfit(path: &Path, error: &wasmtime::Error) -> Self {
        Self::Misfit { path: path.into(), what: format!("{error:#}").replace('\n', " ") }
    }
}
