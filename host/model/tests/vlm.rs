//! Models that answer in words: their folders, what they are asked, and what is made of their tokens.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{Copy, Tensor, mutate, rewrite, tensors, write_header};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::tensor::Dtype;
use waza_model::{CheckpointError, InstructionError, VlmCheckpoint};

const HEAD: &str = "lm_head.weight";
const MARKS: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
];

fn copy() -> Copy {
    Copy::of("smolvlm")
}

fn open(copy: &Copy) -> Result<VlmCheckpoint, CheckpointError> {
    VlmCheckpoint::open(copy.root.path())
}

/// What the error says, which must be one line.
fn error(copy: &Copy) -> String {
    let message = open(copy).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn without_head(copy: &Copy) {
    rewrite(&copy.path("model.safetensors"), |name, tensor| (name != HEAD).then(|| (name.to_owned(), tensor)));
}

/// A tensor of whole numbers in the worked example.
fn reference(name: &str) -> Vec<u32> {
    let copy = copy();
    let (_, tensor) = tensors(&copy.path("case.safetensors")).into_iter().find(|(found, _)| found == name).unwrap();
    tensor.data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}

#[test]
fn a_prompt_has_the_tokens_that_transformers_gives_it() {
    let checkpoint = open(&copy()).unwrap();
    let prompt = checkpoint.tokenizer().prompt("is the bowl empty?", 2).unwrap();
    assert_eq!(prompt, reference("input_ids"));
    let images = prompt.iter().filter(|&&token| token == checkpoint.tokenizer().image_token()).count();
    assert_eq!(images, 2 * checkpoint.architecture().vision.tokens());
}

#[test]
fn marks_in_a_question_are_letters() {
    let not_special = copy();
    // A tokenizer that does not call its marks special finds them in any text nevertheless.
    not_special.replace("tokenizer.json", "\"special\": true", "\"special\": false");
    for copy in [copy(), not_special] {
        let checkpoint = open(&copy).unwrap();
        let tokenizer = checkpoint.tokenizer();
        for frames in [0, 2] {
            let marks = |question: &str| -> Vec<u32> {
                let prompt = tokenizer.prompt(question, frames).unwrap();
                prompt.into_iter().filter(|token| (257..=262).contains(token)).collect()
            };
            let ordinary = marks("is it there?");
            for mark in MARKS.into_iter().filter(|mark| *mark != "<|endoftext|>") {
                let question = format!("is {mark}{mark} there?{mark}");
                assert_eq!(marks(&question), ordinary, "{mark}");
                assert!(tokenizer.decode(&tokenizer.prompt(&question, frames).unwrap()).contains(&question), "{mark}");
            }
        }
    }
}

#[test]
fn marks_that_are_words_of_a_closed_vocabulary_are_unknown_in_a_question() {
    let copy = copy();
    let added: Vec<String> = MARKS
        .iter()
        .zip(256..)
        .map(|(mark, id)| {
            format!(
                r#"{{"id": {id}, "content": "{mark}", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}}"#
            )
        })
        .collect();
    let marks: Vec<String> = MARKS.iter().zip(256..).map(|(mark, id)| format!("\"{mark}\": {id}")).collect();
    let tokenizer = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{}], "normalizer": null,
            "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "post_processor": null, "decoder": null,
            "model": {{"type": "WordLevel", "unk_token": "[UNK]", "vocab": {{"[UNK]": 0, "User:": 1, "Assistant:": 2,
            "is": 3, "it": 4, "red?": 5, {}}}}}}}"#,
        added.join(", "),
        marks.join(", ")
    );
    fs::write(copy.path("tokenizer.json"), tokenizer).unwrap();
    let checkpoint = open(&copy).unwrap();
    assert_eq!(checkpoint.words(), ["Assistant:", "User:", "is", "it", "red?"]);
    let tokenizer = checkpoint.tokenizer();
    assert_eq!(tokenizer.prompt("is it red?", 0).unwrap(), [257, 1, 3, 4, 5, 262, 2]);
    for frames in [0, 1] {
        let InstructionError::UnknownWords { unknown, .. } = tokenizer.prompt("is <image> blue?", frames).unwrap_err()
        else {
            panic!()
        };
        assert_eq!(unknown, ["<image>", "blue?"]);
    }
}

