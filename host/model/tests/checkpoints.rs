//! Checkpoints that are broken in the ways that they break in practice, and what the error says.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

mod common;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use common::{Tensor, mutate, rewrite, tensors, write_header};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use safetensors::tensor::Dtype;
use waza_model::architecture::{Sensors, Video};
use waza_model::plan::{Network, Numbers, Pick, Weight};
use waza_model::{
    Checkpoint, CheckpointError, Device, Image, InstructionError, ModelError, Noise, Policy, Query, WeightSource,
};

/// A copy of the first worked example that a test may break.
struct Copy(common::Copy);

impl Deref for Copy {
    type Target = common::Copy;

    fn deref(&self) -> &common::Copy {
        &self.0
    }
}

impl Copy {
    fn new() -> Self {
        Self(common::Copy::of("smolvla-a"))
    }

    fn checkpoint(&self) -> PathBuf {
        self.path("checkpoint")
    }

    fn weights(&self) -> PathBuf {
        self.path("checkpoint/model.safetensors")
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

    /// Rewrites the weights, tensor by tensor: a new name, shape, type and bytes, or nothing.
    fn rewrite(&self, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
        rewrite(&self.weights(), change);
    }
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
    for (plain, compiled) in [
        ("model.", "model._orig_mod."),
        ("model.", "_orig_mod.model."),
        ("vlm_with_expert.", "_orig_mod.vlm_with_expert._orig_mod."),
        ("proj.weight", "proj._orig_mod.weight"),
    ] {
        let copy = Copy::new();
        copy.rewrite(|name, tensor| Some((name.replacen(plain, compiled, 1), tensor)));
        copy.open().unwrap();
    }
}

#[test]
fn two_tensors_of_one_plain_name_are_refused() {
    let copy = Copy::new();
    let mut all = tensors(&copy.weights());
    let (name, tensor) = all[0].clone();
    all.push((format!("_orig_mod.{name}"), tensor));
    common::write(&copy.weights(), &all);
    assert!(copy.error().contains("a second tensor"), "{}", copy.error());
}

#[test]
fn half_precision_weights_give_nearly_the_same_actions() {
    let act = |copy: &Copy| Policy::new(&copy.open().unwrap(), Device::Cpu).unwrap().act(&query("touch it")).unwrap();
    let exact = act(&Copy::new());
    for (dtype, tolerance) in [(Dtype::F16, 0.01), (Dtype::BF16, 0.1)] {
        let copy = Copy::new();
        copy.rewrite(|name, tensor| Some((name.to_owned(), tensor.to(dtype))));
        let worst =
            act(&copy).rows.concat().iter().zip(exact.rows.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < tolerance, "{dtype:?}: {worst}");
    }
}

/// All weights of a checkpoint's network, in order.
fn load_all(checkpoint: &Checkpoint) -> Vec<Numbers> {
    let network = Network::new(checkpoint.architecture().clone());
    network.weights().iter().map(|weight| checkpoint.load(weight).unwrap()).collect()
}

#[test]
fn weights_stay_in_the_format_of_the_file() {
    let exact = load_all(&Copy::new().open().unwrap());
    assert!(exact.iter().all(|numbers| matches!(numbers, Numbers::F32(_))));
    for dtype in [Dtype::F16, Dtype::BF16] {
        let copy = Copy::new();
        copy.rewrite(|name, tensor| Some((name.to_owned(), tensor.to(dtype))));
        for (half, exact) in load_all(&copy.open().unwrap()).into_iter().zip(&exact) {
            let Numbers::F32(exact) = exact else { panic!() };
            let matches = match &half {
                Numbers::F16(bits) => {
                    dtype == Dtype::F16 && bits.iter().zip(exact).all(|(b, x)| *b == half::f16::from_f32(*x).to_bits())
                }
                Numbers::Bf16(bits) => {
                    dtype == Dtype::BF16
                        && bits.iter().zip(exact).all(|(b, x)| *b == half::bf16::from_f32(*x).to_bits())
                }
                Numbers::F32(_) => false,
            };
            assert!(matches && half.into_f32().len() == exact.len(), "{dtype:?}");
        }
    }
}

#[test]
fn a_weight_of_several_formats_is_in_single_precision() {
    let copy = Copy::new();
    let exact = load_all(&copy.open().unwrap());
    copy.rewrite(|name, tensor| {
        let dtype = match name {
            name if name.contains(".k_proj.") => Dtype::BF16,
            name if name.contains(".v_proj.") => Dtype::F16,
            _ => Dtype::F32,
        };
        Some((name.to_owned(), tensor.to(dtype)))
    });
    let (mut joined, checkpoint) = (0, copy.open().unwrap());
    let network = Network::new(checkpoint.architecture().clone());
    for (weight, exact) in network.weights().iter().zip(exact) {
        let formats = ["k_proj", "v_proj"].map(|p| weight.tensors.iter().any(|name| name.contains(p)));
        let numbers = checkpoint.load(weight).unwrap();
        if formats == [true, true] {
            assert!(matches!(numbers, Numbers::F32(_)), "{:?}", weight.tensors);
            joined += 1;
        }
        let near = |(a, b): (f32, f32)| (a - b).abs() <= b.abs() / 128.0 + 1e-7;
        assert!(std::iter::zip(numbers.into_f32(), exact.into_f32()).all(near), "{:?}", weight.tensors);
    }
    assert!(joined > 0);
}

#[test]
fn picked_rows_and_columns_are_those_of_the_tensor() {
    let checkpoint = Copy::new().open().unwrap();
    let network = Network::new(checkpoint.architecture().clone());
    let matrix = network.weights().iter().find(|w| w.tensors.len() == 1 && w.rows > 8 && w.columns > 8).unwrap();
    let whole = checkpoint.load(matrix).unwrap().into_f32();
    let expected = |rows: &[usize], columns: std::ops::Range<usize>| -> Vec<f32> {
        rows.iter().flat_map(|row| &whole[row * matrix.columns..][columns.clone()]).copied().collect()
    };
    let part = |rows, columns: std::ops::Range<usize>, pick| {
        checkpoint.load(&Weight { rows, columns: columns.len(), take: columns, pick, ..matrix.clone() })
    };
    assert_eq!(part(3, 2..7, Pick::Range(4..7)).unwrap().into_f32(), expected(&[4, 5, 6], 2..7));
    assert_eq!(part(3, 0..8, Pick::Gather(vec![5, 0, 5])).unwrap().into_f32(), expected(&[5, 0, 5], 0..8));
    assert!(part(3, 0..8, Pick::Range(matrix.rows - 1..matrix.rows + 2)).is_err());
    assert!(part(2, 0..8, Pick::Gather(vec![0, u32::MAX])).is_err());
    assert!(part(1, 0..matrix.columns + 1, Pick::Range(0..1)).is_err());
    assert!(part(9, 0..8, Pick::Range(0..8)).is_err());
}

#[test]
fn embeddings_are_read_row_by_row_from_any_format() {
    let name = "model.vlm_with_expert.vlm.model.text_model.embed_tokens.weight";
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let copy = Copy::new();
        // Numbers that every format has.
        copy.rewrite(|found, tensor| {
            let tensor = match found == name {
                true => Tensor::f32(&tensor.shape, |i| (i / 128) as f32 + (i % 128 == 3) as usize as f32).to(dtype),
                false => tensor,
            };
            Some((found.to_owned(), tensor))
        });
        let table = copy.open().unwrap().token_embeddings();
        let mut row = vec![-1.0; table.width() + 1];
        table.row(200, &mut row).unwrap();
        assert_eq!((row[0], row[3], row[127], row[128]), (200.0, 201.0, 200.0, -1.0));
        assert!(table.row(table.vocabulary() as u32, &mut row).is_err());
        assert!(table.row(0, &mut row[..table.width() - 1]).is_err());
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    let copy = Copy::new();
    let two_to_61 = 1u64 << 61;
    // Sizes that add up to 0 in 64 bits.
    let wrapping: Vec<String> = (0..8u64)
        .map(|i| {
            let (from, to) = (i.wrapping_mul(two_to_61), (i + 1).wrapping_mul(two_to_61));
            format!(r#""t{i}": {{"dtype": "U8", "shape": [{two_to_61}], "data_offsets": [{from}, {to}]}}"#)
        })
        .collect();
    let one = |rest: &str| format!(r#"{{"model.state_proj.bias": {{{rest}}}}}"#);
    let cases = [
        (format!("{{{}}}", wrapping.join(",")), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [4], "data_offsets": [0, 15]"#), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [8], "data_offsets": [0, 32]"#), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]"#), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]"#), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [2], "data_offsets": [16, 8]"#), "cannot be at"),
        (one(r#""dtype": "F32", "shape": [2], "data_offsets": [0, 8]"#), "end at byte"),
        (one(r#""dtype": "F32", "shape": [2], "data_offsets": [8, 16]"#), "do not follow"),
        (one(r#""dtype": "F99", "shape": [4], "data_offsets": [0, 16]"#), "F99"),
        (one(r#""dtype": "F32", "shape": [-4], "data_offsets": [0, 16]"#), "-4"),
        (format!("{{\"a\": {}", "[".repeat(100_000)), "recursion"),
        ("[]".to_owned(), "expected"),
        ("{".to_owned(), "EOF"),
        (String::new(), "EOF"),
    ];
    for (header, says) in cases {
        write_header(&copy.weights(), &header, 16);
        let message = copy.error();
        assert!(message.contains(says) && message.contains("model.safetensors") && message.len() < 1000, "{message}");
    }
    for length in [u64::MAX, 1 << 40, 17 << 20] {
        fs::write(copy.weights(), [length.to_le_bytes(), [b' '; 8]].concat()).unwrap();
        assert!(copy.error().contains("header"), "{}", copy.error());
    }
    // Statistics are such files, too.
    let copy = Copy::new();
    let statistics = copy.path("checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors");
    write_header(&statistics, &format!("{{{}}}", wrapping.join(",")), 0);
    assert!(copy.error().contains("cannot be at"), "{}", copy.error());
}

#[test]
fn weights_of_integers_are_refused_when_the_checkpoint_is_opened() {
    let copy = Copy::new();
    copy.rewrite(|name, mut tensor| {
        if name == "model.state_proj.bias" {
            tensor.dtype = Dtype::I32;
        }
        Some((name.to_owned(), tensor))
    });
    let message = copy.error();
    assert!(message.contains("model.state_proj.bias") && message.contains("I32"), "{message}");
}

#[test]
fn no_change_of_the_files_makes_opening_panic() {
    let copy = Copy::new();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let header = {
        let bytes = fs::read(copy.weights()).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        (bytes[8..8 + length].to_vec(), (bytes.len() - 8 - length) as u64)
    };
    let mut readable = 0;
    for _ in 0..400 {
        let mut bytes = header.0.clone();
        mutate(&mut bytes, &mut random);
        write_header(&copy.weights(), &String::from_utf8_lossy(&bytes), header.1);
        match copy.open() {
            Ok(checkpoint) => drop(load_all(&checkpoint)),
            Err(CheckpointError::Tensors(_)) => readable += 1,
            Err(_) => {}
        }
    }
    assert!(readable > 20, "only {readable} headers could still be read: the changes are too rough to reach far");
    let copy = Copy::new();
    let files = [
        "checkpoint/config.json",
        "checkpoint/policy_preprocessor.json",
        "checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors",
        "vlm/config.json",
        "vlm/tokenizer.json",
    ];
    for file in files {
        let whole = fs::read(copy.path(file)).unwrap();
        for _ in 0..100 {
            let mut bytes = whole.clone();
            mutate(&mut bytes, &mut random);
            fs::write(copy.path(file), bytes).unwrap();
            drop(copy.open());
        }
        fs::write(copy.path(file), whole).unwrap();
    }
    copy.open().unwrap();
}

#[test]
fn a_truncated_weight_file_is_refused_with_its_name() {
    for share in [0.0, 0.01, 0.5, 0.999_999] {
        let copy = Copy::new();
        let path = copy.weights();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
        let message = copy.error();
        assert!(message.contains("model.safetensors"), "{message}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_with_the_tensors_name() {
    let copy = Copy::new();
    let whole = fs::read(copy.weights()).unwrap();
    let cases = [
        (Dtype::F32, f32::NAN, "NaN"),
        (Dtype::F32, f32::INFINITY, "inf"),
        (Dtype::F16, f32::NAN, "NaN"),
        (Dtype::F16, f32::NEG_INFINITY, "-inf"),
        (Dtype::BF16, f32::NAN, "NaN"),
        (Dtype::BF16, f32::NEG_INFINITY, "-inf"),
    ];
    for (dtype, number, says) in cases {
        fs::write(copy.weights(), &whole).unwrap();
        copy.rewrite(|name, mut tensor| {
            if name == "model.state_proj.bias" {
                tensor = Tensor::f32(&tensor.shape, |i| if i == 7 { number } else { 65504.0 }).to(dtype);
            }
            Some((name.to_owned(), tensor))
        });
        let error = Policy::new(&copy.open().unwrap(), Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("model.state_proj.bias") && error.contains(says), "{error}");
    }
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
    fs::rename(copy.path("vlm"), copy.checkpoint().join("SmolVLM2")).unwrap();
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
    let about = Policy::new(&copy.open().unwrap(), Device::Cpu).unwrap().about().clone();
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
    fs::write(copy.path("vlm/tokenizer.json"), tokenizer).unwrap();
    let checkpoint = copy.open().unwrap();
    assert_eq!(checkpoint.words(), ["block", "red", "the", "touch"]);
    let mut policy = Policy::new(&checkpoint, Device::Cpu).unwrap();
    policy.act(&query("Touch the RED block")).unwrap();
    let error = policy.act(&query("touch the mauve cube")).unwrap_err();
    let ModelError::Instruction(InstructionError::UnknownWords { unknown, known }) = &error else { panic!("{error}") };
    assert_eq!((unknown.as_slice(), known.len()), (&["mauve".to_owned(), "cube".to_owned()][..], 4));
    assert_eq!(error.to_string(), "the model does not know `mauve`, `cube`. It knows: block, red, the, touch");
}

#[test]
fn a_card_lists_abilities_that_exist() {
    let copy = Copy::new();
    let card = r#"{"name": "tabletop", "version": "1.2.0", "abilities": ["act", "locate"]}"#;
    fs::write(copy.path("checkpoint/waza.json"), card).unwrap();
    assert_eq!(copy.open().unwrap().card().unwrap().abilities, ["act", "locate"]);
    fs::write(copy.path("checkpoint/waza.json"), card.replace("locate", "fly")).unwrap();
    assert!(copy.error().contains("`fly` is no ability"), "{}", copy.error());
}

#[test]
fn language_may_be_padded_to_the_longest_or_to_its_full_length() {
    let copy = Copy::new();
    copy.replace("checkpoint/config.json", "\"pad_language_to\": \"longest\"", "\"pad_language_to\": \"max_length\"");
    copy.replace("checkpoint/policy_preprocessor.json", "\"padding\": \"longest\"", "\"padding\": \"max_length\"");
    let act = |copy: &Copy| Policy::new(&copy.open().unwrap(), Device::Cpu).unwrap().act(&query("touch it")).unwrap();
    assert_eq!(act(&copy).rows, act(&Copy::new()).rows);
}

#[test]
fn the_folder_of_the_language_model_is_told_only_if_it_has_weights() {
    let copy = Copy::new();
    assert_eq!(copy.open().unwrap().vlm_folder(), None);
    fs::write(copy.path("vlm/model.safetensors"), []).unwrap();
    let found = copy.open().unwrap().vlm_folder().unwrap().canonicalize().unwrap();
    assert_eq!(found, copy.path("vlm").canonicalize().unwrap());
}

/// A checkpoint that looks at four frames of each camera and at two sensors.
fn with_video_and_sensors() -> Copy {
    let copy = Copy::new();
    let config = r#""video": {"frames": 4, "every_n_layers": 2}, "sensors": {"channels": 2, "samples": 12, "tokens": 3},
        "n_obs_steps": 1"#;
    copy.replace("checkpoint/config.json", "\"n_obs_steps\": 1", config);
    let feature = r#""observation.sensors": {"type": "ENV", "shape": [12, 2]}, "observation.state": {"#;
    copy.replace("checkpoint/config.json", "\"observation.state\": {", feature);
    copy.replace("checkpoint/policy_preprocessor.json", "\"norm_map\": {", "\"norm_map\": {\"ENV\": \"MEAN_STD\",");
    let mut all = tensors(&copy.weights());
    all.push(("model.sensor_proj.weight".to_owned(), Tensor::f32(&[128, 8], |i| i as f32 / 1024.0)));
    all.push(("model.sensor_proj.bias".to_owned(), Tensor::f32(&[128], |_| 0.5)));
    common::write(&copy.weights(), &all);
    let statistics = copy.path("checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors");
    let mut all = tensors(&statistics);
    all.push(("observation.sensors.mean".to_owned(), Tensor::f32(&[2], |_| 0.25)));
    all.push(("observation.sensors.std".to_owned(), Tensor::f32(&[2], |_| 2.0)));
    common::write(&statistics, &all);
    copy
}

#[test]
fn a_checkpoint_says_how_it_looks_at_video_and_sensors() {
    let stock = Copy::new().open().unwrap();
    assert_eq!((stock.architecture().video, stock.architecture().sensors), (None, None));
    let checkpoint = with_video_and_sensors().open().unwrap();
    let architecture = checkpoint.architecture();
    assert_eq!(architecture.video, Some(Video { frames: 4, every_n_layers: 2 }));
    assert_eq!(architecture.sensors, Some(Sensors { channels: 2, samples: 12, tokens: 3 }));
    assert_eq!(architecture.sensors.unwrap().token_numbers(), 8);
}

#[test]
fn video_and_sensors_out_of_bounds_or_without_their_files_are_refused_by_name() {
    let config = "checkpoint/config.json";
    let cases = [
        (config, "\"frames\": 4", "\"frames\": 17", "video frames"),
        (config, "\"every_n_layers\": 2", "\"every_n_layers\": 3", "every_n_layers"),
        (config, "\"channels\": 2", "\"channels\": 257", "sensors channels"),
        (config, "\"channels\": 2", "\"channels\": 3", "[12, 3]"),
        (config, "\"samples\": 12", "\"samples\": 4097", "sensors samples"),
        (config, "\"tokens\": 3", "\"tokens\": 0", "sensors tokens"),
        (config, "\"tokens\": 3", "\"tokens\": 5", "12 sensor samples cannot make 5 tokens"),
        (config, "\"tokens\": 3", "\"tokens\": 4", "model.sensor_proj.weight is [128, 8], must be [128, 6]"),
        (config, "\"observation.sensors\"", "\"observation.force\"", "`observation.sensors` must be a feature"),
        ("checkpoint/policy_preprocessor.json", "\"ENV\": \"MEAN_STD\"", "\"ENV\": \"MIN_MAX\"", "MIN_MAX"),
    ];
    for (file, from, to, says) in cases {
        let copy = with_video_and_sensors();
        copy.replace(file, from, to);
        let message = copy.error();
        assert!(message.contains(says), "{message}");
    }
    let copy = with_video_and_sensors();
    copy.rewrite(|name, tensor| (name != "model.sensor_proj.bias").then(|| (name.to_owned(), tensor)));
    assert!(copy.error().contains("1 missing (model.sensor_proj.bias)"), "{}", copy.error());
    let copy = with_video_and_sensors();
    let statistics = copy.path("checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors");
    rewrite(&statistics, |name, tensor| (name != "observation.sensors.std").then(|| (name.to_owned(), tensor)));
    assert!(copy.error().contains("observation.sensors.std"), "{}", copy.error());
}
