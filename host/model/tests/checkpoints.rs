//! Checkpoints that are broken in the ways that they break in practice, and what the error says.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tempfile::TempDir;
use waza_model::{Checkpoint, CheckpointError, Device, Image, InstructionError, ModelError, Noise, Policy, Query};

/// A copy of the first worked example that a test may break.
struct Copy {
    root: TempDir,
}

impl Copy {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvla-a");
        for folder in ["checkpoint", "vlm"] {
            fs::create_dir(root.path().join(folder)).unwrap();
            for file in fs::read_dir(from.join(folder)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), root.path().join(folder).join(file.file_name())).unwrap();
            }
        }
        Self { root }
    }

    fn checkpoint(&self) -> PathBuf {
        self.root.path().join("checkpoint")
    }

    fn open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(&self.checkpoint())
    }

    /// What the error says, which must be one line.
    fn error(&self) -> String {
        let message = self.open().unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.root.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Rewrites the weights, tensor by tensor: a new name, shape, type and bytes, or nothing.
    fn rewrite(&self, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
        rewrite(&self.checkpoint().join("model.safetensors"), change);
    }
}

#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn rewrite(path: &Path, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, Tensor)> = file
        .iter()
        .filter_map(|(name, view)| {
            let tensor = Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
            change(name, tensor)
        })
        .collect();
    let views = tensors.iter().map(|(n, t)| (n, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn query(instruction: &str) -> Query {
    let image = Image::new(96, 96, (0..96 * 96 * 3).map(|i| (i % 251) as u8).collect()).unwrap();
    Query {
        instruction: instruction.to_owned(),
        images: vec![("front".to_owned(), image)],
        state: vec![0.1; 6],
        sensors: Vec::new(),
        noise: Noise::Seed(3),
    }
}

#[test]
fn missing_extra_and_misshapen_tensors_are_listed_together() {
    let copy = Copy::new();
    copy.rewrite(|name, mut tensor| match name {
        "model.state_proj.bias" => None,
        "model.action_in_proj.bias" => Some(("model.surprise".to_owned(), tensor)),
        "model.vlm_with_expert.lm_expert.layers.1.self_attn.k_proj.weight" => {
            tensor.shape = vec![32, 128];
            Some((name.to_owned(), tensor))
        }
        _ => Some((name.to_owned(), tensor)),
    });
    let CheckpointError::Tensors(mismatch) = copy.open().unwrap_err() else { panic!() };
    assert_eq!(mismatch.missing, ["model.state_proj.bias", "model.action_in_proj.bias"]);
    assert_eq!(mismatch.extra, ["model.surprise"]);
    assert_eq!(mismatch.misshapen.len(), 1);
    assert_eq!(
        (mismatch.misshapen[0].found.as_slice(), mismatch.misshapen[0].expected.as_slice()),
        (&[32, 128][..], &[64, 64][..])
    );
    let message = copy.error();
    for part in ["2 missing", "1 extra", "1 misshapen", "model.surprise", "[32, 128]", "model.safetensors"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_checkpoint_of_another_network_is_listed_in_bounds() {
    let copy = Copy::new();
    copy.rewrite(|name, tensor| Some((format!("other.{name}"), tensor)));
    let message = copy.error();
    assert!(message.contains("more") && message.len() < 4000, "{message}");
}

#[test]
fn tensors_that_actions_do_not_need_may_be_absent_but_not_of_another_shape() {
    let copy = Copy::new();
    let unused =
        ["vlm.lm_head.", "text_model.norm.", "text_model.layers.3.mlp.", "text_model.layers.3.self_attn.o_proj."];
    copy.rewrite(|name, tensor| (!unused.iter().any(|part| name.contains(part))).then(|| (name.to_owned(), tensor)));
    copy.open().unwrap();

    let copy = Copy::new();
    copy.rewrite(|name, mut tensor| {
        if name.contains("vlm.lm_head.") {
            tensor.shape.reverse();
        }
        Some((name.to_owned(), tensor))
    });
    assert!(copy.error().contains("1 misshapen"));
}

#[test]
fn language_layers_beyond_those_that_are_kept_are_ignored() {
    let copy = Copy::new();
    copy.replace("checkpoint/config.json", "\"num_vlm_layers\": 4", "\"num_vlm_layers\": 3");
    copy.rewrite(|name, tensor| (!name.contains("lm_expert.layers.3.")).then(|| (name.to_owned(), tensor)));
    copy.open().unwrap();
}

#[test]
fn weights_of_a_compiled_model_load_under_their_plain_names() {
    let copy = Copy::new();
    copy.rewrite(|name, tensor| Some((name.replacen("model.", "model._orig_mod.", 1), tensor)));
    copy.open().unwrap();
}

#[test]
fn half_precision_weights_give_nearly_the_same_actions() {
    let act = |copy: &Copy| Policy::new(copy.open().unwrap(), Device::Cpu).unwrap().act(&query("touch it")).unwrap();
    let exact = act(&Copy::new());
    for (dtype, tolerance) in [(Dtype::F16, 0.01), (Dtype::BF16, 0.1)] {
        let copy = Copy::new();
        copy.rewrite(|name, tensor| {
            let numbers = tensor.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            let data = match dtype {
                Dtype::F16 => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
                _ => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            };
            Some((name.to_owned(), Tensor { dtype, data, ..tensor }))
        });
        let worst =
            act(&copy).rows.concat().iter().zip(exact.rows.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < tolerance, "{dtype:?}: {worst}");
    }
}

#[test]
fn a_truncated_weight_file_is_refused_with_its_name() {
    for share in [0.0, 0.01, 0.5, 0.999_999] {
        let copy = Copy::new();
        let path = copy.checkpoint().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
        let message = copy.error();
        assert!(message.contains("model.safetensors"), "{message}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_with_the_tensors_name() {
    let copy = Copy::new();
    copy.rewrite(|name, mut tensor| {
        if name == "model.state_proj.bias" {
            tensor.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some((name.to_owned(), tensor))
    });
    let error = Policy::new(copy.open().unwrap(), Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("model.state_proj.bias") && error.contains("NaN"), "{error}");
}

#[test]
fn statistics_of_another_robot_are_refused_with_both_widths() {
    let copy = Copy::new();
    let path = copy.checkpoint().join("policy_preprocessor_step_5_normalizer_processor.safetensors");
    rewrite(&path, |name, mut tensor| {
        if name == "observation.state.std" {
            tensor.shape = vec![5];
            tensor.data.truncate(20);
        }
        Some((name.to_owned(), tensor))
    });
    let message = copy.error();
    assert!(message.contains("observation.state.std") && message.contains("[5]") && message.contains('6'), "{message}");
}

#[test]
fn a_normalisation_that_is_not_implemented_is_refused_by_name() {
    let copy = Copy::new();
    copy.replace("checkpoint/policy_preprocessor.json", "\"STATE\": \"MEAN_STD\"", "\"STATE\": \"QUANTILES\"");
    assert!(copy.error().contains("normalisation QUANTILES of `observation.state`"));
}

#[test]
fn a_processor_step_that_is_not_implemented_is_refused_by_name() {
    let copy = Copy::new();
    copy.replace("checkpoint/policy_preprocessor.json", "to_batch_processor", "delta_actions_processor");
    assert!(copy.error().contains("delta_actions_processor"));
}

#[test]
fn a_checkpoint_without_processors_is_told_how_to_migrate() {
    let copy = Copy::new();
    fs::remove_file(copy.checkpoint().join("policy_preprocessor.json")).unwrap();
    assert!(copy.error().contains("migrate_policy_normalization"));
}

#[test]
fn a_tokenizer_with_more_words_than_the_model_embeds_is_refused() {
    let copy = Copy::new();
    copy.replace("vlm/tokenizer.json", "\"Ń\": 255", "\"Ń\": 255, \"zzz\": 384");
    let message = copy.error();
    assert!(message.contains("`zzz`") && message.contains("384"), "{message}");
}

#[test]
fn a_language_model_that_is_nowhere_is_named_with_the_places_that_were_looked_at() {
    let copy = Copy::new();
    copy.replace("checkpoint/config.json", "\"vlm_model_name\": \"vlm\"", "\"vlm_model_name\": \"nobody/nothing\"");
    let message = copy.error();
    assert!(message.contains("nobody/nothing") && message.contains("checkpoint/nothing"), "{message}");
}

#[test]
fn a_language_model_inside_the_checkpoint_is_found_by_its_last_name() {
    let copy = Copy::new();
    fs::rename(copy.root.path().join("vlm"), copy.checkpoint().join("SmolVLM2")).unwrap();
    copy.replace("checkpoint/config.json", "\"vlm_model_name\": \"vlm\"", "\"vlm_model_name\": \"maker/SmolVLM2\"");
    copy.replace(
        "checkpoint/policy_preprocessor.json",
        "\"tokenizer_name\": \"vlm\"",
        "\"tokenizer_name\": \"maker/SmolVLM2\"",
    );
    copy.open().unwrap();
}

#[test]
fn settings_out_of_bounds_or_not_supported_are_refused_by_name() {
    let cases = [
        ("checkpoint/config.json", "\"chunk_size\": 50", "\"chunk_size\": 900000000", "chunk_size"),
        ("checkpoint/config.json", "\"type\": \"smolvla\"", "\"type\": \"pi0\"", "pi0"),
        ("checkpoint/config.json", "\"adapt_to_pi_aloha\": false", "\"adapt_to_pi_aloha\": true", "adapt_to_pi_aloha"),
        ("checkpoint/config.json", "\"num_expert_layers\": -1", "\"num_expert_layers\": 2", "2 expert layers"),
        ("checkpoint/config.json", "\"num_expert_layers\": -1", "\"num_expert_layers\": 3", "does not divide"),
        ("vlm/config.json", "\"scale_factor\": 4", "\"scale_factor\": 3", "3x3"),
        ("vlm/config.json", "gelu_pytorch_tanh", "relu", "relu"),
        ("checkpoint/config.json", "\"num_steps\": 10", "\"num_steps\": \"ten\"", "config.json"),
    ];
    for (file, from, to, says) in cases {
        let copy = Copy::new();
        copy.replace(file, from, to);
        let message = copy.error();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn the_digest_changes_with_every_file_that_the_behaviour_depends_on() {
    let digest = Copy::new().open().unwrap().digest().to_owned();
    assert_eq!(digest, Copy::new().open().unwrap().digest());
    let changes = [
        ("checkpoint/config.json", "\"num_steps\": 10", "\"num_steps\": 9"),
        ("checkpoint/policy_preprocessor.json", "\"eps\": 1e-08", "\"eps\": 1e-07"),
        ("checkpoint/policy_postprocessor.json", "\"eps\": 1e-08", "\"eps\": 1e-07"),
        ("vlm/config.json", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06"),
        ("vlm/tokenizer.json", "\"Ń\": 255", "\"Ń\": 300"),
    ];
    for (file, from, to) in changes {
        let copy = Copy::new();
        copy.replace(file, from, to);
        assert_ne!(copy.open().unwrap().digest(), digest, "{file}");
    }
}

#[test]
fn a_card_names_the_model_its_embodiment_and_its_rate() {
    let copy = Copy::new();
    let card = r#"{"name": "tabletop", "version": "1.2.0", "embodiment": "so101", "action_rate_hz": 10}"#;
    fs::write(copy.checkpoint().join("waza.json"), card).unwrap();
    let about = Policy::new(copy.open().unwrap(), Device::Cpu).unwrap().about().clone();
    assert_eq!((about.name.as_str(), about.version.as_str()), ("tabletop", "1.2.0"));
    assert_eq!((about.embodiment.as_deref(), about.rate_hz), (Some("so101"), Some(10.0)));
    fs::write(copy.checkpoint().join("waza.json"), card.replace("10}", "1e9}")).unwrap();
    assert!(copy.error().contains("action_rate_hz"));
}

#[test]
fn words_outside_a_closed_vocabulary_are_named_with_those_that_are_known() {
    let copy = Copy::new();
    let tokenizer = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "unk_token": "[UNK]",
        "vocab": {"[UNK]": 0, "touch": 1, "the": 2, "red": 3, "block": 4}}}"#;
    fs::write(copy.root.path().join("vlm/tokenizer.json"), tokenizer).unwrap();
    let checkpoint = copy.open().unwrap();
    assert_eq!(checkpoint.words(), ["block", "red", "the", "touch"]);
    let mut policy = Policy::new(checkpoint, Device::Cpu).unwrap();
    policy.act(&query("Touch the RED block")).unwrap();
    let error = policy.act(&query("touch the mauve cube")).unwrap_err();
    let ModelError::Instruction(InstructionError::UnknownWords { unknown, known }) = &error else { panic!("{error}") };
    assert_eq!((unknown.as_slice(), known.len()), (&["mauve".to_owned(), "cube".to_owned()][..], 4));
    assert_eq!(error.to_string(), "the model does not know `mauve`, `cube`. It knows: block, red, the, touch");
}
