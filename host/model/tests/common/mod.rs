//! Copies of worked examples that a test may break.

#![allow(dead_code)] // each test file uses its share

mod copy;

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tempfile::TempDir;

use copy::copy;

pub struct Copy {
    pub root: TempDir,
}

impl Copy {
    /// Of an example among the fixtures.
    pub fn of(example: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(example), root.path());
        Self { root }
    }

    /// Of the bundled checkpoint.
    pub fn bundled() -> Self {
        let root = tempfile::tempdir().unwrap();
        copy(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tabletop"), root.path());
        Self { root }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

#[derive(Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn f32(shape: &[usize], number: impl Fn(usize) -> f32) -> Self {
        let data = (0..shape.iter().product()).flat_map(|i| number(i).to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), data }
    }

    /// Its numbers, of F32.
    pub fn numbers(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Its numbers in another format.
    pub fn to(self, dtype: Dtype) -> Self {
        assert_eq!(self.dtype, Dtype::F32);
        let numbers = self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        let data = match dtype {
            Dtype::F16 => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            _ => self.data,
        };
        Self { dtype, data, ..self }
    }
}

pub fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of =
        |view: TensorView| Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
    file.iter().map(|(name, view)| (name.to_owned(), of(view))).collect()
}

pub fn write(path: &Path, tensors: &[(String, Tensor)]) {
    let views = tensors.iter().map(|(n, t)| (n, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// Rewrites a file of tensors, one by one: a new name, shape, type and bytes, or nothing.
pub fn rewrite(path: &Path, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let changed: Vec<_> = tensors(path).into_iter().filter_map(|(name, tensor)| change(&name, tensor)).collect();
    write(path, &changed);
}

/// A tensor file with this header, and as many bytes after it as the offsets in it may ask for.
pub fn write_header(path: &Path, header: &str, data: u64) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Nothing is written there: the file system keeps a hole.
    let end = file.stream_position().unwrap();
    file.set_len(end + data).unwrap();
}

/// Breaks a file in a way that no program would, often leaving it readable.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    const NASTY: [&str; 14] = [
        "-1",
        "0",
        "1e308",
        "18446744073709551615",
        "9223372036854775808",
        "4294967295",
        "null",
        "[]",
        "{}",
        "\"\"",
        "true",
        "[[[[[[[[",
        "\u{0}",
        "0.5",
    ];
    let mut below = |n: usize| random.next_u64() as usize % n.max(1);
    let at = below(bytes.len());
    match below(6) {
        0 => bytes[at] = below(256) as u8,
        1 => drop(bytes.drain(at..(at + below(40)).min(bytes.len()))),
        2 => {
            let piece = bytes[at..(at + below(60)).min(bytes.len())].to_vec();
            let to = below(bytes.len());
            bytes.splice(to..to, piece);
        }
        // A number, or whatever stands where one could, becomes another.
        _ => {
            let digit = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |found| at + found);
            let end =
                bytes[digit..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |found| digit + found);
            bytes.splice(digit..end, NASTY[below(NASTY.len())].bytes());
        }
    }
}
