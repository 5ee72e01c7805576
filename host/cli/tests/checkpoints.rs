//! Checkpoints as people have them, from the command line to a moving arm: what docs/from-lerobot.md says.

#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

#[path = "../../model/tests/common/copy.rs"]
mod copy;
#[cfg(unix)]
mod served;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use copy::copy;

/// Of the simulated arm's gripper, rad.
const TRAVEL_RAD: [f32; 2] = [-0.17453, 1.74533];

/// A copy of the bundled checkpoint that a test may change.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/checkpoints/tabletop"), folder.path());
        Self(folder)
    }

    /// As LeRobot saves what it trained on a SO-101: degrees, the gripper 0 to 100 of its travel, and no card.
    fn in_degrees() -> Self {
        let copy = Self::new();
        fs::remove_file(copy.path("waza.json")).unwrap();
        for file in fs::read_dir(copy.0.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if file.to_string_lossy().contains("normalizer_processor.safetensors") {
                restate(&file, |is_mean, joint, rad| match joint {
                    5 => (rad - if is_mean { TRAVEL_RAD[0] } else { 0.0 }) / (TRAVEL_RAD[1] - TRAVEL_RAD[0]) * 100.0,
                    _ => rad.to_degrees(),
                });
            }
        }
        copy
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn folder(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(file), value.to_string()).unwrap();
    }
}

/// Changes a file of statistics number by number: whether it is a mean, the joint, what it was.
fn restate(file: &Path, change: impl Fn(bool, usize, f32) -> f32) {
    let mut bytes = fs::read(file).unwrap();
    let data = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
    for (name, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let begin = data + tensor["data_offsets"][0].as_u64().unwrap() as usize;
        for joint in 0..6 {
            let number = &mut bytes[begin + 4 * joint..][..4];
            let changed = change(name.ends_with(".mean"), joint, f32::from_le_bytes(number.try_into().unwrap()));
            number.copy_from_slice(&changed.to_le_bytes());
        }
    }
    fs::write(file, bytes).unwrap();
}

fn waza(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
    command.args(arguments);
    command
}

#[track_caller]
fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What `waza model info` prints for programs.
#[track_caller]
fn info(copy: &Copy, options: &[&str]) -> Value {
    let output = done(waza(&["model", "info", copy.folder(), "--json"]).args(options));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Seed, verdict and final state of some touches.
fn verdicts(options: &[&str]) -> Vec<(u64, String)> {
    let out = tempfile::tempdir().unwrap();
    let demo = ["demo", "--skill", "touch", "--episodes", "4", "--seed", "1000", "--device", "cpu", "--out"];
    done(waza(&demo).arg(out.path()).args(options));
    let episodes: Value = serde_json::from_slice(&fs::read(out.path().join("episodes.json")).unwrap()).unwrap();
    let of = |episode: &Value| (episode["seed"].as_u64().unwrap(), episode["verdict"].as_str().unwrap().to_owned());
    episodes.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_checkpoint_in_degrees_succeeds_as_the_one_in_radians() {
    let copy = Copy::in_degrees();
    let radians = verdicts(&[]);
    assert!(radians.iter().any(|(_, verdict)| verdict == "success"), "{radians:?}");
    let units = ["--model", copy.folder(), "--units", "degrees", "--rate-hz", "10"];
    assert_eq!(verdicts(&units), radians);
}

#[test]
fn a_checkpoint_in_degrees_moves_nothing_until_that_is_said() {
    let copy = Copy::in_degrees();
    let task = ["run", "touch", "--task", "touch the red block", "--device", "cpu", "--model", copy.folder()];
    let Output { status, stdout, stderr } = waza(&task).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.is_empty(), stderr.lines().count()), (Some(2), true, 1), "{stderr}");
    assert!(stderr.contains("these look like degrees") && stderr.contains("--units degrees"), "{stderr}");
    let obstacles = info(&copy, &[])["obstacles"].clone();
    assert!(obstacles[0].as_str().unwrap().contains("these look like degrees"), "{obstacles}");
    assert_eq!(info(&copy, &["--units", "degrees"])["obstacles"], json!([]));
}

#[test]
fn what_was_assumed_is_told_before_the_arm_moves() {
    let copy = Copy::new();
    fs::remove_file(copy.path("waza.json")).unwrap();
    let task = ["run", "touch", "--task", "touch the red block", "--device", "cpu", "--model", copy.folder()];
    let stderr = String::from_utf8(done(&mut waza(&task)).stderr).unwrap();
    let warned = |part| stderr.lines().any(|line| line.starts_with("warning: ") && line.contains(part));
    assert!(warned("10 a second") && warned("rad are assumed"), "{stderr}");
    let stderr = done(waza(&task).args(["--units", "rad", "--rate-hz", "10"])).stderr;
    assert!(!String::from_utf8(stderr).unwrap().contains("warning: "));
}

