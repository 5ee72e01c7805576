//! The doors between the rooms of this crate open one way: a room imports only rooms below it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 12] = [
    "clock",
    "priority",
    "rule",
    "error",
    "trajectory",
    "embodiment",
    "observation",
    "safety",
    "link",
    "sim",
    "control",
    "robot",
];

/// Those of the control loop; the loop itself is above them.
const CONTROL: [&str; 12] = [
    "gate",
    "fence",
    "shared_slot",
    "inbox",
    "history",
    "play",
    "answer",
    "stop",
    "waiters",
    "joint_holders",
    "player",
    "external_drive",
];

#[test]
fn a_room_imports_only_rooms_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert_eq!(upward(&source, &ROOMS, "crate::"), Vec::<String>::new());
    assert_eq!(upward(&source.join("control"), &CONTROL, "crate::control::"), Vec::<String>::new());
}

#[test]
fn every_file_lies_in_a_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (folder, rooms) in [(source.clone(), ROOMS), (source.join("control"), CONTROL)] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(rooms.contains(&&*name) || ["lib", "mod", "allocation"].contains(&&*name), "{}", path.display());
        }
    }
}

/// Lines of rooms that lead to a room that is not below theirs.
fn upward(source: &Path, rooms: &[&str], root: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (height, room) in rooms.iter().enumerate() {
        for (file, line) in lines_of(&source.join(room)) {
            for path in line.split(root).skip(1) {
                let word = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if rooms.iter().position(|it| *it == word).is_none_or(|at| at > height) {
                    wrong.push(format!("{}: {room} imports {word}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    wrong
}

/// What a room says in `<room>.rs` and in its folder, without comments and tests.
fn lines_of(room: &Path) -> Vec<(PathBuf, String)> {
    let mut files = vec![room.with_extension("rs")];
    let mut folders = vec![room.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let is_test = |file: &Path| file.ends_with("tests.rs") || file.ends_with("allocation.rs");
    let mut lines = Vec::new();
    for file in files.into_iter().filter(|file| file.exists() && !is_test(file)) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.extend(code.map(|line| (file.clone(), line.to_owned())));
    }
    assert!(!lines.is_empty(), "there is no room {}", room.display());
    lines
}
