//! Checkpoints as people have them: copies of the bundled one, changed to what LeRobot and its users make of such folders.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

mod common;

use std::fs;
use std::path::Path;

use common::{Copy, Tensor, rewrite, tensors, write};
use indexmap::IndexMap;
use serde_json::{Value, json};
use waza_model::setup::Joint;
use waza_model::{About, Checkpoint, Device, Image, Info, Noise, Policy, Query, RobotSide, Said, Setup};

const STATISTICS: [&str; 2] = [
    "policy_preprocessor_step_5_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
];

/// The robot that the bundled checkpoint was trained for.
fn robot() -> RobotSide {
    let joints = [
        ("shoulder_pan", [-1.91986, 1.91986]),
        ("shoulder_lift", [-1.74533, 1.74533]),
        ("elbow_flex", [-1.69, 1.69]),
        ("wrist_flex", [-1.65806, 1.65806]),
        ("wrist_roll", [-2.74385, 2.84121]),
        ("gripper", [-0.17453, 1.74533]),
    ];
    RobotSide {
        name: "so101-tabletop".to_owned(),
        joints: joints.map(|(name, travel_rad)| Joint { name: name.to_owned(), travel_rad }).to_vec(),
        cameras: vec!["front".to_owned(), "wrist".to_owned()],
        rate_hz: 10.0,
    }
}

fn setup(said: Said) -> Setup {
    Setup { robot: Some(robot()), said }
}

fn units(names: &str) -> Said {
    Said { units: Some(names.parse().unwrap()), ..Said::default() }
}

fn cameras(pairs: &[(&str, &str)]) -> Said {
    let cameras = pairs.iter().map(|(model, robot)| ((*model).to_owned(), (*robot).to_owned())).collect();
    Said { cameras, ..Said::default() }
}

fn open(copy: &Copy, said: Said) -> Policy {
    Policy::new(&Checkpoint::open_for(copy.root.path(), &setup(said)).unwrap(), Device::Cpu).unwrap()
}

fn about(copy: &Copy, said: Said) -> About {
    open(copy, said).about().clone()
}

/// What keeps the copy from being opened, which must be one line.
fn refusal(copy: &Copy, said: Said) -> String {
    let line = Checkpoint::open_for(copy.root.path(), &setup(said)).unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn info(copy: &Copy, said: Said) -> Info {
    Info::examine(copy.root.path(), &setup(said)).unwrap()
}

/// A chunk for an arm in the middle of its work.
fn rows(policy: &mut Policy) -> Vec<f32> {
    rows_at(policy, [0.3, 0.2, -0.1, 1.1, 0.05, 0.4])
}

fn rows_at(policy: &mut Policy, state: [f32; 6]) -> Vec<f32> {
    let pixels = (0..96 * 96 * 3).map(|i: u32| (i.wrapping_mul(7) >> 3) as u8).collect();
    let query = Query {
        instruction: "touch the red block".to_owned(),
        images: vec![("front".to_owned(), Image::new(96, 96, pixels).unwrap())],
        state: state.to_vec(),
        sensors: Vec::new(),
        noise: Noise::Seed(5),
    };
    policy.act(&query).unwrap().rows.concat()
}

#[track_caller]
fn assert_close(a: &[f32], b: &[f32]) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(a.len() == b.len() && worst < 1e-4, "they differ by {worst}");
}