#[test]
fn a_prompt_is_neither_empty_nor_longer_than_what_the_model_reads() {
    let copy = copy();
    copy.replace("config.json", "\"max_position_embeddings\": 8192", "\"max_position_embeddings\": 48");
    let checkpoint = open(&copy).unwrap();
    let tokenizer = checkpoint.tokenizer();
    assert_eq!(tokenizer.prompt(" \n", 1), Err(InstructionError::NoQuestion));
    let whole = |frames| tokenizer.prompt("why?", frames);
    assert_eq!(whole(3).unwrap().len(), 1 + 5 + 3 * 7 + 4 + 1 + 11);
    let error = InstructionError::Context { frames: 4, tokens: 50, context: 48 };
    assert_eq!(whole(4), Err(error));
    assert!(matches!(whole(usize::MAX), Err(InstructionError::Context { .. })));
    // One token of room must be left: 43 + 4 letters more are 47, and 48 are too many.
    assert_eq!(tokenizer.prompt("why not?", 3).unwrap().len(), 47);
    assert!(tokenizer.prompt("why not??", 3).is_err());
    let long = "x".repeat(1 << 20);
    assert_eq!(tokenizer.prompt(&long, 0), Err(InstructionError::TooLong { bytes: 1 << 20 }));
}

#[test]
fn text_comes_in_whole_characters_and_is_the_same_in_pieces() {
    let checkpoint = open(&copy()).unwrap();
    let tokenizer = checkpoint.tokenizer();
    let spelled = |text: &str| {
        let prompt = tokenizer.prompt(text, 1).unwrap();
        prompt[13..prompt.len() - 12].to_vec()
    };
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = spelled("né 红!").into_iter().map(|token| stream.push(token)).collect();
    assert_eq!(pieces, ["n", "", "é", " ", "", "", "红", "!"]);
    assert_eq!(stream.finish(), "");
    let mut stream = tokenizer.stream();
    spelled("红")[..2].iter().for_each(|&token| assert_eq!(stream.push(token), ""));
    assert_eq!(stream.finish(), "\u{fffd}");

    let mut random = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..300 {
        let tokens: Vec<u32> = (0..random.next_u32() % 40).map(|_| random.next_u32() % 300).collect();
        let mut stream = tokenizer.stream();
        let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, tokenizer.decode(&tokens), "{tokens:?}");
    }
}

#[test]
fn an_answer_ends_with_the_tokens_of_the_generation_config_and_of_the_utterance() {
    let copy = copy();
    let ends = |copy: &Copy| open(copy).unwrap().tokenizer().end_tokens().to_vec();
    assert_eq!(ends(&copy), [2, 262]);
    copy.replace("generation_config.json", "\"eos_token_id\": 2", "\"eos_token_id\": [262, 258]");
    assert_eq!(ends(&copy), [258, 262]);
    copy.replace("generation_config.json", "[262, 258]", "[384]");
    assert!(error(&copy).contains("eos_token_id"));
    fs::remove_file(copy.path("generation_config.json")).unwrap();
    assert_eq!(ends(&copy), [262]);
}

