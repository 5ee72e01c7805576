//! `model.safetensors`, or the shards that its index names, memory-mapped.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::{CheckpointError, Misshapen, TensorMismatch};
use super::header::{Header, TensorPlace};
use super::{is_pointer, parse, read};
use crate::plan::{Numbers, Pick, Weight};
use crate::tensors::Tensor;

const RESAVE: &str = "Save or download the checkpoint again";
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Most files that the weights may be spread over.
const MOST_SHARDS: usize = 64;

/// Where an executor gets the content of a weight: a checkpoint, or random numbers for tests and benchmarks.
pub trait WeightSource {
    /// The `rows * columns` numbers of a weight, row by row.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError>;
}

/// The weights of a folder: mapped, and of them only what a network asks for is ever read.
#[derive(Debug)]
pub(crate) struct WeightFile {
    parts: Vec<Part>,
    /// By the names that the network uses: the part, and where in it.
    tensors: HashMap<String, (usize, TensorPlace)>,
}

/// One file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    map: Mmap,
}

/// The index that transformers writes beside shards.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The folder holds weights, in one file or several.
pub(crate) fn has_weights(folder: &Path) -> bool {
    folder.join(WHOLE).is_file() || folder.join(INDEX).is_file()
}

impl WeightFile {
    /// Maps the weights of `folder`. `hint` says what to do if there are none.
    pub fn open(folder: &Path, hint: &'static str) -> Result<Self, CheckpointError> {
        let paths = files(folder)?;
        let mut weights = Self { parts: Vec::with_capacity(paths.len()), tensors: HashMap::new() };
        for path in paths {
            weights.add(path, hint)?;
        }
        Ok(weights)
    }

    /// No weights at all.
    pub fn none() -> Self {
        Self { parts: Vec::new(), tensors: HashMap::new() }
    }

