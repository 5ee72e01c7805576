//! `model.safetensors`, memory-mapped.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};

use super::error::{CheckpointError, Misshapen, TensorMismatch};
use crate::architecture::Architecture;
use crate::plan::{Numbers, Pick, Weight, WeightSource};
use crate::tensors::{is_cut_off, tensors};

const RESAVE: &str = "Save or download the checkpoint again";

/// A weight file whose tensors fit the network.
#[derive(Debug)]
pub(crate) struct WeightFile {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
    /// By the names that the network uses.
    tensors: HashMap<String, TensorInfo>,
}

impl WeightFile {
    pub fn open(path: &Path, architecture: &Architecture) -> Result<Self, CheckpointError> {
        let fail =
            |cause| CheckpointError::Read { path: path.to_owned(), cause, hint: "Save the checkpoint with LeRobot" };
        let file = File::open(path).map_err(fail)?;
        // SAFETY: the map is only read. Whoever shortens the file while it is served ends the process with SIGBUS, as
        // with every mapped model file; checkpoints are replaced, not edited.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        let (data, tensors) = parse(&map, path)?;
        let file = Self { path: path.to_owned(), map, data, tensors };
        file.check(architecture)?;
        Ok(file)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lists everything that does not fit, not only the first.
    fn check(&self, architecture: &Architecture) -> Result<(), TensorMismatch> {
        let mut mismatch = TensorMismatch { path: self.path.clone(), ..TensorMismatch::default() };
        let table = tensors(architecture);
        for expected in &table {
            match self.tensors.get(&expected.name) {
                Some(found) if found.shape == expected.shape => {}
                Some(found) => mismatch.misshapen.push(Misshapen {
                    name: expected.name.clone(),
                    found: found.shape.clone(),
                    expected: expected.shape.clone(),
                }),
                None if expected.used => mismatch.missing.push(expected.name.clone()),
                None => {}
            }
        }
        let known: std::collections::HashSet<&str> = table.iter().map(|t| t.name.as_str()).collect();
        let stray = |name: &&String| !known.contains(name.as_str()) && !is_cut_off(name, architecture);
        mismatch.extra = self.tensors.keys().filter(stray).cloned().collect();
        mismatch.extra.sort();
        if mismatch.is_empty() { Ok(()) } else { Err(mismatch) }
    }

    /// A tensor's numbers.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let Some(info) = self.tensors.get(name) else {
            return Err(CheckpointError::invalid(&self.path, format!("no tensor `{name}`"), RESAVE));
        };
        let bytes = &self.map[self.data + info.data_offsets.0..self.data + info.data_offsets.1];
        let numbers: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                let what = format!("`{name}` of type {other:?}");
                return Err(CheckpointError::unsupported(&self.path, what, "Save the weights in F32, F16 or BF16"));
            }
        };
        if let Some(number) = numbers.iter().find(|n| !n.is_finite()) {
            let problem = format!("`{name}` holds {number}");
            return Err(CheckpointError::invalid(
                &self.path,
                problem,
                "The training run diverged; take an earlier step",
            ));
        }
        Ok(numbers)
    }
}

/// Where the data begins and what tensors there are, from the bytes of a safetensors file. Names lose the `_orig_mod.` of
/// compiled models, and tensors that were saved once because two names shared them are found under both.
fn parse(bytes: &[u8], path: &Path) -> Result<(usize, HashMap<String, TensorInfo>), CheckpointError> {
    let broken = |cause| CheckpointError::invalid(path, format!("not a whole safetensors file: {cause}"), RESAVE);
    SafeTensors::deserialize(bytes).map_err(broken)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let clean = |name: &str| name.replace("_orig_mod.", "");
    let mut tensors: HashMap<String, TensorInfo> =
        metadata.tensors().into_iter().map(|(name, info)| (clean(&name), info.clone())).collect();
    for (name, same_as) in metadata.metadata().iter().flatten() {
        if let Some(info) = tensors.get(&clean(same_as)).cloned() {
            tensors.entry(clean(name)).or_insert(info);
        }
    }
    // The header's own length takes the first eight bytes.
    Ok((header + 8, tensors))
}

impl WeightSource for WeightFile {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        let mut numbers = Vec::with_capacity(weight.rows * weight.columns);
        for name in &weight.tensors {
            let tensor = self.tensor(name)?;
            // A vector is one row; of a convolution's weight all dimensions but the first are columns.
            let shape = &self.tensors[name].shape;
            let columns = if shape.len() < 2 { tensor.len() } else { shape[1..].iter().product() };
            let row = |index: usize| &tensor[index * columns..][weight.take.clone()];
            match &weight.pick {
                Pick::Gather(rows) => rows.iter().for_each(|&r| numbers.extend_from_slice(row(r as usize))),
                Pick::Range(rows) => rows.clone().for_each(|r| numbers.extend_from_slice(row(r))),
                Pick::All => (0..tensor.len() / columns).for_each(|r| numbers.extend_from_slice(row(r))),
            }
        }
        debug_assert_eq!(numbers.len(), weight.rows * weight.columns);
        Ok(Numbers::F32(numbers))
    }
}
