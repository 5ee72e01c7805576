//! `waza doctor`: what is here to work with, and what to do about what is missing.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use waza_model::Checkpoint;
use waza_model::wgpu::{Adapters, Gpu};
use waza_runtime::WASMTIME_VERSION;
use waza_toolchain::TARGET;

use crate::assets::Checkout;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  waza doctor --json")]
pub struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked for.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    /// What was found, or none.
    found: Option<String>,
    /// Whether the demo fails without it.
    needed: bool,
    /// What to do where it is missing.
    way_out: String,
}

impl Finding {
    fn needed(what: &'static str, found: Option<String>, way_out: impl Into<String>) -> Self {
        Self { what, found, needed: true, way_out: way_out.into() }
    }

    fn optional(what: &'static str, found: Option<String>, way_out: impl Into<String>) -> Self {
        Self { needed: false, ..Self::needed(what, found, way_out) }
    }
}

impl Doctor {
    pub fn run(self) -> Result<()> {
        let findings = examine();
        if self.json {
            say!("{}", serde_json::json!({ "findings": findings }))?;
        } else {
            for Finding { what, found, needed, way_out } in &findings {
                match (found, needed) {
                    (Some(found), _) => say!("ok        {what}: {found}")?,
                    (None, true) => say!("missing   {what}: {way_out}")?,
                    (None, false) => say!("optional  {what}: {way_out}")?,
                }
            }
        }
        let missing: Vec<_> =
            findings.iter().filter(|finding| finding.needed && finding.found.is_none()).map(|it| it.what).collect();
        if !missing.is_empty() {
            bail!("the demo cannot run yet: missing: {}: see `waza doctor`", missing.join(", "));
        }
        Ok(())
    }
}

fn examine() -> Vec<Finding> {
    let checkout = Checkout::find().ok();
    let existing = |path: std::path::PathBuf| path.exists().then(|| path.display().to_string());
    let skills = checkout.as_ref().and_then(|checkout| existing(checkout.skills()));
    let checkpoint = checkpoint(checkout.as_ref());
    let here = checkout.map_or_else(|| ".".into(), |checkout| checkout.skills());
    let target = waza_toolchain::has_target(&here).then(|| TARGET.to_owned());
    let cores = std::thread::available_parallelism().map(|cores| format!("{cores} cores, {}", std::env::consts::ARCH));
    vec![
        Finding::needed("engine of skills", Some(format!("wasmtime {WASMTIME_VERSION}")), ""),
        Finding::needed("processor", cores.ok(), "the operating system did not say what it has"),
        Finding::optional("graphics adapter", adapter(), "the CPU runs the model; install your GPU's Vulkan driver"),
        Finding::needed("C compiler", waza_toolchain::version("cc"), "run `apt-get install gcc`"),
        Finding::needed("cargo", waza_toolchain::version("cargo"), "install Rust with https://rustup.rs"),
        Finding::needed("rustc", waza_toolchain::version("rustc"), "install Rust with https://rustup.rs"),
        Finding::needed("skill target", target, format!("run `rustup target add {TARGET}`")),
        Finding::needed("skills", skills, "run waza inside a clone of its repository"),
        checkpoint,
    ]
}

/// The bundled checkpoint, read as the demo would read it, without its weights.
fn checkpoint(checkout: Option<&Checkout>) -> Finding {
    const WHAT: &str = "checkpoint";
    let Some(checkout) = checkout else {
        return Finding::needed(WHAT, None, "run waza inside a clone of its repository");
    };
    match Checkpoint::open(&checkout.checkpoint()) {
        Ok(whole) => Finding::needed(WHAT, Some(whole.folder().display().to_string()), ""),
        Err(error) => Finding::needed(WHAT, None, format!("{error}, or `git restore` the folder")),
    }
}

/// The adapter that `--device gpu` would take.
fn adapter() -> Option<String> {
    let gpu = Gpu::open(Adapters::Hardware).or_else(|_| Gpu::open(Adapters::Any)).ok()?;
    let hint = if gpu.is_software() { "; `--device auto` prefers the CPU to it" } else { "" };
    Some(format!("{}{hint}", gpu.name()))
}
