//! What is refused when it is loaded: in one line, with the place and a way out.

use waza_robot::Pace;
use waza_runtime::{Flaw, HostOptions, Layout, PackageError, RuntimeError};

use crate::fixture::{ALL, Bench};
use crate::packages::{component, manifest};

/// The message, which must be one line and name the package.
fn refusal(bench: &Bench, manifest: &str, component: &[u8]) -> (RuntimeError, String) {
    let error = bench.host.load(&bench.package_of("bad", manifest, component)).unwrap_err();
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("bad"), "{message}");
    (error, message)
}

#[test]
fn what_is_no_component_is_refused_with_what_it_is() {
    let bench = Bench::new();
    let whole = component("probe");
    let text = b"(component)".as_slice();
    let core = [b"\0asm".as_slice(), &[1, 0, 0, 0]].concat();
    for (bytes, expected) in [
        (core.as_slice(), "wasm32-wasip2"),
        (text, "it is text"),
        (&whole[..whole.len() / 2], "truncated"),
        (&whole[..5], "truncated"),
        (&[], "empty"),
        (&[0xff; 64], "right file"),
    ] {
        let (error, message) = refusal(&bench, &manifest("bad", &[]), bytes);
        assert!(
            matches!(error, RuntimeError::Package(PackageError::Component { flaw: Flaw::NotAComponent(_), .. })),
            "{message}"
        );
        assert!(message.contains(expected) && message.contains("guest.wasm"), "{expected} is not in: {message}");
    }
    assert_eq!(bench.host.skills().len(), 1, "a refused package must not be half loaded");
}

#[test]
fn a_missing_component_is_refused_with_how_to_build_it() {
    let bench = Bench::new();
    let folder = bench.package("probe", &[]);
    std::fs::remove_file(folder.join("guest.wasm")).unwrap();
    let message = bench.host.load(&folder).unwrap_err().to_string();
    assert!(message.contains("guest.wasm") && message.contains("cargo build"), "{message}");
    std::fs::remove_file(folder.join("skill.toml")).unwrap();
    let message = bench.host.load(&folder).unwrap_err().to_string();
    assert!(message.contains("skill.toml"), "{message}");
}

#[test]
fn a_skill_of_another_version_of_the_contract_is_refused_with_both_versions() {
    let bench = Bench::new();
    let told = manifest("bad", &[]).replace("wit = \"0.1.0\"", "wit = \"0.2.0\"");
    let (_, message) = refusal(&bench, &told, &component("probe"));
    assert!(message.contains("version 0.2.0") && message.contains("0.1.0"), "{message}");
    // The manifest says one thing, the component another.
    let mut bytes = component("probe");
    let (from, to) = (b"@0.1.0", b"@0.9.0");
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    let (error, message) = refusal(&bench, &manifest("bad", &[]), &bytes);
    assert!(
        matches!(error, RuntimeError::Package(PackageError::Component { flaw: Flaw::WrongWit(_), .. }))
            && message.contains("@0.9.0"),
        "{message}"
    );
}

#[test]
fn an_import_that_the_manifest_does_not_ask_for_is_refused_with_the_line_to_add() {
    let bench = Bench::new();
    for (missing, expected) in [
        ("sensing", "\"sensing\""),
        ("model", "\"model\""),
        ("motion:body", "\"motion:<part>\""),
        ("operator", "\"operator\""),
        ("durable", "\"durable\""),
        ("skills:test/conduct", "\"skills:<vendor/name>\""),
    ] {
        let kind = missing.split(':').next().unwrap();
        let rest: Vec<_> = ALL.iter().copied().filter(|it| it.split(':').next() != Some(kind)).collect();
        let (error, message) = refusal(&bench, &manifest("bad", &rest), &component("conduct"));
        assert!(
            matches!(error, RuntimeError::Package(PackageError::Component { flaw: Flaw::Undeclared { .. }, .. })),
            "{message}"
        );
        assert!(message.contains(&format!("add {expected} to `permissions` in skill.toml")), "{message}");
    }
}

#[test]
fn a_skill_that_wants_files_is_refused() {
    let bench = Bench::new();
    let (_, message) = refusal(&bench, &manifest("bad", &[]), &component("files"));
    assert!(message.contains("wasi:filesystem") && message.contains("there are no files"), "{message}");
}

#[test]
fn a_component_that_exports_no_world_is_refused_with_what_is_missing() {
    let bench = Bench::new();
    // The smallest component there is.
    let empty = [b"\0asm".as_slice(), &[0x0d, 0, 1, 0]].concat();
    let (_, message) = refusal(&bench, &manifest("bad", &[]), &empty);
    assert!(message.contains("exports no waza:skill/task@0.1.0"), "{message}");
}