fn without_card() -> Copy {
    let copy = Copy::bundled();
    fs::remove_file(copy.path("waza.json")).unwrap();
    copy
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Changes each mean (true) and deviation (false) of states and actions in both files of statistics.
fn restate(copy: &Copy, change: impl Fn(bool, usize, f32) -> f32) {
    for file in STATISTICS {
        rewrite(&copy.path(file), |name, tensor| {
            let numbers = tensor.numbers();
            let changed = Tensor::f32(&tensor.shape, |i| change(name.ends_with(".mean"), i, numbers[i]));
            Some((name.to_owned(), changed))
        });
    }
}

/// As an arm of LeRobot's gives its positions: degrees, and the gripper 0 to 100 of its travel.
fn in_degrees() -> Copy {
    let copy = without_card();
    let [low, high] = robot().joints[5].travel_rad;
    restate(&copy, |is_mean, joint, rad| match joint {
        5 => (rad - if is_mean { low } else { 0.0 }) / (high - low) * 100.0,
        _ => rad.to_degrees(),
    });
    copy
}

#[test]
fn a_checkpoint_in_degrees_acts_as_the_one_in_radians_once_its_units_are_said() {
    let radians = rows(&mut open(&Copy::bundled(), Said::default()));
    let copy = in_degrees();
    assert_close(&rows(&mut open(&copy, units("degrees"))), &radians);
    let each = units("degrees,degrees,degrees,degrees,degrees,percent");
    assert_close(&rows(&mut open(&copy, each)), &radians);
    // Its card may say it, for whoever gets the folder.
    fs::write(copy.path("waza.json"), r#"{"name": "mine", "version": "1", "units": "degrees"}"#).unwrap();
    let mut policy = open(&copy, Said::default());
    assert!(policy.about().obstacles.is_empty(), "{:?}", policy.about().obstacles);
    assert_close(&rows(&mut policy), &radians);
}

#[test]
fn a_checkpoint_in_percents_of_each_joints_travel_acts_as_the_one_in_radians() {
    let copy = without_card();
    let joints = robot().joints;
    restate(&copy, |is_mean, joint, rad| {
        let [low, high] = joints[joint].travel_rad;
        let (middle, half) = match joint {
            5 => (low, high - low),
            _ => ((low + high) / 2.0, (high - low) / 2.0),
        };
        (rad - if is_mean { middle } else { 0.0 }) / half * 100.0
    });
    let radians = rows(&mut open(&Copy::bundled(), Said::default()));
    assert_close(&rows(&mut open(&copy, units("signed-percent"))), &radians);
}

#[test]
fn a_checkpoint_in_degrees_whose_units_nobody_says_does_not_fit_and_the_line_says_what_they_look_like() {
    let copy = in_degrees();
    let [obstacle] = about(&copy, Said::default()).obstacles.try_into().unwrap();
    for part in ["these look like degrees", "--units degrees", "shoulder_pan", "waza.json"] {
        assert!(obstacle.contains(part), "{obstacle}");
    }
    // A card that names the robot does not make them radians.
    let card = r#"{"name": "mine", "version": "1", "embodiment": "so101-tabletop"}"#;
    fs::write(copy.path("waza.json"), card).unwrap();
    assert_eq!(about(&copy, Said::default()).obstacles, [obstacle]);
    // Nor are they what somebody says that they are not.
    assert!(about(&copy, units("rad")).obstacles[0].contains("its numbers are no rad"));
}

#[test]
fn the_bundled_checkpoint_fits_its_robot_and_nothing_is_assumed_of_it() {
    let about = about(&Copy::bundled(), Said::default());
    assert_eq!((about.obstacles, about.warnings), (vec![], vec![]));
}

#[test]
fn radians_that_nobody_said_are_assumed_with_a_line() {
    let about = about(&without_card(), Said { action_rate_hz: Some(10.0), ..Said::default() });
    assert!(about.obstacles.is_empty());
    let [warning] = about.warnings.try_into().unwrap();
    assert!(warning.contains("rad are assumed") && warning.contains("--units"), "{warning}");
}

#[test]
fn as_many_units_as_there_are_numbers_must_be_named() {
    let obstacles = about(&Copy::bundled(), units("rad,rad")).obstacles;
    assert!(obstacles[0].contains("2 units are named, and its actions have 6 numbers"), "{obstacles:?}");
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 8220760\n";

#[test]
fn a_pointer_of_git_lfs_is_known_by_name_whatever_file_it_stands_for() {
    for file in ["model.safetensors", "vlm/tokenizer.json", STATISTICS[0]] {
        let copy = Copy::bundled();
        fs::write(copy.path(file), POINTER).unwrap();
        let line = refusal(&copy, Said::default());
        assert!(line.contains(file) && line.contains("Git LFS pointer") && line.contains("git lfs pull"), "{line}");
        // All else about it can be told.
        let info = info(&copy, Said::default());
        assert_eq!(info.obstacles, [line]);
        assert_eq!(info.policy.unwrap().action_size, Some(6));
    }
}

#[test]
fn an_adapter_is_known_with_its_base_and_how_to_merge_it() {
    for with_config in [true, false] {
        let copy = Copy::bundled();
        fs::rename(copy.path("model.safetensors"), copy.path("adapter_model.safetensors")).unwrap();
        let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "lerobot/smolvla_base", "r": 16}"#;
        fs::write(copy.path("adapter_config.json"), adapter).unwrap();
        if !with_config {
            fs::remove_file(copy.path("config.json")).unwrap();
        }
        let line = refusal(&copy, Said::default());
        for part in ["is an adapter", "LORA", "`lerobot/smolvla_base`", "merge_and_unload"] {
            assert!(line.contains(part), "{line}");
        }
        let info = info(&copy, Said::default());
        assert_eq!((info.kind.as_str(), info.obstacles, info.policy.is_some()), ("adapter", vec![line], with_config));
    }
}

#[test]
fn another_policy_is_known_by_its_type_and_described() {
    let copy = Copy::bundled();
    let act = json!({
        "type": "act", "chunk_size": 100, "n_action_steps": 100, "vision_backbone": "resnet18",
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [6]},
            "observation.images.top": {"type": "VISUAL", "shape": [3, 480, 640]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [6]}},
    });
    fs::write(copy.path("config.json"), act.to_string()).unwrap();
    let line = refusal(&copy, Said::default());
    assert!(line.contains("policy type `act` is not supported") && line.contains("Waza loads smolvla"), "{line}");
    let info = info(&copy, Said::default());
    assert_eq!((info.kind.as_str(), info.obstacles), ("act", vec![line]));
    let policy = info.policy.unwrap();
    assert_eq!((policy.cameras, policy.action_size, policy.chunk_length), (vec!["top".to_owned()], Some(6), Some(100)));
}

