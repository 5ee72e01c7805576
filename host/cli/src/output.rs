//! The folder that a command writes into: checked before the work starts, and never left with half a file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fault::bad_input;

/// A folder that can be written.
#[derive(Debug)]
pub struct OutputFolder(PathBuf);

impl OutputFolder {
    /// Makes the folder where it is missing and tries to write into it.
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |error: std::io::Error| {
            let cause = format!("cannot write into the output folder ({error})");
            bad_input(cause, path.display(), "choose another folder with --out")
        };
        std::fs::create_dir_all(path).map_err(refused)?;
        tempfile::tempfile_in(path).map_err(refused)?;
        Ok(Self(path.to_owned()))
    }

    /// Writes a file of that name, whole or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        write_file(&self.0.join(name), bytes)
    }
}

/// Writes a file, whole or not at all.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // A temporary file is its owner's alone; what a user asked for is readable like any file that they make.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{exit_code, line};
    use std::process::ExitCode;

    #[test]
    fn a_folder_is_made_and_its_files_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(&root.path().join("a/b")).unwrap();
        folder.write("x.txt", b"a long first version").unwrap();
        let path = folder.write("x.txt", b"short").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"short");
        assert_eq!(std::fs::read_dir(root.path().join("a/b")).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_bad_input_with_its_place() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = OutputFolder::open(&file.join("out")).unwrap_err();
        assert_eq!(exit_code(&error), ExitCode::from(2));
        assert!(line(&error).contains("file/out") && line(&error).contains("--out"), "{error}");
    }
}
