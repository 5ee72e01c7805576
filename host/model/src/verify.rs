//! Runs a worked example of the reference implementation and says how far the numbers are apart.
//!
//! An example of actions is a folder with `checkpoint/`, `case.json` and `case.safetensors`: inputs, and what LeRobot made
//! of them. One of a model with video says in `case.json` how many `frames` each camera has, and its images have a dimension
//! more; one of a model with sensors has a tensor `sensors`. `training/make_fixture.py` lists all tensors. An example of text
//! is a SmolVLM's own folder with `case.safetensors` in it.

mod answers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::device::Device;
use crate::error::ModelError;
use crate::image::Image;
use crate::policy::{Noise, Policy, Query};

/// Largest absolute error of any tensor that still counts as agreement.
pub const TOLERANCE: f32 = 1e-3;

/// What came out of a worked example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// What ran it.
    pub device: String,
    /// Each tensor that the example pins down, in the order of the computation.
    pub tensors: Vec<TensorError>,
}

impl Verification {
    /// All tensors are within tolerance.
    pub fn passed(&self) -> bool {
        self.tensors.iter().all(TensorError::passed)
    }
}

/// How far one tensor is from the reference's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorError {
    /// Its name in the example.
    pub tensor: String,
    /// Largest absolute difference of any two numbers.
    pub max_abs_error: f32,
    /// Largest absolute number of the reference, to judge the error by.
    pub max_abs_reference: f32,
    /// Error that still counts as agreement.
    pub tolerance: f32,
}

impl TensorError {
    /// Within tolerance; not-a-number never is.
    pub fn passed(&self) -> bool {
        self.max_abs_error <= self.tolerance
    }
}

