//! A run's record, from any file.

#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;
use waza_record::{Header, Package, Record, Recorder};
use waza_robot::Embodiment;

static REAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.mcap");
    let package = Package { component: b"\0asm".to_vec(), manifest: "id = \"acme/wave\"".into() };
    let header = Header { skill: "acme/wave".into(), resume: Some(vec![7]), ..Header::of(&package) };
    let mut robot = Embodiment::so101();
    // Each has a channel of its own.
    (robot.cameras, robot.sensors) = (Vec::new(), Vec::new());
    let recorder = Recorder::create(&path, &header, package, Arc::new(robot)).unwrap();
    (0..3).for_each(|at| recorder.entry(at, format!("{{\"call\":{at}}}")));
    recorder.finish().unwrap();
    std::fs::read(path).unwrap()
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[&*REAL], data, size, max_size, seed)
});

fuzz_target!(|file: &[u8]| {
    let Ok(record) = Record::read(file, Path::new("run.mcap")) else { return };
    assert_eq!(record.package.digest(), record.header.component);
    let entries: usize = record.entries.iter().map(|(_, entry)| entry.len()).sum();
    assert!(record.package.component.len() + record.package.manifest.len() + entries <= file.len());
    // opcode, length, channel, sequence and two instants stand before each.
    assert!(record.entries.len() * 31 + entries <= file.len());
});
