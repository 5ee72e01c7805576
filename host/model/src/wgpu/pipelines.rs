//! Compiled kernels, each compiled when a plan first needs it.

use std::collections::HashMap;

use super::device::Gpu;
use super::kernels::Kernel;
use crate::executor::ExecutorError;

/// A kernel on its device, and what its bind groups look like.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) compute: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// The kernels that have been compiled for one device.
#[derive(Default)]
pub(super) struct Pipelines(HashMap<Kernel, Pipeline>);

impl Pipelines {
    /// The pipeline of `kernel`.
    ///
    /// # Errors
    /// If the adapter cannot hold the kernel's workgroup, or its driver cannot compile it.
    pub(super) fn pipeline(&mut self, gpu: &Gpu, kernel: Kernel) -> Result<Pipeline, ExecutorError> {
        if let Some(pipeline) = self.0.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let offered = gpu.limits().max_compute_workgroup_storage_size;
        gpu.require("bytes of workgroup memory", kernel.workgroup_bytes().into(), offered.into())?;
        let pipeline = compile(gpu, kernel);
        gpu.check()?;
        self.0.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(gpu: &Gpu, kernel: Kernel) -> Pipeline {
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
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label,
        source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
    });
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
        cache: None,
    });
    Pipeline { compute, layout }
}