    fn add(&mut self, path: PathBuf, hint: &'static str) -> Result<(), CheckpointError> {
        let fail = |cause| CheckpointError::Read { path: path.clone(), cause, hint };
        let file = File::open(&path).map_err(fail)?;
        // SAFETY: the map is only read. Whoever shortens the file while it is served ends the process with SIGBUS, as
        // with every mapped model file; checkpoints are replaced, not edited.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        if is_pointer(&map) {
            return Err(CheckpointError::Pointer { path });
        }
        let Header { tensors, metadata } =
            Header::parse(&map).map_err(|problem| CheckpointError::invalid(&path, problem, RESAVE))?;
        // Compiled models carry this in their names.
        let clean = |name: &str| name.replace("_orig_mod.", "");
        let part = self.parts.len();
        let mut places: HashMap<String, TensorPlace> = HashMap::with_capacity(tensors.len());
        for (name, place) in tensors {
            let name = clean(&name);
            if self.tensors.contains_key(&name) || places.contains_key(&name) {
                return Err(CheckpointError::invalid(&path, format!("a second tensor `{name}`"), RESAVE));
            }
            places.insert(name, place);
        }
        // Tensors that were saved once because two names shared them are found under both.
        let shared = metadata.iter().filter_map(|(name, same_as)| {
            let place = places.get(&clean(same_as))?;
            Some((clean(name), place.clone()))
        });
        for (name, place) in shared.collect::<Vec<_>>() {
            places.entry(name).or_insert(place);
        }
        self.tensors.extend(places.into_iter().map(|(name, place)| (name, (part, place))));
        self.parts.push(Part { path, map });
        Ok(())
    }

    /// Size of all files, bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.map.len()).sum()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Lists everything that does not fit, not only the first. What is `spare` may be there besides.
    pub fn check(&self, table: &[Tensor], spare: impl Fn(&str) -> bool) -> Result<(), CheckpointError> {
        let mut mismatch = TensorMismatch { path: self.path().to_owned(), ..TensorMismatch::default() };
        for expected in table {
            match self.tensors.get(&expected.name) {
                Some((_, found)) if found.shape == expected.shape => {}
                Some((_, found)) => mismatch.misshapen.push(Misshapen {
                    name: expected.name.clone(),
                    found: found.shape.clone(),
                    expected: expected.shape.clone(),
                }),
                None if expected.used => mismatch.missing.push(expected.name.clone()),
                None => {}
            }
        }
        let known: HashSet<&str> = table.iter().map(|t| t.name.as_str()).collect();
        let stray = |name: &&String| !known.contains(name.as_str()) && !is_statistic(name) && !spare(name);
        mismatch.extra = self.tensors.keys().filter(stray).cloned().collect();
        mismatch.extra.sort();
        if !mismatch.is_empty() {
            return Err(mismatch.into());
        }
        for expected in table.iter().filter(|tensor| tensor.used) {
            self.slab(&expected.name)?;
        }
        Ok(())
    }

    /// The policy was saved by a LeRobot before 0.4, which kept statistics among the weights.
    pub fn has_statistics(&self) -> bool {
        self.tensors.keys().any(|name| is_statistic(name))
    }

    /// One vector of those statistics, if it is there.
    pub fn statistic(&self, name: &str, size: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some((part, place)) = self.tensors.get(name) else { return Ok(None) };
        if place.shape != [size] {
            let problem = format!("`{name}` is {:?} wide, the checkpoint's is {size}", place.shape);
            return Err(CheckpointError::invalid(&self.parts[*part].path, problem, RESAVE));
        }
        let tensors = vec![name.to_owned()];
        let weight =
            Weight { rows: 1, columns: size, tensors, take: 0..size, pick: Pick::All, role: crate::plan::Role::Table };
        self.load(&weight).map(|numbers| Some(numbers.into_f32()))
    }

    /// The file that errors about the weights as a whole name.
    fn path(&self) -> &Path {
        self.parts.first().map_or(Path::new(WHOLE), |part| &part.path)
    }

    fn slab<'a>(&'a self, name: &'a str) -> Result<Slab<'a>, CheckpointError> {
        let Some((part, place)) = self.tensors.get(name) else {
            return Err(CheckpointError::invalid(self.path(), format!("no tensor `{name}`"), RESAVE));
        };
        let part = &self.parts[*part];
        let format = match place.dtype {
            Dtype::F32 => Format::F32,
            Dtype::BF16 => Format::Bf16,
            Dtype::F16 => Format::F16,
            other => {
                let what = format!("`{name}` of type {other:?}");
                return Err(CheckpointError::unsupported(&part.path, what, "Save the weights in F32, F16 or BF16"));
            }
        };
        // A vector is one row; of a convolution's weight all dimensions but the first are columns.
        let (rows, columns) = match place.shape.as_slice() {
            [] => (1, 1),
            [columns] => (1, *columns),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        Ok(Slab { name, part, place, format, rows, columns })
    }

    /// Puts the weights into a digest, file by file, each preceded by its length.
    pub fn digest(&self, hasher: &mut Sha256) {
        /// What is looked at before its pages are given back, bytes.
        const WINDOW: usize = 8 << 20;
        for part in &self.parts {
            hasher.update((part.map.len() as u64).to_le_bytes());
            for (index, window) in part.map.chunks(WINDOW).enumerate() {
                hasher.update(window);
                part.release(index * WINDOW..index * WINDOW + window.len());
            }
        }
    }
}

/// A buffer of the normalisation that was part of policies before LeRobot 0.4. LeRobot's migration leaves it there.
fn is_statistic(name: &str) -> bool {
    ["normalize_inputs.", "normalize_targets.", "unnormalize_outputs."].iter().any(|family| name.starts_with(family))
}

/// The files that hold the weights, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let index_path = folder.join(INDEX);
    if folder.join(WHOLE).exists() || !index_path.is_file() {
        return Ok(vec![folder.join(WHOLE)]);
    }
    let index: Index = parse(&read(&index_path, RESAVE)?, &index_path)?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let invalid = |problem: String| Err(CheckpointError::invalid(&index_path, problem, RESAVE));
    if names.is_empty() || names.len() > MOST_SHARDS {
        return invalid(format!("{} files of weights, must be 1 to {MOST_SHARDS}", names.len()));
    }
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors")) {
        let name: String = name.chars().take(200).collect();
        return invalid(format!("`{name}` is no safetensors file of this folder"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

impl Part {
    /// Tells the system that these bytes are not needed soon, so that what was read once does not count as memory in use.
    fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: `MADV_DONTNEED` discards what was written to private pages. This map is read-only, so that its pages
            // hold what the file holds, and whoever reads them again, now or in another thread, gets that from the file.
            let released = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len())
            };
            // Advice that is not taken costs memory and no more.
            drop(released);
        }
        #[cfg(not(unix))]
        drop(bytes);
    }
}

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    F32,
    Bf16,
    F16,
}