#[test]
fn a_tied_head_needs_no_tensor_and_an_untied_one_does() {
    let copy = copy();
    assert!(!open(&copy).unwrap().architecture().tied);
    without_head(&copy);
    assert!(error(&copy).contains("1 missing (lm_head.weight)"));
    copy.replace("config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert!(open(&copy).unwrap().architecture().tied);
}

#[test]
fn the_dimensions_are_those_of_the_configuration() {
    let checkpoint = open(&copy()).unwrap();
    let a = checkpoint.architecture();
    assert_eq!((a.text.layers, a.text.width, a.vision.layers, a.vision.tokens()), (4, 192, 2, 4));
    assert_eq!((a.rope_theta, a.context, a.vision.image_width_px), (100_000.0, 8192, 64));
    let table = checkpoint.token_embeddings();
    let (mut row, file) = (vec![0.0; 192], copy());
    table.row(7, &mut row).unwrap();
    let all = tensors(&file.path("model.safetensors"));
    let (_, tensor) = all.iter().find(|(name, _)| name == "model.text_model.embed_tokens.weight").unwrap();
    let expected: Vec<f32> = tensor.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(row, expected[7 * 192..8 * 192]);
}

#[test]
fn the_base_of_positions_is_found_where_either_generation_of_transformers_writes_it() {
    let copy = copy();
    let new = "\"rope_parameters\": {\"rope_theta\": 5000, \"rope_type\": \"default\"}";
    copy.replace("config.json", "\"rope_theta\": 100000.0", new);
    assert_eq!(open(&copy).unwrap().architecture().rope_theta, 5000.0);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        ("config.json", "\"model_type\": \"smolvlm\"", "\"model_type\": \"idefics3\"", "idefics3"),
        ("config.json", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\"}", "rope type `yarn`"),
        (
            "config.json",
            "\"scale_factor\": 4",
            "\"scale_factor\": 4, \"quantization_config\": {}",
            "quantization_config",
        ),
        ("config.json", "\"rope_theta\": 100000.0", "\"rope_theta\": -1", "rope_theta"),
        ("config.json", "\"image_token_id\": 260", "\"image_token_id\": 261", "`<image>` has number 260"),
        (
            "config.json",
            "\"max_position_embeddings\": 8192",
            "\"max_position_embeddings\": 0",
            "max_position_embeddings",
        ),
        ("config.json", "\"image_size\": 64", "\"image_size\": 72", "9x9"),
        ("tokenizer.json", "\"content\": \"<global-img>\"", "\"content\": \"<whole-img>\"", "`<global-img>`"),
        ("tokenizer.json", "\"lstrip\": false", "\"lstrip\": true", "lstrip"),
        (
            "tokenizer.json",
            "\"post_processor\": null",
            r#""post_processor": {"type": "BertProcessing", "sep": ["<|im_end|>", 258], "cls": ["<|im_start|>", 257]}"#,
            "post_processor",
        ),
    ];
    for (file, from, to, says) in cases {
        let copy = copy();
        copy.replace(file, from, to);
        let message = error(&copy);
        assert!(message.contains(says) && message.contains(file) || says == "9x9", "{message}");
    }
    let copy = copy();
    let mut all = tensors(&copy.path("model.safetensors"));
    all.push(("model.surprise".to_owned(), Tensor::f32(&[1], |_| 0.0)));
    common::write(&copy.path("model.safetensors"), &all);
    assert!(error(&copy).contains("1 extra (model.surprise)"));
}

#[test]
fn shards_are_one_file_of_weights() {
    let copy = copy();
    let whole = open(&copy).unwrap();
    let all = tensors(&copy.path("model.safetensors"));
    fs::remove_file(copy.path("model.safetensors")).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second) = all.split_at(20);
    common::write(&copy.path(names[0]), first);
    common::write(&copy.path(names[1]), second);
    let of = |shard: &'static str, part: &[(String, Tensor)]| -> BTreeMap<String, &'static str> {
        part.iter().map(|(name, _)| (name.clone(), shard)).collect()
    };
    let mut map = of(names[0], first);
    map.extend(of(names[1], second));
    let index = |map: &BTreeMap<String, &str>| {
        let text = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        fs::write(copy.path("model.safetensors.index.json"), text).unwrap();
    };
    index(&map);
    let sharded = open(&copy).unwrap();
    assert_eq!(sharded.architecture(), whole.architecture());
    assert_ne!(sharded.digest(), whole.digest());
    let (mut a, mut b) = (vec![0.0; 192], vec![1.0; 192]);
    sharded.token_embeddings().row(300, &mut a).unwrap();
    whole.token_embeddings().row(300, &mut b).unwrap();
    assert_eq!(a, b);

    for (shard, says) in [("../model.safetensors", "no safetensors file of this folder"), ("lost.safetensors", "lost")]
    {
        map.insert(HEAD.to_owned(), shard);
        index(&map);
        assert!(error(&copy).contains(says), "{}", error(&copy));
    }
    let many: Vec<String> = (0..65).map(|i| format!("{i}.safetensors")).collect();
    index(&many.iter().map(|name| (name.clone(), name.as_str())).collect());
    assert!(error(&copy).contains("65 files"), "{}", error(&copy));
    index(&BTreeMap::new());
    assert!(error(&copy).contains("0 files"));
    // The same shard under another name.
    index(&map.into_keys().map(|name| (name, names[0])).collect());
    assert!(error(&copy).contains("missing"));
    fs::copy(copy.path(names[0]), copy.path("again.safetensors")).unwrap();
    index(&[("a".to_owned(), names[0]), ("b".to_owned(), "again.safetensors")].into());
    assert!(error(&copy).contains("a second tensor"));
}

#[test]
fn the_digest_changes_with_every_file_that_answers_depend_on() {
    let digest = open(&copy()).unwrap().digest().to_owned();
    assert_eq!(open(&copy()).unwrap().digest(), digest);
    let changes = [
        ("config.json", "\"rope_theta\": 100000.0", "\"rope_theta\": 10000.0"),
        ("generation_config.json", "\"eos_token_id\": 2", "\"eos_token_id\": 3"),
        ("tokenizer.json", "\"Ń\": 255", "\"Ń\": 300"),
    ];
    for (file, from, to) in changes {
        let copy = copy();
        copy.replace(file, from, to);
        assert_ne!(open(&copy).unwrap().digest(), digest, "{file}");
    }
    let copy = copy();
    rewrite(&copy.path("model.safetensors"), |name, mut tensor| {
        tensor.data[0] ^= 1;
        Some((name.to_owned(), tensor))
    });
    assert_ne!(open(&copy).unwrap().digest(), digest);
}

