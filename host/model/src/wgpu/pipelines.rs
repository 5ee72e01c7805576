//! Compiled kernels, each compiled when a plan first needs it, and kept on disk where the driver can take them back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::device::Gpu;
use super::kernels::Kernel;
use crate::executor::ExecutorError;

/// Largest file of compiled kernels that is read, bytes; a few hundred kernels take less than a tenth of it.
const LARGEST_FILE: u64 = 64 << 20;

/// A kernel on its device, and what its bind groups look like.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) compute: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// The kernels that have been compiled for one device.
pub(super) struct Pipelines {
    compiled: HashMap<Kernel, Pipeline>,
    kept: Option<Kept>,
}

/// What the driver made of kernels, kept from one start to the next.
struct Kept {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    /// Kernels were compiled since it was saved.
    stale: bool,
}

impl Pipelines {
    /// No kernels yet, but those that this adapter compiled before come quickly.
    pub(super) fn new(gpu: &Gpu) -> Self {
        let kept = gpu.pipeline_cache_key().zip(cache_folder()).map(|(key, folder)| Kept::open(gpu, folder.join(key)));
        Self { compiled: HashMap::new(), kept }
    }

    /// The pipeline of `kernel`.
    ///
    /// # Errors
    /// If the adapter cannot hold the kernel's workgroup, or its driver cannot compile it.
    pub(super) fn pipeline(&mut self, gpu: &Gpu, kernel: Kernel) -> Result<Pipeline, ExecutorError> {
        if let Some(pipeline) = self.compiled.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let offered = gpu.limits().max_compute_workgroup_storage_size;
        gpu.require("bytes of workgroup memory", kernel.workgroup_bytes().into(), offered.into())?;
        let pipeline = compile(gpu, kernel, self.kept.as_ref().map(|kept| &kept.cache));
        gpu.check()?;
        if let Some(kept) = &mut self.kept {
            kept.stale = true;
        }
        self.compiled.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    /// Writes down what was compiled since the last time. A disk that takes nothing costs only the next start's time.
    pub(super) fn save(&mut self) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.stale) {
            kept.stale = false;
            if let Some(data) = kept.cache.get_data() {
                let _ = write_whole(&kept.path, &data);
            }
        }
    }
}

impl Kept {
    fn open(gpu: &Gpu, path: PathBuf) -> Self {
        let small = std::fs::metadata(&path).is_ok_and(|file| file.len() <= LARGEST_FILE);
        let data = small.then(|| std::fs::read(&path).ok()).flatten();
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("kernels"), data: data.as_deref(), fallback: true };
        // SAFETY: the file's name is the adapter's and the API's, and only `save` writes it, whole, into a folder of the
        // user's own. wgpu compares its header with the driver and takes nothing else.
        let cache = unsafe { gpu.device().create_pipeline_cache(&descriptor) };
        Self { cache, path, stale: false }
    }
}

/// Where the system wants caches to be.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        absolute("HOME").map(|home| home.join("Library/Caches"))
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("waza").join("kernels"))
}

/// Writes beside `path` first, so that no other process reads half a file.
fn write_whole(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension(std::process::id().to_string());
    std::fs::write(&beside, data).and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

fn compile(gpu: &Gpu, kernel: Kernel, cache: Option<&wgpu::PipelineCache>) -> Pipeline {
    let device = gpu.device();
    let label = Some(kernel.name());
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let output = kernel.inputs() + 1;
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    entries.extend((1..output).map(|binding| entry(binding, wgpu::BufferBindingType::Storage { read_only: true })));
    entries.push(entry(output, wgpu::BufferBindingType::Storage { read_only: false }));
    // Explicit, because a derived layout would leave out bindings that a variant does not use.
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let source = wgpu::ShaderSource::Wgsl(kernel.source().into());
    // SAFETY: no kernel comes from outside. Each leaves its loops, divides by nothing that is zero, and reaches no further
    // than the views in its parameters, which `Plan::check` holds against the buffers before anything runs.
    let module = unsafe {
        let descriptor = wgpu::ShaderModuleDescriptor { label, source };
        device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    };
    let compute = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        })),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Every kernel writes its shared memory before it reads it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    });
    Pipeline { compute, layout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waza/kernels/key");
        write_whole(&path, b"first").unwrap();
        write_whole(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
