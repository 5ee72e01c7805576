//! What reads packages, for the targets in `fuzz/`.

use std::path::Path;

use crate::manifest::Manifest;
use crate::manifest::permission::Permission;
use crate::size::{self, MemoryLimits};

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
    let limits = MemoryLimits { memory_bytes: 256 << 20, table_elements: 1 << 20 };
    // Whatever is refused is refused with a sentence.
    if let Err(error) = size::check(file, limits) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
