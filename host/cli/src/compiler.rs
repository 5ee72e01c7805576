//! This program as the process that compiles for its hosts, and where users keep what was compiled.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use waza_runtime::{Compiler, compiler};

/// What the process is started with, before its order. It is no verb for people.
const ARGUMENT: &str = "compile-component";

/// Does what that process is for, if this is one.
pub fn work() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let is_order = arguments.next().as_deref() == Some(OsStr::new(ARGUMENT));
    is_order.then(|| compiler::work(&arguments.next().unwrap_or_default().to_string_lossy()))
}

/// Compiles in a process of this program, even where another has taken its place since.
pub fn compiler() -> Compiler {
    let program = match std::env::current_exe() {
        Ok(program) if !cfg!(target_os = "linux") => program,
        _ => PathBuf::from("/proc/self/exe"),
    };
    Compiler::Process { program, arguments: vec![ARGUMENT.into()] }
}

/// Where what this user has compiled is kept: a folder that can be removed at any time.
pub fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches =
        folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(caches?.join("waza/compiled"))
}
