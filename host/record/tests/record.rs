//! Records as they are written, and files that are none.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use waza_record::{Header, Package, ReadError, Record, Recorder};
use waza_robot::observation::Window;
use waza_robot::{Embodiment, Frame, Image, Observation, Proprioception};

fn package() -> Package {
    Package { component: (0..1000u32).map(|byte| byte as u8).collect(), manifest: "id = \"acme/wave\"\n".into() }
}

fn header() -> Header {
    Header {
        skill: "acme/wave".into(),
        instruction: "wave \"twice\"".into(),
        resume: Some(vec![0, 255]),
        seed: u64::MAX,
        ..Header::of(&package())
    }
}

fn seen(robot: &Embodiment, tick: u64) -> Arc<Observation> {
    let frame = |width, height| {
        Frame::lazy(move || Image { width, height, rgb: vec![tick as u8; (width * height * 3) as usize].into() })
    };
    Arc::new(Observation {
        tick,
        taken_ns: tick * 10_000_000,
        joints: Proprioception { positions: vec![0.5; 6], velocities: vec![f32::NAN; 6], efforts: vec![0.0; 6] },
        frames: robot.cameras.iter().map(|_| frame(4, 3)).collect(),
        frame_ages_ns: vec![None; robot.cameras.len()],
        windows: vec![Window { channels: 6, first_ns: 0, rate_hz: 100.0, values: vec![1.0; 12] }],
    })
}

/// A record with entries and observations, as bytes.
fn written(entries: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.mcap");
    let robot = Arc::new(Embodiment::so101());
    let recorder = Recorder::create(&path, &header(), package(), robot.clone()).unwrap();
    for number in 0..entries {
        recorder.entry(number * 1000, entry(number));
        if number % 3 == 0 {
            recorder.observed(number as u32, seen(&robot, number));
        }
    }
    let written = recorder.finish().unwrap();
    // Many at once are more than the disk keeps up with.
    assert_eq!((written.entries, written.observations + written.left_out), (entries, entries.div_ceil(3)));
    assert_eq!(written.cut, None);
    std::fs::read(path).unwrap()
}

fn entry(number: u64) -> String {
    format!(
        "{{\"call\":{number},\"name\":\"sensing.observe\",\"arguments\":[{}]}}",
        "1,".repeat(number as usize % 50) + "1"
    )
}

fn read(bytes: &[u8]) -> Result<Record, ReadError> {
    Record::read(Cursor::new(bytes), Path::new("run.mcap"))
}

#[test]
fn what_is_written_reads_back() {
    let record = read(&written(200)).unwrap();
    assert_eq!((record.header, record.package), (header(), package()));
    let expected: Vec<_> = (0..200).map(|number| (number * 1000, entry(number))).collect();
    assert_eq!(record.entries, expected);
    assert_eq!((record.observations, record.cut), (67, None));
}

#[test]
fn other_tools_find_the_joints_the_sensors_and_the_pictures() {
    let bytes = written(10);
    let mut topics = std::collections::BTreeMap::<String, Vec<serde_json::Value>>::new();
    for message in mcap::MessageStream::new(&bytes).unwrap() {
        let message = message.unwrap();
        assert_eq!(message.channel.message_encoding, "json");
        assert_eq!(message.channel.schema.as_ref().unwrap().encoding, "jsonschema");
        let value = serde_json::from_slice(&message.data).unwrap();
        topics.entry(message.channel.topic.clone()).or_default().push(value);
    }
    let names: Vec<_> = topics.keys().map(String::as_str).collect();
    assert_eq!(names, ["/cameras/front", "/cameras/wrist", "/joints", "/sensors/wrist_wrench", "/waza/entries"]);
    let joints = &topics["/joints"][1];
    assert_eq!((&joints["observation"], &joints["names"][0]), (&3.into(), &"shoulder_pan".into()));
    assert_eq!((&joints["positions"][0], &joints["velocities"][0]), (&0.5.into(), &serde_json::Value::Null));
    assert_eq!(topics["/sensors/wrist_wrench"][0]["newest"].as_array().unwrap().len(), 6);
    let picture = &topics["/cameras/front"][2];
    assert_eq!((&picture["format"], &picture["timestamp"]["nsec"]), (&"png".into(), &60_000_000.into()));
    use base64::Engine;
    let data = base64::prelude::BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
    let mut pixels = vec![0; 36];
    png::Decoder::new(Cursor::new(data)).read_info().unwrap().next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [6; 36]);
    let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
    assert_eq!(summary.attachment_indexes.len(), 2);
}

