//! Recording and replaying, as a user does it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn waza(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waza")).args(arguments).output().unwrap()
}

fn record(skill: &str, task: &str, path: &Path) {
    let path = path.to_str().unwrap();
    let ran = waza(&["run", skill, "--task", task, "--seed", "7", "--device", "cpu", "--record", path]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("the record: "), "{}", String::from_utf8_lossy(&ran.stdout));
}

fn replay(arguments: &[&str]) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } = waza(&[&["replay", "--json"], arguments].concat());
    let value = serde_json::from_slice(&stdout);
    (status.code(), value.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr))))
}

#[test]
fn the_first_party_skills_replay_bit_for_bit_and_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let [touch, place] = ["touch.mcap", "place.mcap"].map(|name| folder.path().join(name));
    record("touch", "touch the red block", &touch);
    record("pick-place", "put the green block in the bowl", &place);
    for path in [&touch, &place] {
        let (code, said) = replay(&[path.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!((&said["same"], &said["cut"]), (&true.into(), &Value::Null), "{said}");
        assert!(said["calls"].as_u64().unwrap() > 20, "{said}");
        assert!(said["observations"].as_u64().unwrap() > 5, "{said}");
        assert!(said["ended"].as_str().unwrap().starts_with("it returned {\"ok\""), "{said}");
    }

    let skills = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../skills");
    let other = skills.join("pick-place");
    let (code, said) = replay(&[touch.to_str().unwrap(), "--skill", other.to_str().unwrap()]);
    assert_eq!((code, &said["same"]), (Some(1), &false.into()), "{said}");
    let difference = &said["difference"];
    assert_ne!(difference["recorded"], difference["now"], "{said}");
    let same = skills.join("target/wasm32-wasip2/release/touch.wasm");
    assert_eq!(replay(&[touch.to_str().unwrap(), "--wasm", same.to_str().unwrap()]).0, Some(0));

    let people = waza(&["replay", touch.to_str().unwrap()]);
    assert!(String::from_utf8(people.stdout).unwrap().contains("calls, bit for bit the same; "));
    let people = waza(&["replay", touch.to_str().unwrap(), "--skill", other.to_str().unwrap()]);
    let said = String::from_utf8(people.stdout).unwrap();
    assert!(said.contains("  recorded: it calls ") && said.contains("  now:      it calls "), "{said}");

    let whole = std::fs::read(&place).unwrap();
    let torn = folder.path().join("torn.mcap");
    std::fs::write(&torn, &whole[..whole.len() * 3 / 4]).unwrap();
    let (code, said) = replay(&[torn.to_str().unwrap()]);
    assert_eq!((code, &said["same"], &said["ended"]), (Some(0), &true.into(), &Value::Null), "{said}");
    assert!(said["cut"].as_str().unwrap().contains("ends in the middle"), "{said}");
    assert!(said["calls"].as_u64().unwrap() > 20, "{said}");

    let rewritten = folder.path().join("rewritten.mcap");
    std::fs::write(&rewritten, compressed(&whole)).unwrap();
    let Output { status, stdout, stderr } = waza(&["replay", rewritten.to_str().unwrap()]);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.is_empty()), (Some(2), true), "{said}");
    assert!(said.contains("rewritten.mcap") && said.contains("`mcap decompress`"), "{said}");
}

/// A record as a tool writes it that compresses chunks; what is in them stays as it is.
fn compressed(record: &[u8]) -> Vec<u8> {
    const MAGIC: usize = 8;
    const CHUNK: u8 = 6;
    let (mut written, mut rest) = (record[..MAGIC].to_vec(), &record[MAGIC..record.len() - MAGIC]);
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = u64::from_le_bytes(head[1..].try_into().unwrap()) as usize;
        let (mut page, after) = (after[..length].to_vec(), &after[length..]);
        if head[0] == CHUNK {
            // The name of the compression follows two instants, a size and a checksum, and was empty.
            page.splice(28..32, [4, 0, 0, 0].into_iter().chain(*b"zstd"));
        }
        written.push(head[0]);
        written.extend((page.len() as u64).to_le_bytes());
        written.extend(page);
        rest = after;
    }
    written
}

#[test]
fn what_is_no_record_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.mcap");
    std::fs::write(&text, "not a record").unwrap();
    for path in [text.to_str().unwrap(), "no-such.mcap"] {
        let Output { status, stderr, .. } = waza(&["replay", path]);
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(path) && stderr.contains("waza run --record"), "{stderr}");
    }
    let Output { status, stderr, .. } = waza(&[
        "run",
        "touch",
        "--task",
        "touch the red block",
        "--device",
        "cpu",
        "--record",
        "no-such-folder/run.mcap",
    ]);
    assert_eq!(status.code(), Some(2));
    assert!(String::from_utf8(stderr).unwrap().contains("no-such-folder/run.mcap"));
}