/// An example that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The checkpoint in it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file of the example.
    #[error("{}: {problem}. Make the example again with the script that made it", .path.display())]
    Example {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Case {
    task: String,
    /// Height and width.
    cameras: IndexMap<String, (u32, u32)>,
    /// Frames of each camera.
    #[serde(default = "one")]
    frames: usize,
}

fn one() -> usize {
    1
}

/// A tensor of this name and a number holds the actions for so many of each camera's newest frames.
const NEWEST: &str = "actions.newest_";

/// Runs the example in `folder` on `device`.
///
/// # Errors
/// If the example is not whole or cannot be run, or if its instruction becomes other tokens than the reference's. Numbers
/// that are too far apart are no error but the result.
pub fn verify(folder: &Path, device: Device) -> Result<Verification, VerifyError> {
    if answers::is_example(folder) {
        return answers::verify(folder, device);
    }
    let mut policy = Policy::new(&Checkpoint::open(&folder.join("checkpoint"))?, device)?;
    verify_policy(folder, &mut policy)
}

/// As [`verify`], with a policy that is loaded already.
///
/// # Errors
/// As [`verify`].
pub fn verify_policy(folder: &Path, policy: &mut Policy) -> Result<Verification, VerifyError> {
    let (query, expected) = Example::read(folder)?.parts()?;
    let trace = policy.trace(&query)?;
    if let Some(tokens) = expected.tokens.filter(|tokens| *tokens != trace.tokens) {
        let problem = format!("`{}` is tokens {tokens:?} there and {:?} here", query.instruction, trace.tokens);
        return Err(VerifyError::Example { path: folder.join("case.safetensors"), problem });
    }
    let cameras = policy.about().cameras.clone();
    let embeddings = trace.image_embeddings.iter().map(|(camera, numbers)| {
        let name = format!("image_embeds.{}", cameras[*camera]);
        (name, numbers.as_slice())
    });
    let rest = [
        ("velocity", trace.velocity.as_slice()),
        ("actions_normalized", trace.actions_normalized.as_slice()),
        ("actions", trace.actions.as_slice()),
    ];
    let mut fewer: Vec<(String, Vec<f32>)> = Vec::new();
    for name in expected.tensors.keys() {
        if let Some(newest) = name.strip_prefix(NEWEST).and_then(|frames| frames.parse().ok()) {
            fewer.push((name.clone(), policy.trace(&newest_frames(&query, newest))?.actions));
        }
    }
    let fewer = fewer.iter().map(|(name, numbers)| (name.clone(), numbers.as_slice()));
    let computed = embeddings.chain(rest.map(|(name, numbers)| (name.to_owned(), numbers))).chain(fewer);
    let compare = |(tensor, found): (String, &[f32])| {
        let problem = match expected.tensors.get(&tensor) {
            Some(reference) if reference.len() == found.len() => return Ok(compare(tensor, found, reference)),
            Some(reference) => format!("`{tensor}` has {} numbers, computed were {}", reference.len(), found.len()),
            None => format!("no tensor `{tensor}`"),
        };
        Err(VerifyError::Example { path: folder.join("case.safetensors"), problem })
    };
    let tensors = computed.map(compare).collect::<Result<_, _>>()?;
    Ok(Verification { device: policy.about().device.clone(), tensors })
}

fn compare(tensor: String, found: &[f32], reference: &[f32]) -> TensorError {
    // `f32::max` would drop a NaN, which is the worst error there is.
    let worst = |worst: f32, error: f32| if worst.is_nan() || error <= worst { worst } else { error };
    let errors = found.iter().zip(reference).map(|(a, b)| (a - b).abs());
    TensorError {
        tensor,
        max_abs_error: errors.fold(0.0, worst),
        max_abs_reference: reference.iter().map(|x| x.abs()).fold(0.0, f32::max),
        tolerance: TOLERANCE,
    }
}

/// The query with only so many of each camera's newest frames.
fn newest_frames(query: &Query, frames: usize) -> Query {
    let mut images: Vec<(String, Image)> = Vec::new();
    for (camera, image) in query.images.iter().rev() {
        if images.iter().filter(|(other, _)| other == camera).count() < frames {
            images.push((camera.clone(), image.clone()));
        }
    }
    images.reverse();
    Query { images, ..query.clone() }
}

/// The two files of an example, as they lie there.
struct Example {
    folder: PathBuf,
    case: Vec<u8>,
    tensors: Vec<u8>,
}

/// What the reference made of the inputs.
struct Expected {
    tokens: Option<Vec<u32>>,
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Example {
    fn read(folder: &Path) -> Result<Self, VerifyError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|cause| VerifyError::Example { path, problem: cause.to_string() })
        };
        Ok(Self { folder: folder.to_owned(), case: read("case.json")?, tensors: read("case.safetensors")? })
    }

    fn parts(&self) -> Result<(Query, Expected), VerifyError> {
        let fail = |file: &str, problem: String| VerifyError::Example { path: self.folder.join(file), problem };
        let case: Case = serde_json::from_slice(&self.case).map_err(|cause| fail("case.json", cause.to_string()))?;
        let broken = |problem: String| fail("case.safetensors", problem);
        let file = SafeTensors::deserialize(&self.tensors).map_err(|cause| broken(cause.to_string()))?;

        let mut images = Vec::new();
        for (camera, (height, width)) in case.cameras {
            let name = format!("image.{camera}");
            let bytes = file.tensor(&name).map_err(|cause| broken(cause.to_string()))?.data();
            let frame_bytes = bytes.len() / case.frames.max(1);
            if frame_bytes == 0 || frame_bytes * case.frames != bytes.len() {
                return Err(broken(format!(
                    "`{name}` has {} bytes, which are not {} frames",
                    bytes.len(),
                    case.frames
                )));
            }
            for frame in bytes.chunks_exact(frame_bytes) {
                let image = Image::new(width, height, frame.to_vec()).map_err(|cause| broken(cause.to_string()))?;
                images.push((camera.clone(), image));
            }
        }
        let mut tensors = BTreeMap::new();
        for (name, tensor) in file.tensors().into_iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32) {
            tensors.insert(name, tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
        }
        let sensors = tensors.remove("sensors").unwrap_or_default();
        let mut input = |name: &str| tensors.remove(name).ok_or_else(|| broken(format!("no f32 tensor `{name}`")));
        let query = Query {
            instruction: case.task,
            images,
            state: input("state")?,
            sensors,
            noise: Noise::Given(input("noise")?),
        };
        Ok((query, Expected { tokens: tokens(&file), tensors }))
    }
}

/// The example's tokens without padding, if it has them.
fn tokens(file: &SafeTensors) -> Option<Vec<u32>> {
    let (tokens, mask) = (file.tensor("tokens").ok()?, file.tensor("token_mask").ok()?);
    let (numbers, _) = tokens.data().as_chunks();
    let number = |bytes: &[u8; 8]| u32::try_from(i64::from_le_bytes(*bytes)).ok();
    numbers.iter().zip(mask.data()).filter(|(_, seen)| **seen != 0).map(|(bytes, _)| number(bytes)).collect()
}