#[test]
fn a_file_that_ends_anywhere_gives_what_is_whole_and_says_so() {
    let whole = written(4000);
    let entries = read(&whole).unwrap().entries;
    let mut most = 0;
    for length in (0..whole.len()).step_by(whole.len() / 300) {
        match read(&whole[..length]) {
            Ok(record) => {
                assert!(record.cut.is_some(), "{length}");
                assert_eq!(record.entries[..], entries[..record.entries.len()]);
                most = most.max(record.entries.len());
            }
            Err(error) => assert!(error.to_string().contains("run.mcap"), "{error}"),
        }
    }
    assert!(most > 1000, "{most}");
}

#[test]
fn a_file_with_an_altered_byte_is_never_read_otherwise_and_never_panics() {
    let whole = written(60);
    let record = read(&whole).unwrap();
    for at in 0..whole.len() {
        for with in [0x00, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
            if with == whole[at] {
                continue;
            }
            let mut altered = whole.clone();
            altered[at] = with;
            if let Ok(read) = read(&altered) {
                assert_eq!(read.package.component, record.package.component, "byte {at}");
                assert_eq!(read.entries[..], record.entries[..read.entries.len()], "byte {at}");
                assert!(read.cut.is_some() || read == record, "byte {at}");
            }
        }
    }
}

#[test]
fn no_bytes_at_all_make_the_reader_panic_or_take_much_memory() {
    let whole = written(20);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(8) {
            let at = random(bytes.len());
            match round % 4 {
                0 => bytes[at] = random(256) as u8,
                // Lengths are eight bytes.
                1 => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill([0, 0x7f, 0xff][random(3)]);
                }
                2 => drop(bytes.drain(at..(at + random(40)).min(whole.len()).min(bytes.len()))),
                _ => {
                    let piece = bytes[at..(at + random(400)).min(bytes.len())].to_vec();
                    let to = random(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = read(&bytes);
    }
    for nothing in [&b""[..], b"\x89MCAP0\r\n", b"not a record at all", &[0u8; 5000]] {
        assert!(matches!(read(nothing), Err(ReadError::NotARecord { .. })));
    }
}

#[test]
fn a_component_that_is_not_the_one_in_the_header_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.mcap");
    let header = Header { component: "0".repeat(64), ..header() };
    Recorder::create(&path, &header, package(), Arc::new(Embodiment::so101())).unwrap().finish().unwrap();
    let error = Record::open(&path).unwrap_err().to_string();
    assert!(error.contains("another than its header says") && error.contains("run.mcap"), "{error}");
}

#[test]
fn a_record_that_cannot_be_made_says_where() {
    let error =
        Recorder::create(Path::new("no-such-folder/run.mcap"), &header(), package(), Arc::new(Embodiment::so101()));
    assert!(error.err().unwrap().to_string().contains("no-such-folder/run.mcap"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_the_record_and_nobody_waits() {
    let recorder = Recorder::create(Path::new("/dev/full"), &header(), package(), Arc::new(Embodiment::so101()));
    // The file is buffered: what breaks off may be its beginning or what follows.
    let Ok(recorder) = recorder else { return };
    for number in 0..10_000 {
        recorder.entry(number, "x".repeat(10_000));
    }
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("/dev/full") && error.contains("No space left"), "{error}");
}

#[test]
fn an_entry_beyond_all_bounds_cuts_the_record_with_a_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.mcap");
    let recorder = Recorder::create(&path, &header(), package(), Arc::new(Embodiment::so101())).unwrap();
    recorder.entry(0, entry(0));
    recorder.entry(1, "x".repeat(waza_record::MOST_ENTRY_BYTES + 1));
    recorder.entry(2, entry(2));
    let written = recorder.finish().unwrap();
    assert_eq!(written.entries, 1);
    let record = Record::open(&path).unwrap();
    assert_eq!(record.entries, [(0, entry(0))]);
    assert!(record.cut.unwrap().contains("an entry has"));
}
