//! Skill packages: what a vendor hands over, from its bytes to a component that may be linked.
//!
//! A package is a folder with a [`Manifest`] and the component that it names. Whoever takes one in reads the manifest, counts
//! what the component consists of ([`size`]), compiles it ([`compiler`]), and holds what it imports and exports against the
//! contract and against what the manifest asks for ([`inspect`]). Nothing of a package runs here, and no robot or model is
//! needed: a store does the same as a host.

pub mod ability;
pub mod compiler;
pub mod engines;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod inspect;
pub mod manifest;
pub mod size;
pub mod source;

pub use ability::Ability;
pub use compiler::{Compiler, Patience};
pub use engines::{Code, Engines};
pub use error::{Cost, Flaw, PackageError};
pub use ids::{Digest, SkillId, VersionId};
pub use inspect::{Interfaces, World};
pub use manifest::Manifest;
pub use manifest::permission::{Grants, NotGranted, Permission};
pub use size::MemoryLimits;
pub use source::{Layout, Source};
