//! What can be wrong with a checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

/// A checkpoint that cannot be used. Each is one line: the cause, the place, a way out.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is not there or cannot be read.
    #[error("cannot read {}: {cause}. {hint}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file's content breaks its own format or the limits on it, or contradicts another file's.
    #[error("{}: {problem}. {hint}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The checkpoint asks for something that this crate does not do.
    #[error("{}: {what} is not supported. {hint}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting and its value.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// In place of a file there is what Git LFS keeps where the file is to be.
    #[error("{} is a Git LFS pointer and not the file; `git lfs pull` in its clone gets the file", .path.display())]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds what a training run learnt beside a base, and not a whole model.
    #[error(
        "{} is an adapter (PEFT's {kind}) for `{base}` and no whole model. Merge it in Python: load `{base}` with \
         SmolVLAPolicy.from_pretrained, then PeftModel.from_pretrained(base, folder).merge_and_unload()\
         .save_pretrained(merged); copy config.json and the policy_*processor* files there, and give that folder",
        .path.display()
    )]
    Adapter {
        /// Its configuration.
        path: PathBuf,
        /// What kind of adapter it is, mostly `LORA`.
        kind: String,
        /// What it was trained for.
        base: String,
    },
    /// The statistics are those of several data sets, and none of them was chosen.
    #[error(
        "{}: the statistics of `{key}` are those of several data sets ({}): the checkpoint was trained on all of them and is \
         a beginning for a robot's own data. Fine-tune it with LeRobot, or choose one with `--statistics {}` or \
         `statistics` in waza.json", .path.display(), list(.groups.iter()), .groups.first().map_or("NAME", String::as_str)
    )]
    Grouped {
        /// The file of statistics.
        path: PathBuf,
        /// What is to be normalised.
        key: String,
        /// The data sets, sorted.
        groups: Vec<String>,
    },
    /// The folder that `vlm_model_name` or `tokenizer_name` names is nowhere.
    #[error(
        "{}: `{name}` is neither here nor in the Hugging Face cache (looked at {}). Put its config.json and tokenizer.json \
         into a folder `{}` inside the checkpoint", .path.display(), list(.looked.iter().map(|p| p.display())), last(.name)
    )]
    NotFound {
        /// The file that names it.
        path: PathBuf,
        /// The name.
        name: String,
        /// Where it was looked for, in order.
        looked: Vec<PathBuf>,
    },
    /// The weights are not those of the configured network.
    #[error(transparent)]
    Tensors(#[from] TensorMismatch),
}

impl CheckpointError {
    pub(crate) fn invalid(path: &Path, problem: impl Into<String>, hint: &'static str) -> Self {
        Self::Invalid { path: path.to_owned(), problem: problem.into(), hint }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, hint: &'static str) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into(), hint }
    }

    pub(crate) fn json(path: &Path, cause: &serde_json::Error) -> Self {
        Self::invalid(path, format!("not what LeRobot writes: {cause}"), "Save or download the checkpoint again")
    }
}

/// All differences between a weight file and the network that the configuration describes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TensorMismatch {
    /// The weight file.
    pub path: PathBuf,
    /// Tensors that the network needs and the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the file has and the network does not know.
    pub extra: Vec<String>,
    /// Tensors of another shape than the network's.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of the wrong shape.
#[derive(Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// Its shape in the file.
    pub found: Vec<usize>,
    /// The shape that the configuration asks for.
    pub expected: Vec<usize>,
}

impl TensorMismatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty()
    }
}

impl std::error::Error for TensorMismatch {}

impl fmt::Display for TensorMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshapen = self.misshapen.iter().map(|m| format!("{} is {:?}, must be {:?}", m.name, m.found, m.expected));
        let groups = [
            (self.missing.len(), "missing", list(self.missing.iter())),
            (self.extra.len(), "extra", list(self.extra.iter())),
            (self.misshapen.len(), "misshapen", list(misshapen)),
        ];
        write!(formatter, "{}: the tensors are not those that config.json describes: ", self.path.display())?;
        for (index, (count, kind, names)) in groups.iter().filter(|(count, ..)| *count > 0).enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(formatter, "{comma}{count} {kind} ({names})")?;
        }
        write!(formatter, ". Take config.json and model.safetensors from the same training run")
    }
}

/// At most twelve of them, then how many more.
pub(crate) fn list<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    const SHOWN: usize = 12;
    let all: Vec<String> = items.map(|item| item.to_string()).collect();
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

fn last(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}
