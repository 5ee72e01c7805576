//! What reads bytes that come from outside or lay on the disk, for the targets in `fuzz/`.

use std::path::Path;

use crate::limits::Budgets;
use crate::manifest::Manifest;
use crate::manifest::permission::Permission;
use crate::package::size;
use crate::state::{checkpoints, quarantine};

/// The file of a run that was interrupted.
pub fn interrupted(file: &[u8]) {
    checkpoints::check(file);
}

/// Such a file.
pub fn an_interrupted() -> Vec<u8> {
    checkpoints::real()
}

/// The file of the quarantine.
pub fn quarantine(file: &[u8]) {
    quarantine::check(file);
}

/// Such a file.
pub fn a_quarantine() -> Vec<u8> {
    quarantine::real()
}

/// A manifest. What is accepted declares permissions that read back as they are written, and can be held against a robot.
pub fn manifest(file: &[u8]) {
    let Ok(text) = std::str::from_utf8(file) else { return };
    let Ok(manifest) = Manifest::parse(text, Path::new("skill.toml")) else { return };
    for permission in &manifest.permissions {
        assert_eq!(permission.to_string().parse::<Permission>().as_ref(), Ok(permission));
    }
    let robot = waza_robot::Embodiment::so101();
    if let Ok(tightened) = robot.tightened(&manifest.limits, "its [limits]") {
        for (narrow, wide) in tightened.joints.iter().zip(&robot.joints) {
            assert!(narrow.velocity <= wide.velocity && narrow.position[0] >= wide.position[0]);
        }
    }
}

/// A component, as it is looked at before it is compiled.
pub fn component(file: &[u8]) {
    let Budgets { memory_bytes, table_elements, .. } = Budgets::default();
    // Whatever is refused is refused with a sentence.
    if let Err(error) = size::check(file, Path::new("skill.wasm"), memory_bytes, table_elements) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
