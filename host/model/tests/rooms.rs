//! The direction of the crate's imports: each room is one module of `src`, with all files in its folder.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 22] = [
    "recent",
    "setup",
    "noise",
    "architecture",
    "image",
    "tensors",
    "plan",
    "checkpoint",
    "executor",
    "cpu",
    "wgpu",
    "error",
    "device",
    "about",
    "info",
    "policy",
    "vlm",
    "model",
    "broker",
    "verify",
    "bench",
    "fuzzing",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All files of a room.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect();
    }
    path.is_file().then(|| path.to_owned()).into_iter().collect()
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    for (height, room) in ROOMS.iter().enumerate() {
        let files = [files(&src().join(room)), files(&src().join(room).with_extension("rs"))].concat();
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter_map(|line| line.split("//").next()) {
                for path in line.split("crate::").skip(1) {
                    let word = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                    let at = ROOMS.iter().position(|room| *room == word);
                    assert!(
                        at.is_some_and(|at| at <= height),
                        "{}: {room} imports {word}, which is no room below it: {line}",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_module_is_a_room() {
    for entry in fs::read_dir(src()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "lib" || ROOMS.contains(&name), "{name} is not in the list");
    }
}