#[test]
fn the_sites_file_says_how_a_policy_fits_and_the_command_line_goes_before_it() {
    let copy = Copy::in_degrees();
    copy.edit("config.json", |config| {
        let features = config["input_features"].as_object_mut().unwrap();
        let front = features.remove("observation.images.front").unwrap();
        features.insert("observation.images.camera1".to_owned(), front);
    });
    let site = copy.path("site.toml");
    let model = "command_age_s = 4.0\n[model]\nunits = \"degrees\"\naction_rate_hz = 20.0\n[model.cameras]\ncamera1 = \"front\"\n";
    fs::write(&site, model).unwrap();
    let site = ["--site", site.to_str().unwrap()];
    let alone = info(&copy, &[])["obstacles"].clone();
    assert_eq!(alone.as_array().unwrap().len(), 2, "units and cameras: {alone}");
    assert!(alone[1].as_str().unwrap().contains("it sees camera1, the robot has front, wrist"), "{alone}");
    let said = String::from_utf8(done(&mut waza(&["model", "info", copy.folder()])).stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("  - ")).count(), 2, "{said}");
    let with_site = info(&copy, &site);
    assert_eq!((&with_site["obstacles"], &with_site["warnings"]), (&json!([]), &json!([])));
    assert_eq!((&with_site["rate_hz"], &with_site["cameras"]), (&json!(20.0), &json!(["front"])));
    assert_eq!(info(&copy, &[&site[..], &["--rate-hz", "10"]].concat())["rate_hz"], 10.0);

    fs::write(site[1], "[model]\nunits = \"furlongs\"\n").unwrap();
    let output = waza(&["model", "info", copy.folder()]).args(site).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains("line 2") && stderr.contains("`furlongs` is no unit"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_served_robot_takes_units_from_its_sites_file() {
    let (copy, skills) = (Copy::in_degrees(), tempfile::tempdir().unwrap());
    let site = copy.path("site.toml");
    fs::write(&site, "[model]\nunits = \"degrees\"\naction_rate_hz = 10.0\n").unwrap();
    let options = ["--model", copy.folder(), "--site", site.to_str().unwrap()];
    let served = served::Served::start(skills.path(), &options);
    assert!(served.begun.last().unwrap().starts_with("armed"), "{:?}", served.begun);
}

/// Where the Hugging Face cache keeps the bundled checkpoint's vision-language model under another name.
fn cache_of(copy: &Copy, snapshots: &[&str], main: Option<&str>) -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--maker--vlm-of-theirs");
    for snapshot in snapshots {
        let folder = model.join("snapshots").join(snapshot);
        fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            fs::copy(copy.path("vlm").join(file), folder.join(file)).unwrap();
        }
    }
    if let Some(main) = main {
        fs::create_dir(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), main).unwrap();
    }
    cache
}

#[test]
fn a_lone_snapshot_in_the_cache_is_taken_and_of_several_the_one_that_main_stands_at() {
    let copy = Copy::new();
    copy.edit("config.json", |config| config["vlm_model_name"] = json!("maker/vlm-of-theirs"));
    copy.edit("policy_preprocessor.json", |file| {
        file["steps"][3]["config"]["tokenizer_name"] = json!("maker/vlm-of-theirs");
    });
    for (snapshots, main, runs) in [
        (&["0123abc"][..], None, true),
        (&["0123abc", "4567def"], Some("4567def\n"), true),
        (&["0123abc", "4567def"], None, false),
    ] {
        let cache = cache_of(&copy, snapshots, main);
        let mut command = waza(&["model", "info", copy.folder(), "--json"]);
        let output = done(command.env("HF_HUB_CACHE", cache.path()));
        let obstacles = serde_json::from_slice::<Value>(&output.stdout).unwrap()["obstacles"].clone();
        assert_eq!(obstacles == json!([]), runs, "{snapshots:?}, {main:?}: {obstacles}");
    }
}

#[test]
fn whatever_cannot_run_is_described_with_a_list_of_why_and_refused_by_the_first_of_it() {
    let copy = Copy::new();
    copy.edit("config.json", |config| config["type"] = json!("act"));
    let said = String::from_utf8(done(&mut waza(&["model", "info", copy.folder()])).stdout).unwrap();
    assert!(said.contains("runs here        no:\n  - ") && said.contains("policy type `act`"), "{said}");
    let task = ["run", "touch", "--task", "touch the red block", "--device", "cpu", "--model", copy.folder()];
    let Output { status, stderr, .. } = waza(&task).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains("policy type `act` is not supported") && !stderr.contains("SmolVLM2"), "{stderr}");

    let said = String::from_utf8(done(&mut waza(&["model", "info", Copy::new().folder()])).stdout).unwrap();
    assert!(said.contains("runs here        yes") && said.contains("action steps     8"), "{said}");
}
