//! Why a package is refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::inspect::World;
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
    /// The package names a file outside of it.
    #[error("{path} leads out of its package; a package's files lie inside its folder, so copy it there", path = .path.display())]
    Outside {
        /// The file, as the package names it.
        path: PathBuf,
    },
    /// The component could not be compiled, and not because of what it is.
    #[error("cannot compile {path}: {what}", path = .path.display())]
    Compiler {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The component is refused.
    #[error("{path} {flaw}", path = .path.display())]
    Component {
        /// The file.
        path: PathBuf,
        /// Why.
        flaw: Flaw,
    },
}

/// What is wrong with a component, in the words that follow its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// What the file is instead, and a way out.
    #[error("is no WebAssembly component: {0}")]
    NotAComponent(String),
    /// Compiling or instantiating it would be more work than any useful component is: of what there is too much, with both
    /// numbers.
    #[error("has too many {0}; build it for release, and split what is really so large")]
    Outsized(String),
    /// Compiling it took more than is granted to a component of its size: what it took.
    #[error(
        "takes more than {0} to compile, which no useful component of its size does; build it for release, and split its largest functions"
    )]
    Costly(Cost),
    /// The compiler's process ended without an answer: how it ended.
    #[error("makes the compiler fail ({0}); build it again with a released toolchain")]
    Crash(String),
    /// The component imports or exports another version of the contract: the interface that it names.
    #[error("is built for {0}, this host speaks version {WIT}; build it against wit/v{WIT}")]
    WrongWit(String),
    /// The component uses an interface that its manifest does not ask for.
    #[error(
        "imports {import}, which its manifest does not ask for; add \"{permission}\" to `permissions` in skill.toml"
    )]
    Undeclared {
        /// The interface.
        import: String,
        /// What would have to be declared.
        permission: String,
    },
    /// The component imports something that no skill gets.
    #[error("imports {import}, which {what}")]
    Forbidden {
        /// The interface.
        import: String,
        /// Why not, and a way out.
        what: String,
    },
    /// The component exports no world of the contract.
    #[error("exports no {missing}; build it for the world `{world}` of waza:skill@{WIT}")]
    MissingExport {
        /// The interface or function.
        missing: String,
        /// That has it.
        world: World,
    },
    /// The component does not fit the contract in some other way.
    #[error("does not fit the contract: {0}; build it against wit/v{WIT}")]
    Misfit(String),
}

/// What compiling may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Of the processor, ms.
    #[error("{0} ms of CPU time")]
    Time(u64),
    /// MiB.
    #[error("{0} MiB of memory")]
    Memory(u64),
    /// MiB of machine code.
    #[error("{0} MiB of machine code")]
    Code(u64),
}

impl Flaw {
    /// What does not fit the contract, with wasmtime's reason in one line.
    pub fn misfit(error: &wasmtime::Error) -> Self {
        Self::Misfit(format!("{error:#}").replace('\n', " "))
    }

    /// Of the component in that file.
    pub fn of(self, path: &Path) -> PackageError {
        PackageError::Component { path: path.into(), flaw: self }
    }
}