/// A tensor in the map, as a matrix.
struct Slab<'a> {
    name: &'a str,
    part: &'a Part,
    place: &'a TensorPlace,
    format: Format,
    rows: usize,
    columns: usize,
}

impl<'a> Slab<'a> {
    /// Some columns of a row.
    fn row<const N: usize>(&self, index: usize, columns: Range<usize>) -> Result<&'a [[u8; N]], CheckpointError> {
        let numbers = self.part.map[self.place.bytes.clone()].as_chunks::<N>().0;
        let row = (index < self.rows).then(|| &numbers[index * self.columns..][..self.columns]);
        row.and_then(|row| row.get(columns.clone())).ok_or_else(|| {
            let (name, rows, width) = (self.name, self.rows, self.columns);
            let problem = format!("`{name}` is {rows} by {width}, and has no columns {columns:?} of row {index}");
            CheckpointError::invalid(&self.part.path, problem, RESAVE)
        })
    }

    /// Hands the picked rows over, as bits, after a check that all are finite: one with an exponent of all ones is not.
    fn visit<const N: usize, B: Bits<N>>(
        &self,
        weight: &Weight,
        mut row: impl FnMut(&'a [[u8; N]]),
    ) -> Result<(), CheckpointError> {
        let mut take = |index: usize| {
            let numbers = self.row(index, weight.take.clone())?;
            self.check_finite::<N, B>(numbers)?;
            row(numbers);
            Ok(())
        };
        match &weight.pick {
            Pick::All => (0..self.rows).try_for_each(take),
            Pick::Range(rows) => rows.clone().try_for_each(take),
            Pick::Gather(rows) => rows.iter().try_for_each(|&index| take(index as usize)),
        }
    }

    fn check_finite<const N: usize, B: Bits<N>>(&self, numbers: &[[u8; N]]) -> Result<(), CheckpointError> {
        // One flag for all, which is what a compiler can do many at a time.
        if !numbers.iter().fold(false, |found, bytes| found | B::is_special(*bytes)) {
            return Ok(());
        }
        let number = numbers.iter().find(|bytes| B::is_special(**bytes)).map_or(f32::NAN, |bytes| B::single(*bytes));
        let problem = format!("`{}` holds {number}", self.name);
        Err(CheckpointError::invalid(&self.part.path, problem, "The training run diverged; take an earlier step"))
    }

    fn singles(&self, weight: &Weight, into: &mut Vec<f32>) -> Result<(), CheckpointError> {
        fn push<const N: usize, B: Bits<N>>(
            slab: &Slab,
            weight: &Weight,
            into: &mut Vec<f32>,
        ) -> Result<(), CheckpointError> {
            slab.visit::<N, B>(weight, |row| into.extend(row.iter().map(|bytes| B::single(*bytes))))
        }
        match self.format {
            Format::F32 => push::<4, Single>(self, weight, into),
            Format::Bf16 => push::<2, Brain>(self, weight, into),
            Format::F16 => push::<2, Half>(self, weight, into),
        }
    }

    fn halves<B: Bits<2>>(&self, weight: &Weight, into: &mut Vec<u16>) -> Result<(), CheckpointError> {
        self.visit::<2, B>(weight, |row| into.extend(row.iter().map(|bytes| u16::from_le_bytes(*bytes))))
    }
}

/// A format of `N` bytes, little-endian.
trait Bits<const N: usize> {
    /// Infinite or not a number.
    fn is_special(bytes: [u8; N]) -> bool;
    /// In single precision.
    fn single(bytes: [u8; N]) -> f32;
}

struct Single;
struct Brain;
struct Half;

impl Bits<4> for Single {
    fn is_special(bytes: [u8; 4]) -> bool {
        u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000
    }

    fn single(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }
}

impl Bits<2> for Brain {
    fn is_special(bytes: [u8; 2]) -> bool {
        u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80
    }

    fn single(bytes: [u8; 2]) -> f32 {
        half::bf16::from_le_bytes(bytes).to_f32()
    }
}