/// What policies before LeRobot 0.4 kept among their weights, and its migration leaves there.
fn with_buffers(copy: &Copy, mean: impl Fn(f32) -> f32) {
    let (path, mut all) = (copy.path("model.safetensors"), tensors(&copy.path("model.safetensors")));
    let statistics: IndexMap<String, Tensor> = tensors(&copy.path(STATISTICS[0])).into_iter().collect();
    for (module, key) in
        [("normalize_inputs", "observation.state"), ("normalize_targets", "action"), ("unnormalize_outputs", "action")]
    {
        for what in ["mean", "std"] {
            let name = format!("{module}.buffer_{}.{what}", key.replace('.', "_"));
            let numbers = statistics[&format!("{key}.{what}")].numbers();
            all.push((name, Tensor::f32(&[6], |i| if what == "mean" { mean(numbers[i]) } else { numbers[i] })));
        }
    }
    write(&path, &all);
}

#[test]
fn statistics_among_the_weights_are_passed_over_where_there_are_processors() {
    let copy = Copy::bundled();
    with_buffers(&copy, |_| 1000.0);
    let expected = rows(&mut open(&Copy::bundled(), Said::default()));
    assert_eq!(rows(&mut open(&copy, Said::default())), expected);
}

#[test]
fn statistics_among_the_weights_are_taken_where_there_are_no_processors() {
    let copy = Copy::bundled();
    with_buffers(&copy, |mean| mean);
    for file in ["policy_preprocessor.json", "policy_postprocessor.json", STATISTICS[0], STATISTICS[1]] {
        fs::remove_file(copy.path(file)).unwrap();
    }
    let expected = rows(&mut open(&Copy::bundled(), Said::default()));
    assert_eq!(rows(&mut open(&copy, Said::default())), expected);
    // Without either nothing is made up.
    rewrite(&copy.path("model.safetensors"), |name, tensor| {
        (!name.contains("buffer_action")).then(|| (name.to_owned(), tensor))
    });
    assert!(refusal(&copy, Said::default()).contains("no statistics of `action`"));
}

#[test]
fn a_joint_that_never_moved_in_training_is_named_and_counts_as_nothing() {
    let copy = Copy::bundled();
    restate(&copy, |is_mean, joint, number| if joint == 4 && !is_mean { 0.0 } else { number });
    let mut policy = open(&copy, Said::default());
    let [warning] = policy.about().warnings.clone().try_into().unwrap();
    assert!(warning.contains("wrist_roll never changed"), "{warning}");
    let mut here = [0.3, 0.2, -0.1, 1.1, 0.0, 0.4];
    let expected = rows_at(&mut policy, here);
    here[4] = 0.5;
    assert_eq!(rows_at(&mut policy, here), expected, "wherever that joint is");
    here[0] = 0.2;
    assert_ne!(rows_at(&mut policy, here), expected, "the others count");
    let most = expected.iter().map(|rad| rad.abs()).fold(0.0, f32::max);
    assert!(most < 3.0, "no garbage: {most} rad");
}

