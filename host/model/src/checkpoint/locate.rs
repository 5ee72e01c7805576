//! Where the folder is that a checkpoint names.

use std::path::{Path, PathBuf};

use super::CheckpointError;

/// The folder that `name` means and that holds a file `wanted`: inside the checkpoint, beside it, as a path, or in the
/// Hugging Face cache, in that order. `named_in` is the file that names it, for errors.
pub(crate) fn find_folder(
    checkpoint: &Path,
    name: &str,
    wanted: &str,
    named_in: &Path,
) -> Result<PathBuf, CheckpointError> {
    let looked = candidates(checkpoint, name);
    match looked.iter().find(|folder| folder.join(wanted).is_file()) {
        Some(folder) => Ok(folder.clone()),
        None => Err(CheckpointError::NotFound { path: named_in.to_owned(), name: name.to_owned(), looked }),
    }
}

fn candidates(checkpoint: &Path, name: &str) -> Vec<PathBuf> {
    let mut folders = vec![checkpoint.join(name)];
    // A relative path without a parent lies in the current folder.
    let parent = checkpoint.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    folders.extend(parent.as_ref().map(|parent| parent.join(name)));
    // `organisation/model` may be kept as `model`.
    if let Some(last) = name.trim_end_matches('/').rsplit('/').next().filter(|last| *last != name) {
        folders.push(checkpoint.join(last));
        folders.extend(parent.as_ref().map(|parent| parent.join(last)));
    }
    folders.push(PathBuf::from(name));
    folders.extend(cached(name));
    folders
}

/// The snapshot that `main` stands at in the Hugging Face cache, or the only one there is.
fn cached(name: &str) -> Option<PathBuf> {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let hub = from("HF_HUB_CACHE")
        .or_else(|| from("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/huggingface/hub")))?;
    let model = hub.join(format!("models--{}", name.replace('/', "--")));
    let snapshots = model.join("snapshots");
    if let Ok(revision) = std::fs::read_to_string(model.join("refs/main")) {
        return Some(snapshots.join(revision.trim()));
    }
    let mut there = std::fs::read_dir(snapshots).ok()?;
    // Of several, nothing says which is meant.
    there.next()?.ok().map(|only| only.path()).filter(|_| there.next().is_none())
}