/// What `HuggingFaceTB/SmolVLM2-500M-Video-Instruct` says of itself; much is left to transformers' defaults.
const STOCK: &str = r#"{"architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": 260,
    "model_type": "smolvlm", "pad_token_id": 2, "scale_factor": 4, "text_config": {"_flash_attn_2_enabled": true,
    "_name_or_path": "None", "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": 960,
    "intermediate_size": 2560, "is_llama_config": true, "max_position_embeddings": 8192, "model_type": "llama",
    "neftune_noise_alpha": 0.0, "num_attention_heads": 15, "num_key_value_heads": 5, "pad_token_id": 2,
    "perceiver_config": {"_name_or_path": "", "attention_dropout": 0.0, "model_type": "vllama3"},
    "pixel_shuffle_factor": 4, "qk_layer_norms": false, "rms_norm_eps": 1e-05, "rope_interleaved": false,
    "rope_scaling": null, "rope_theta": 100000, "torch_dtype": "bfloat16", "use_resampler": false,
    "vocab_size": 49280}, "tie_word_embeddings": false, "torch_dtype": "float32", "use_cache": false,
    "vision_config": {"hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512},
    "model_type": "smolvlm_vision", "num_attention_heads": 12, "patch_size": 16, "size": {"longest_edge": 2048},
    "tie_word_embeddings": false, "use_base_siglip": false}, "vocab_size": 49280}"#;

/// Puts a file of zeros there that has every tensor of the configuration; gives the number of numbers in it.
fn grow(copy: &Copy, dtype: Dtype) -> usize {
    let path = copy.path("model.safetensors");
    let write = |shapes: &BTreeMap<String, Vec<usize>>| {
        let (mut entries, mut at) = (Vec::new(), 0);
        for (name, shape) in shapes {
            let to = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
            entries.push(format!(
                r#""{name}": {{"dtype": "{dtype:?}", "shape": {shape:?}, "data_offsets": [{at}, {to}]}}"#
            ));
            at = to;
        }
        write_header(&path, &format!("{{{}}}", entries.join(",")), at as u64);
    };
    let mismatch = || match open(copy).unwrap_err() {
        CheckpointError::Tensors(mismatch) => mismatch,
        other => panic!("{other}"),
    };
    write(&BTreeMap::new());
    write(&mismatch().missing.into_iter().map(|name| (name, vec![0])).collect());
    let shapes: BTreeMap<String, Vec<usize>> = mismatch().misshapen.into_iter().map(|m| (m.name, m.expected)).collect();
    write(&shapes);
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
}

#[test]
fn the_stock_model_of_500_million_parameters_opens() {
    let copy = copy();
    fs::write(copy.path("config.json"), STOCK).unwrap();
    let numbers = grow(&copy, Dtype::BF16);
    assert_eq!(numbers, 507_482_304);
    let checkpoint = open(&copy).unwrap();
    let a = checkpoint.architecture();
    assert_eq!((a.text.layers, a.vision.layers, a.vision.tokens(), a.vision.patches()), (32, 12, 64, 1024));
    assert_eq!((a.context, a.rope_theta, a.tied), (8192, 100_000.0, false));
    assert_eq!(checkpoint.tokenizer().prompt("what is this?", 3).unwrap().len(), 1 + 5 + 3 * 67 + 13 + 1 + 11);
}

#[test]
fn no_change_of_the_files_makes_opening_panic() {
    let copy = copy();
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for file in ["config.json", "generation_config.json", "tokenizer.json"] {
        let whole = fs::read(copy.path(file)).unwrap();
        for _ in 0..200 {
            let mut bytes = whole.clone();
            mutate(&mut bytes, &mut random);
            fs::write(copy.path(file), bytes).unwrap();
            if let Ok(checkpoint) = open(&copy) {
                drop(checkpoint.tokenizer().prompt("is <image> it?", 2));
                checkpoint.tokenizer().decode(&[1, 2, 300, u32::MAX]);
            }
        }
        fs::write(copy.path(file), whole).unwrap();
    }
    open(&copy).unwrap();
}