#[test]
fn a_rate_that_nobody_says_is_assumed_with_a_line_and_the_training_runs_own_file_says_it() {
    let copy = without_card();
    let about_it = about(&copy, units("rad"));
    let [warning] = about_it.warnings.try_into().unwrap();
    assert!(warning.contains("10 a second") && warning.contains("`action_rate_hz`"), "{warning}");
    assert_eq!(about_it.rate_hz, None);

    let said = Said { action_rate_hz: Some(20.0), ..units("rad") };
    for config in [r#"{"env": {"type": "gym", "fps": 30}}"#, r#"{"dataset": {"fps": 30.0}, "env": null}"#] {
        fs::write(copy.path("train_config.json"), config).unwrap();
        let about_it = about(&copy, units("rad"));
        assert_eq!((about_it.rate_hz, about_it.warnings), (Some(30.0), vec![]));
        assert_eq!(about(&copy, said.clone()).rate_hz, Some(20.0), "what is said goes first");
    }
    for config in [r#"{"env": {"fps": 1e9}}"#, r#"{"env": {"fps": -1}}"#, "{", r#"{"env": 7}"#] {
        fs::write(copy.path("train_config.json"), config).unwrap();
        assert_eq!(about(&copy, units("rad")).rate_hz, None, "{config}");
    }
    let absurd = Said { action_rate_hz: Some(f32::NAN), ..units("rad") };
    assert!(about(&copy, absurd).obstacles[0].contains("must be 0.1 to 1000"));
}

/// Looks through cameras as LeRobot's `camera1`, ... are called.
fn with_cameras(names: &[&str]) -> Copy {
    let copy = Copy::bundled();
    edit(&copy.path("config.json"), |config| {
        let features = config["input_features"].as_object_mut().unwrap();
        let front = features.remove("observation.images.front").unwrap();
        for name in names {
            features.insert(format!("observation.images.{name}"), front.clone());
        }
    });
    copy
}

#[test]
fn cameras_of_other_names_are_the_robots_once_it_is_said_which_is_which() {
    let copy = with_cameras(&["camera1", "camera2"]);
    assert_eq!(about(&copy, Said::default()).cameras, ["camera1", "camera2"]);
    let both = about(&copy, cameras(&[("camera1", "front"), ("observation.images.camera2", "wrist")]));
    assert_eq!((both.cameras, both.warnings), (vec!["front".to_owned(), "wrist".to_owned()], vec![]));
    // The copy's network is the bundled one's, which saw the front alone.
    let expected = rows(&mut open(&Copy::bundled(), Said::default()));
    let mut policy = open(&copy, cameras(&[("camera1", "front")]));
    assert!(
        policy.about().warnings[0].contains("the robot has no camera for its camera2"),
        "{:?}",
        policy.about().warnings
    );
    assert_eq!(rows(&mut policy), expected);
}

#[test]
fn cameras_that_are_said_wrongly_are_refused_with_those_that_there_are() {
    let copy = with_cameras(&["camera1", "camera2"]);
    for (said, part) in [
        (cameras(&[("camera3", "front")]), "no camera `camera3`, but through camera1, camera2"),
        (cameras(&[("camera1", "nose")]), "the robot has front, wrist"),
        (cameras(&[("camera1", "front"), ("camera2", "front")]), "two of its cameras are to be `front`"),
    ] {
        let obstacles = about(&copy, said).obstacles;
        assert!(obstacles.iter().any(|obstacle| obstacle.contains(part)), "{obstacles:?}");
    }
}