#[test]
fn needs_that_robot_or_model_do_not_meet_are_all_refused_with_both_sides() {
    let bench = Bench::new();
    let needs = "[needs]\nparts = [\"arm\", \"leg\"]\ncameras = [\"rear\"]\nsensors = [\"skin\"]\nabilities = [\"act\", \"locate\"]\n";
    let text = manifest("bad", &["motion:tail", "pixels:sky"]) + needs;
    let (_, message) = refusal(&bench, &text, &component("probe"));
    for expected in [
        "the part `leg`, the robot so101-tabletop has body, arm, gripper",
        "the part `tail`",
        "the camera `rear`, the robot so101-tabletop has front, wrist",
        "the camera `sky`",
        "the sensor `skin`, the robot so101-tabletop has wrist_wrench",
        "a model that can locate, turner can act",
    ] {
        assert!(message.contains(expected), "{expected} is not in: {message}");
    }
    assert!(!message.contains("`arm`"), "{message}");
}

#[test]
fn a_manifest_with_a_mistake_is_refused_with_its_line() {
    let bench = Bench::new();
    let good = manifest("bad", &["sensing"]);
    for (from, to, expected) in [
        ("version", "versoin", "line 2: unknown field `versoin`"),
        ("\"sensing\"", "\"seeing\"", "no permission `seeing`"),
        ("test/bad", "bad", "is not vendor/name"),
        ("test/bad", "test/Bad", "is not vendor/name"),
        ("version = \"0.1.0\"", "version = \"new\"", "line 2"),
        ("id = ", "id ", "line 1"),
    ] {
        let (_, message) = refusal(&bench, &good.replacen(from, to, 1), &component("probe"));
        assert!(message.contains(expected) && message.contains("skill.toml"), "{expected} is not in: {message}");
    }
}

#[test]
fn limits_that_this_robot_cannot_be_kept_to_are_refused_with_both_sides() {
    let bench = Bench::new();
    for (limits, expected) in [
        ("[[limits.joints]]\nname = \"tail\"\nvelocity = 1.0\n", "no joint tail, so101-tabletop has shoulder_pan"),
        (
            "[[limits.joints]]\nname = \"gripper\"\nposition = [3.0, 4.0]\n",
            "nothing of [3, 4] is in the robot's [-0.17453",
        ),
        ("[limits]\nspeed = 1.0\n", "unknown field `speed`"),
    ] {
        let told = format!("{}{limits}", manifest("bad", &[]));
        let (_, message) = refusal(&bench, &told, &component("probe"));
        assert!(message.contains(expected), "{expected} is not in: {message}");
    }
}

#[cfg(unix)]
#[test]
fn what_leads_out_of_a_package_is_refused_unread_but_where_a_build_has_left_it() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let outside = bench.packages.path().join("outside.wasm");
    std::fs::write(&outside, component("probe")).unwrap();
    let refused = |folder: &std::path::Path, place: &str| {
        let message = bench.host.load(folder).unwrap_err().to_string();
        assert!(message.contains(&format!("{place} leads out of its package")), "{message}");
    };
    for component in ["../outside.wasm", outside.to_str().unwrap(), "./../outside.wasm"] {
        let told = manifest("bad", &[]).replace("guest.wasm", component);
        refused(&bench.package_of("bad", &told, &[]), "outside.wasm");
    }
    let linked = bench.package_of("linked", &manifest("linked", &[]), &[]);
    std::fs::remove_file(linked.join("guest.wasm")).unwrap();
    symlink(&outside, linked.join("guest.wasm")).unwrap();
    refused(&linked, "guest.wasm");
    let endless = bench.package_of("endless", "", &[]);
    std::fs::remove_file(endless.join("skill.toml")).unwrap();
    // Files of the system say that they have no bytes; this one has gigabytes.
    symlink("/proc/self/pagemap", endless.join("skill.toml")).unwrap();
    refused(&endless, "skill.toml");

    // A link that stays inside does no harm.
    let inside = bench.package_of("inside", &manifest("inside", &[]), &[]);
    std::fs::remove_file(inside.join("guest.wasm")).unwrap();
    std::fs::write(inside.join("real.wasm"), component("probe")).unwrap();
    symlink("real.wasm", inside.join("guest.wasm")).unwrap();
    bench.host.load(&inside).unwrap();

    let built = Bench::with(Pace::Lockstep, HostOptions { layout: Layout::BuildTree, ..HostOptions::default() }, ALL);
    built.host.load(&linked).unwrap();
    assert!(built.host.load(&endless).is_err());
}
