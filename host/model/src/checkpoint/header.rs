//! The header of a safetensors file: what is in it and where.
//!
//! Read here and not by the `safetensors` crate, whose sum of offsets may wrap around and then lets a tensor lie outside the
//! file (version 0.8; debug builds panic instead).

use std::collections::HashMap;
use std::ops::Range;

use safetensors::Dtype;
use serde::Deserialize;

/// Largest header that is read, bytes. That of a model with 450 million parameters has 0.1 MB.
const LARGEST_HEADER: u64 = 16 << 20;

/// Where the tensors of a file are, all of them inside the file.
#[derive(Debug)]
pub(crate) struct Header {
    /// By name.
    pub tensors: HashMap<String, TensorPlace>,
    /// What the file says besides.
    pub metadata: HashMap<String, String>,
}

/// One tensor of a file. Its shape and type say as many bytes as it has.
#[derive(Clone, Debug)]
pub(crate) struct TensorPlace {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Counted from the beginning of the file.
    pub bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "__metadata__")]
    metadata: HashMap<String, String>,
    #[serde(flatten)]
    tensors: HashMap<String, RawTensor>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Header {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let broken = |problem: &str| format!("not a whole safetensors file: {problem}");
        let Some((length, rest)) = file.split_first_chunk() else {
            return Err(broken("it is too short"));
        };
        let length = u64::from_le_bytes(*length);
        if length > LARGEST_HEADER {
            return Err(broken(&format!("a header of {length} bytes, and at most {LARGEST_HEADER} are read")));
        }
        let Some((header, data)) = rest.split_at_checked(length as usize) else {
            return Err(broken("it ends within its header"));
        };
        let raw: Raw = serde_json::from_slice(header).map_err(|cause| broken(&cause.to_string()))?;
        let begin = file.len() - data.len();
        let place = |(name, tensor): (String, RawTensor)| {
            let (from, to) = tensor.data_offsets;
            let numbers = tensor.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
            let bits = numbers.and_then(|numbers| numbers.checked_mul(tensor.dtype.bitsize()));
            let fits =
                from <= to && to <= data.len() && bits.is_some_and(|bits| Some(bits) == (to - from).checked_mul(8));
            if !fits {
                let name: String = name.chars().take(200).collect();
                return Err(broken(&format!("`{name}` cannot be at {from}..{to} of {} bytes", data.len())));
            }
            let bytes = begin + from..begin + to;
            Ok((name, TensorPlace { dtype: tensor.dtype, shape: tensor.shape, bytes }))
        };
        let tensors: HashMap<String, TensorPlace> = raw.tensors.into_iter().map(place).collect::<Result<_, _>>()?;
        Self::check_cover(&tensors, begin, file.len()).map_err(|problem| broken(&problem))?;
        Ok(Self { tensors, metadata: raw.metadata })
    }

    /// The format leaves no gaps and shares no bytes: a file that does was cut, or made to be read in two ways.
    fn check_cover(tensors: &HashMap<String, TensorPlace>, begin: usize, end: usize) -> Result<(), String> {
        let mut places: Vec<&Range<usize>> = tensors.values().map(|tensor| &tensor.bytes).collect();
        places.sort_by_key(|bytes| (bytes.start, bytes.end));
        let mut at = begin;
        for bytes in places {
            if bytes.start != at {
                return Err(format!("its tensors do not follow each other at byte {at}"));
            }
            at = bytes.end;
        }
        if at == end { Ok(()) } else { Err(format!("its tensors end at byte {at} of {end}")) }
    }
}