impl Bits<2> for Half {
    fn is_special(bytes: [u8; 2]) -> bool {
        u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00
    }

    fn single(bytes: [u8; 2]) -> f32 {
        half::f16::from_le_bytes(bytes).to_f32()
    }
}

impl WeightSource for WeightFile {
    /// The numbers in the file's own format, or in single precision if the weight's tensors do not share one. They go from
    /// the map to the result row by row, and each tensor's pages are given back after it.
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        let slabs: Vec<Slab> = weight.tensors.iter().map(|name| self.slab(name)).collect::<Result<_, _>>()?;
        let shared = slabs.first().map(|slab| slab.format).filter(|f| slabs.iter().all(|slab| slab.format == *f));
        let count = weight.rows * weight.columns;
        let mut numbers = match shared.unwrap_or(Format::F32) {
            Format::F32 => Numbers::F32(Vec::with_capacity(count)),
            Format::Bf16 => Numbers::Bf16(Vec::with_capacity(count)),
            Format::F16 => Numbers::F16(Vec::with_capacity(count)),
        };
        for slab in &slabs {
            match &mut numbers {
                Numbers::F32(numbers) => slab.singles(weight, numbers)?,
                Numbers::Bf16(bits) => slab.halves::<Brain>(weight, bits)?,
                Numbers::F16(bits) => slab.halves::<Half>(weight, bits)?,
            }
            slab.part.release(slab.place.bytes.clone());
        }
        let found = match &numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(bits) | Numbers::F16(bits) => bits.len(),
        };
        if found != count {
            let problem = format!("{} make {found} numbers and not {count}", weight.tensors.join(", "));
            return Err(CheckpointError::invalid(self.path(), problem, RESAVE));
        }
        Ok(numbers)
    }
}

/// The embedding table of a language model, read row by row from the file: most rows are never asked for. Keeps the file
/// mapped; clones share it.
#[derive(Clone, Debug)]
pub struct TokenEmbeddings {
    weights: Arc<WeightFile>,
    tensor: String,
    vocabulary: usize,
    width: usize,
}

impl TokenEmbeddings {
    /// `module` must be of the checked table of tensors.
    pub(crate) fn new(weights: &Arc<WeightFile>, module: &str, (vocabulary, width): (usize, usize)) -> Self {
        Self { weights: Arc::clone(weights), tensor: format!("{module}.weight"), vocabulary, width }
    }

    /// Tokens that have a row.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows of some tokens, one after the other.
    ///
    /// # Errors
    /// If there is no such token, or a row is not finite.
    pub fn rows(&self, tokens: &[u32]) -> Result<Vec<f32>, CheckpointError> {
        let mut numbers = vec![0.0; tokens.len() * self.width];
        tokens.iter().zip(numbers.chunks_exact_mut(self.width)).try_for_each(|(token, into)| self.row(*token, into))?;
        Ok(numbers)
    }

    /// Writes the row of `token` to the first [`TokenEmbeddings::width`] numbers of `into`, as the file has it.
    ///
    /// # Errors
    /// If there is no such token, the row is not finite, or `into` is too short.
    pub fn row(&self, token: u32, into: &mut [f32]) -> Result<(), CheckpointError> {
        let row = token as usize;
        let weight_row = self.weights.slab(&self.tensor)?;
        let Some(into) = into.get_mut(..self.width) else {
            let problem = format!("a row of `{}` has {} numbers, and there is no room", self.tensor, self.width);
            return Err(CheckpointError::invalid(&weight_row.part.path, problem, "This is a defect of waza"));
        };
        fn copy<const N: usize, B: Bits<N>>(slab: &Slab, row: usize, into: &mut [f32]) -> Result<(), CheckpointError> {
            let numbers = slab.row::<N>(row, 0..into.len())?;
            slab.check_finite::<N, B>(numbers)?;
            into.iter_mut().zip(numbers).for_each(|(to, bytes)| *to = B::single(*bytes));
            Ok(())
        }
        match weight_row.format {
            Format::F32 => copy::<4, Single>(&weight_row, row, into),
            Format::Bf16 => copy::<2, Brain>(&weight_row, row, into),
            Format::F16 => copy::<2, Half>(&weight_row, row, into),
        }
    }
}
