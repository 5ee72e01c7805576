//! Worked examples of text: a SmolVLM's folder with `case.safetensors` in it, as transformers computed it.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{TensorError, Verification, VerifyError, compare};
use crate::checkpoint::VlmCheckpoint;
use crate::device::Device;
use crate::vlm::Vlm;

/// Largest absolute error of a logit that still counts as agreement.
pub const LOGIT_TOLERANCE: f32 = 2e-3;

const CASE: &str = "case.safetensors";

/// Whether `folder` is an example of this kind.
pub(super) fn is_example(folder: &Path) -> bool {
    !folder.join("checkpoint").exists() && folder.join("config.json").exists()
}

pub(super) fn verify(folder: &Path, device: Device) -> Result<Verification, VerifyError> {
    let path = folder.join(CASE);
    let broken = |problem: String| VerifyError::Example { path: path.clone(), problem };
    let bytes = std::fs::read(&path).map_err(|cause| broken(cause.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|cause| broken(cause.to_string()))?;
    let tensor = |name: &str, dtype: Dtype| {
        let tensor = file.tensor(name).map_err(|cause| broken(format!("`{name}`: {cause}")))?;
        if tensor.dtype() == dtype { Ok(tensor) } else { Err(broken(format!("`{name}` is not {dtype:?}"))) }
    };
    let singles = |name: &str| {
        let tensor = tensor(name, Dtype::F32)?;
        let numbers = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Ok::<_, VerifyError>((tensor.shape().to_vec(), numbers.collect::<Vec<f32>>()))
    };
    let tokens = |name: &str| {
        let tensor = tensor(name, Dtype::I64)?;
        let number = |bytes: &[u8; 8]| u32::try_from(i64::from_le_bytes(*bytes)).ok();
        let numbers: Option<Vec<u32>> = tensor.data().as_chunks().0.iter().map(number).collect();
        numbers.ok_or_else(|| broken(format!("`{name}` holds numbers that are no tokens")))
    };

    let checkpoint = VlmCheckpoint::open(folder)?;
    let vision = &checkpoint.architecture().vision;
    let frame = [vision.channels, vision.image_height_px, vision.image_width_px];
    let (shape, pixels) = singles("pixel_values")?;
    if shape.len() != 5 || shape[2..] != frame {
        return Err(broken(format!("`pixel_values` is {shape:?}, must be [1, frames, {frame:?}]")));
    }
    let (prompt, logits, generated) = (tokens("input_ids")?, singles("logits")?.1, tokens("generated")?);
    let (rows, known) = (prompt.len() + generated.len(), checkpoint.architecture());
    if prompt.is_empty() || rows > known.context || prompt.iter().any(|&token| token as usize >= known.text.vocabulary)
    {
        return Err(broken("`input_ids` is no prompt of this model".to_owned()));
    }
    let images = prompt.iter().filter(|token| **token == checkpoint.tokenizer().image_token()).count();
    if images != shape[1] * vision.tokens() {
        return Err(broken(format!("`input_ids` has room for {images} image tokens, {} frames have others", shape[1])));
    }
    if logits.len() != known.text.vocabulary {
        return Err(broken(format!("`logits` has {} numbers, the model {}", logits.len(), known.text.vocabulary)));
    }

    let mut vlm = Vlm::new(&checkpoint, device)?;
    let frames: Vec<Vec<f32>> = pixels.chunks(frame.iter().product()).map(<[f32]>::to_vec).collect();
    let (found, made) = vlm.trace(&prompt, &frames, generated.len())?;
    let differing = made.iter().zip(&generated).filter(|(found, wanted)| found != wanted).count();
    let tensors = vec![
        TensorError { tolerance: LOGIT_TOLERANCE, ..compare("logits".to_owned(), &found, &logits) },
        // Tokens are equal or not: the error counts those that are not.
        TensorError {
            tensor: "generated".to_owned(),
            max_abs_error: differing as f32,
            max_abs_reference: generated.iter().copied().max().unwrap_or(0) as f32,
            tolerance: 0.0,
        },
    ];
    Ok(Verification { device: vlm.about().device.clone(), tensors })
}
