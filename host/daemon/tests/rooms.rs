//! How the modules lie: each uses only those below it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 16] = [
    "wire",
    "fault",
    "records",
    "quarantine",
    "auth",
    "news",
    "packages",
    "run_log",
    "runs",
    "robot",
    "stops",
    "metrics",
    "server",
    "api",
    "fuzzing",
    "daemon",
];

#[test]
fn a_room_imports_only_rooms_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found: Vec<_> =
        files(&source).iter().map(|file| room(&source, file)).filter(|room| room != "lib").collect();
    found.dedup();
    let mut known = ROOMS.map(String::from).to_vec();
    known.sort();
    assert_eq!(found, known, "every room has its place in the list");
    for file in files(&source) {
        let room = room(&source, &file);
        let Some(height) = ROOMS.iter().position(|it| *it == room) else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for path in line.split("crate::").skip(1) {
                let word = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let at = ROOMS.iter().position(|it| *it == word);
                assert!(at.is_some_and(|at| at <= height), "{}: {room} imports {word}: {line}", file.display());
            }
        }
    }
}

/// The name of a module's file or folder.
fn room(source: &Path, file: &Path) -> String {
    let first = file.strip_prefix(source).unwrap().components().next().unwrap();
    Path::new(&first).with_extension("").to_str().unwrap().into()
}

/// Every file of source, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
