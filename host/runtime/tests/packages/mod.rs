//! Skill packages made of the guests beside this, for the tests of this crate and of those above it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub fn manifest(guest: &str, permissions: &[&str]) -> String {
    format!(
        "id = \"test/{guest}\"\nversion = \"0.1.0\"\nwit = \"0.1.0\"\ncomponent = \"guest.wasm\"\n\
         permissions = {permissions:?}\n"
    )
}

/// A guest's component. All are built once, with the same cargo.
pub fn component(guest: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/guests");
        waza_toolchain::add_target(&guests, |said| eprintln!("{said}")).unwrap();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--workspace", "--lib", "--examples"]);
        cargo.args(["--target", waza_toolchain::TARGET, "--target-dir"]).arg(&target);
        // What the host is built with must not leak into the guests.
        cargo.current_dir(guests).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join(waza_toolchain::TARGET).join("release")
    });
    std::fs::read(built.join(guest).with_extension("wasm")).unwrap()
}

/// The guest `relay`, which behaves like that in this version.
pub fn relay(conduct: &str) -> Vec<u8> {
    let mut bytes = component("relay");
    let place = bytes.windows(8).position(|at| at == b"conduct=").unwrap();
    let padded = format!("{conduct:16}");
    bytes[place + 8..place + 24].copy_from_slice(padded.as_bytes());
    bytes
}

/// Makes a package. A new folder appears whole, so that who watches never sees the half of it; in one that is there each
/// file changes at once, first the component.
pub fn package(folder: &Path, manifest: &str, component: &[u8]) {
    if folder.exists() {
        replace(&folder.join("guest.wasm"), component);
        replace(&folder.join("skill.toml"), manifest);
    } else {
        let made = tempfile::tempdir().unwrap();
        std::fs::write(made.path().join("guest.wasm"), component).unwrap();
        std::fs::write(made.path().join("skill.toml"), manifest).unwrap();
        std::fs::rename(made.keep(), folder).unwrap();
    }
}

/// Puts a file in the place of another in one step: who watches sees the one or the other, never a file of no bytes.
pub fn replace(file: &Path, content: impl AsRef<[u8]>) {
    let made = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&made, content).unwrap();
    made.persist(file).unwrap();
}

/// Takes a package away in one step: a folder that is emptied file by file is a damaged package before it is none.
pub fn remove(folder: &Path) {
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(folder, elsewhere.path().join("removed")).unwrap();
}