#[test]
fn a_camera_that_two_are_renamed_to_is_the_one_that_the_robot_has() {
    let copy = with_cameras(&["camera1"]);
    let processors = fs::read_to_string(copy.path("policy_preprocessor.json")).unwrap();
    for (names, expected) in [
        (&["front"][..], "front"),
        (&["side", "wrist", "top"], "wrist"),
        // None of them: the first by name.
        (&["side", "back"], "back"),
    ] {
        let pairs: Vec<_> =
            names.iter().map(|name| format!(r#""observation.images.{name}": "observation.images.camera1""#)).collect();
        let renamed = processors.replace(r#""rename_map": {}"#, &format!(r#""rename_map": {{{}}}"#, pairs.join(", ")));
        fs::write(copy.path("policy_preprocessor.json"), renamed).unwrap();
        // A map that is searched by value may have another order in each of its instances.
        for _ in 0..20 {
            assert_eq!(info(&copy, Said::default()).policy.unwrap().cameras, [expected]);
        }
    }
}

#[test]
fn a_checkpoint_says_how_much_of_a_chunk_is_played() {
    let copy = Copy::bundled();
    edit(&copy.path("config.json"), |config| config["n_action_steps"] = json!(2));
    assert_eq!(about(&copy, Said::default()).action_steps, Some(2));
    assert_eq!(info(&copy, Said::default()).policy.unwrap().action_steps, Some(2));
    edit(&copy.path("config.json"), |config| config["n_action_steps"] = json!(17));
    assert!(refusal(&copy, Said::default()).contains("`n_action_steps` is 17, must be 1 to 16"));
}

/// As `lerobot/smolvla_base` is published: the statistics of each data set that it was trained on, and none of the state.
fn grouped() -> Copy {
    let copy = Copy::bundled();
    for file in STATISTICS {
        let action: Vec<_> =
            tensors(&copy.path(file)).into_iter().filter(|(name, _)| name.starts_with("action.")).collect();
        let of =
            |group: &'static str| action.iter().map(move |(name, t)| (format!("{group}.buffer.{name}"), t.clone()));
        write(&copy.path(file), &["so100", "so100-blue", "so100-red"].into_iter().flat_map(of).collect::<Vec<_>>());
    }
    copy
}

#[test]
fn a_base_with_the_statistics_of_several_data_sets_is_described_and_runs_once_one_is_chosen() {
    let copy = grouped();
    let line = refusal(&copy, Said::default());
    for part in ["so100, so100-blue, so100-red", "Fine-tune", "--statistics so100"] {
        assert!(line.contains(part), "{line}");
    }
    let info = info(&copy, Said::default());
    assert_eq!((info.obstacles, info.policy.unwrap().chunk_length), (vec![line], Some(16)));

    let chosen = |name: &str| Said { statistics: Some(name.to_owned()), ..Said::default() };
    assert!(refusal(&copy, chosen("so200")).contains("so100, so100-blue, so100-red"));
    let mut policy = open(&copy, chosen("so100-red"));
    let [warning] = policy.about().warnings.clone().try_into().unwrap();
    assert!(warning.contains("`observation.state`") && warning.contains("as they are"), "{warning}");
    rows(&mut policy);
    assert!(refusal(&Copy::bundled(), chosen("so100")).contains("the file has those of one data set"));
}

#[test]
fn a_folder_with_a_tokenizer_and_no_configuration_is_a_tokenizers() {
    let copy = Copy::bundled();
    fs::create_dir(copy.path("words")).unwrap();
    fs::rename(copy.path("vlm/tokenizer.json"), copy.path("words/tokenizer.json")).unwrap();
    copy.replace("policy_preprocessor.json", "\"tokenizer_name\": \"vlm\"", "\"tokenizer_name\": \"words\"");
    let expected = rows(&mut open(&Copy::bundled(), Said::default()));
    assert_eq!(rows(&mut open(&copy, Said::default())), expected);
}

#[test]
fn weights_in_shards_act_as_one_file_and_a_shard_that_is_not_whole_is_named() {
    let copy = Copy::bundled();
    let all = tensors(&copy.path("model.safetensors"));
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (shard, part) in shards.iter().zip(all.chunks(all.len().div_ceil(2))) {
        write(&copy.path(shard), part);
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(shard))));
    }
    fs::write(copy.path("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    fs::remove_file(copy.path("model.safetensors")).unwrap();
    let expected = rows(&mut open(&Copy::bundled(), Said::default()));
    assert_eq!(rows(&mut open(&copy, Said::default())), expected);

    fs::write(copy.path(shards[1]), POINTER).unwrap();
    let line = refusal(&copy, Said::default());
    assert!(line.contains(shards[1]) && line.contains("Git LFS pointer"), "{line}");
    fs::remove_file(copy.path(shards[1])).unwrap();
    assert!(refusal(&copy, Said::default()).contains(shards[1]));
}

#[test]
fn all_that_is_wrong_with_a_folder_is_told_at_once() {
    let copy = grouped();
    fs::write(copy.path("model.safetensors"), POINTER).unwrap();
    edit(&copy.path("config.json"), |config| config["vlm_model_name"] = json!("nobody/nothing"));
    let obstacles = info(&copy, Said::default()).obstacles;
    let parts = ["`nobody/nothing` is neither here nor", "several data sets", "Git LFS pointer"];
    assert_eq!(obstacles.len(), 3, "{obstacles:?}");
    assert!(obstacles.iter().zip(parts).all(|(obstacle, part)| obstacle.contains(part)), "{obstacles:?}");
}

#[test]
fn a_folder_without_any_configuration_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let error = Info::examine(folder.path(), &setup(Said::default())).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let error = Info::examine(folder.path(), &setup(Said::default())).unwrap_err().to_string();
    assert!(error.contains("no `type`") && error.contains("no `model_type`"), "{error}");
}
