//! Rooms whose doors open one way.

use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 16] = [
    "limits",
    "leases",
    "contract",
    "model",
    "error",
    "package",
    "record",
    "controllers",
    "run",
    "imports",
    "supervisor",
    "replay",
    "host",
    "hot_load",
    "bench",
    "lib",
];

#[test]
fn a_room_imports_only_rooms_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let height = |room: &str| ROOMS.iter().position(|it| *it == room);
    let mut upward = Vec::new();
    for file in files(&source) {
        let place = file.strip_prefix(&source).unwrap();
        let room = place.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let at = height(room).unwrap_or_else(|| panic!("the room {room} is not in the list"));
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for path in line.split("crate::").skip(1) {
                let word = path.split(|it: char| !it.is_alphanumeric() && it != '_').next().unwrap_or_default();
                if height(word).is_none_or(|other| other > at) {
                    upward.push(format!("{}: {}", place.display(), line.trim()));
                }
            }
        }
    }
    assert!(upward.is_empty(), "these point up:\n{}", upward.join("\n"));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(inside).filter(|path| path.extension().is_some_and(|it| it == "rs")).collect()
}
