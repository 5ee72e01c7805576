//! Runs plans on a GPU: everything is prepared once for a plan, so that a run only writes inputs, encodes its compute
//! passes in one submission, and reads outputs.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::mpsc;
use std::time::Instant;

use wgpu::BufferUsages as Usages;
use wgpu::util::DeviceExt;

use super::clock::Clock;
use super::device::Gpu;
use super::lower::{Dispatch, ENOUGH_WORKGROUPS, Profile, Slot, lower};
use super::pipelines::Pipelines;
use crate::checkpoint::CheckpointError;
use crate::executor::{Executor, ExecutorError, Timing};
use crate::plan::{Plan, Shape, View, Weight, WeightSource};

/// The executor for Vulkan, Metal and Direct3D 12 adapters.
pub struct WgpuExecutor {
    gpu: Gpu,
    clock: Option<Clock>,
    weights: Vec<Weight>,
    weight_buffers: Vec<wgpu::Buffer>,
    pub(super) profile: Profile,
    pipelines: Pipelines,
    prepared: HashMap<Shape, Prepared>,
}

/// All that one plan needs on the device.
struct Prepared {
    buffers: Vec<wgpu::Buffer>,
    /// In the order of [`Sections`](crate::executor::Sections).
    sections: [Vec<Encodable>; Clock::SECTIONS],
}

struct Encodable {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

/// Why an executor could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device cannot hold them.
    #[error(transparent)]
    Device(#[from] ExecutorError),
}

impl WgpuExecutor {
    /// Loads the weights into the adapter's memory: one buffer for each, because adapters bound what a binding may hold
    /// (lavapipe to 128 MiB).
    ///
    /// # Errors
    /// If the weights cannot be read, or do not fit the adapter.
    pub fn new(gpu: Gpu, weights: &[Weight], source: &dyn WeightSource) -> Result<Self, WeightsError> {
        let mut weight_buffers = Vec::with_capacity(weights.len());
        for weight in weights {
            gpu.require_buffer(weight.rows * weight.columns)?;
            weight_buffers.push(constant(&gpu, "weight", &source.load(weight)?.into_f32()));
            gpu.check()?;
        }
        let max_workgroups = gpu.limits().max_compute_workgroups_per_dimension;
        Ok(Self {
            profile: Profile { software: gpu.is_software(), max_workgroups, enough_workgroups: ENOUGH_WORKGROUPS },
            clock: Clock::new(&gpu),
            gpu,
            weights: weights.to_vec(),
            weight_buffers,
            pipelines: Pipelines::default(),
            prepared: HashMap::new(),
        })
    }

    /// The adapter that it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            let numbers = buffer.rows * buffer.columns;
            self.gpu.require_buffer(numbers)?;
            buffers.push(match &buffer.initial {
                Some(content) => constant(&self.gpu, buffer.name, content),
                None => empty(&self.gpu, buffer.name, numbers, Usages::STORAGE | Usages::COPY_DST | Usages::COPY_SRC),
            });
        }
        let dispatches: Vec<Dispatch> = plan.ops().map(|op| lower(op, plan, &self.weights, self.profile)).collect();

        // All parameters lie in one buffer, each where a uniform binding may begin.
        let alignment = self.gpu.limits().min_uniform_buffer_offset_alignment as usize;
        let mut params = Vec::new();
        let mut places = Vec::with_capacity(dispatches.len());
        for dispatch in &dispatches {
            params.resize(params.len().next_multiple_of(alignment), 0);
            places.push(params.len() as u64);
            params.extend_from_slice(&dispatch.params);
        }
        let params = self.gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("params"),
            contents: &params,
            usage: Usages::UNIFORM,
        });
        // Bound where a kernel has a binding that an op does not use.
        let nothing = constant(&self.gpu, "nothing", &[]);

        let mut encodable = Vec::with_capacity(dispatches.len());
        for (dispatch, offset) in dispatches.iter().zip(places) {
            for workgroups in dispatch.workgroups {
                self.gpu.require("workgroups in a row", workgroups.into(), self.profile.max_workgroups.into())?;
            }
            let inputs: Vec<wgpu::Buffer> = dispatch
                .inputs
                .iter()
                .map(|slot| match slot {
                    Slot::Weight(id) => self.weight_buffers[id.0].clone(),
                    Slot::Buffer(id) => buffers[id.0].clone(),
                    Slot::Constant(numbers) => constant(&self.gpu, "constant", numbers),
                    Slot::Nothing => nothing.clone(),
                })
                .collect();
            let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &params,
                offset,
                size: NonZeroU64::new(dispatch.params.len() as u64),
            });
            let storage = inputs.iter().chain([&buffers[dispatch.output.0]]).map(wgpu::Buffer::as_entire_binding);
            let entries: Vec<_> = std::iter::once(params)
                .chain(storage)
                .zip(0..)
                .map(|(resource, binding)| wgpu::BindGroupEntry { binding, resource })
                .collect();
            let pipeline = self.pipelines.pipeline(&self.gpu, dispatch.kernel)?;
            let bind_group = self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.name()),
                layout: &pipeline.layout,
                entries: &entries,
            });
            encodable.push(Encodable { pipeline: pipeline.compute, bind_group, workgroups: dispatch.workgroups });
        }
        self.gpu.check()?;
        let denoise = encodable.split_off(plan.vision.len() + plan.prefix.len() + plan.invariant.len());
        let prefix = encodable.split_off(plan.vision.len());
        Ok(Prepared { buffers, sections: [encodable, prefix, denoise] })
    }

    fn write(&self, plan: &Plan, prepared: &Prepared, view: &View, numbers: &[f32]) {
        let buffer = &prepared.buffers[view.buffer.0];
        for (offset, range) in runs(plan, view) {
            self.gpu.queue().write_buffer(buffer, bytes(offset), bytemuck::cast_slice(&numbers[range]));
        }
    }
}

impl Executor for WgpuExecutor {
    fn device(&self) -> &str {
        self.gpu.name()
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, &[f32])],
        outputs: &mut [(View, &mut [f32])],
    ) -> Result<Timing, ExecutorError> {
        if !self.prepared.contains_key(&plan.shape) {
            let prepared = self.prepare(plan)?;
            self.prepared.insert(plan.shape, prepared);
        }
        let prepared = &self.prepared[&plan.shape];
        let start = Instant::now();
        for (view, numbers) in inputs {
            self.write(plan, prepared, view, numbers);
        }

        let device = self.gpu.device();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("plan") });
        for (dispatches, section) in prepared.sections.iter().zip(0..) {
            let timestamp_writes = self.clock.as_ref().map(|clock| clock.stamps(section));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            for Encodable { pipeline, bind_group, workgroups: [x, y, z] } in dispatches {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
        let total: usize = outputs.iter().map(|(_, numbers)| numbers.len()).sum();
        let readback = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes(total) + Clock::BYTES,
            usage: Usages::MAP_READ | Usages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut first = 0;
        for (view, numbers) in outputs.iter() {
            for (offset, range) in runs(plan, view) {
                let (source, target) = (&prepared.buffers[view.buffer.0], bytes(first + range.start));
                encoder.copy_buffer_to_buffer(source, bytes(offset), &readback, target, bytes(range.len()));
            }
            first += numbers.len();
        }
        if let Some(clock) = &self.clock {
            clock.copy(&mut encoder, &readback, bytes(total));
        }
        let submission = self.gpu.queue().submit([encoder.finish()]);

        let (sender, mapped) = mpsc::channel();
        readback.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver lives until the answer has come, or nobody waits for it any more.
            let _ = sender.send(result);
        });
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        device.poll(wait).map_err(|error| self.gpu.failed(error.to_string()))?;
        self.gpu.check()?;
        match mapped.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.gpu.failed(error.to_string())),
            Err(_) => return Err(self.gpu.failed("the work ended without an answer")),
        }
        let content = readback.get_mapped_range(..).map_err(|error| self.gpu.failed(error.to_string()))?;
        let mut rest: &[u8] = &content;
        for (_, numbers) in outputs.iter_mut() {
            let (this, others) = rest.split_at(4 * numbers.len());
            bytemuck::cast_slice_mut(numbers).copy_from_slice(this);
            rest = others;
        }
        let sections = self.clock.as_ref().map(|clock| clock.read(rest));
        Ok(Timing { total: start.elapsed(), sections })
    }
}

/// The contiguous pieces of a view: where each begins in its buffer, and which of the view's dense numbers it holds.
fn runs(plan: &Plan, view: &View) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (offset, stride) = (plan.offset(view), plan.stride(view));
    let rows_in_run = if view.columns == stride { view.rows.max(1) } else { 1 };
    let length = rows_in_run * view.columns;
    (0..view.rows / rows_in_run).map(move |run| (offset + run * rows_in_run * stride, run * length..(run + 1) * length))
}

fn bytes(numbers: usize) -> u64 {
    4 * numbers as u64
}

/// Buffers are at least one `vec4`, and whole ones, so that every kernel may bind them.
fn padded_bytes(numbers: usize) -> u64 {
    bytes(numbers).next_multiple_of(16).max(16)
}

fn empty(gpu: &Gpu, label: &str, numbers: usize, usage: Usages) -> wgpu::Buffer {
    let size = padded_bytes(numbers);
    gpu.device().create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

/// A buffer that kernels only read.
fn constant(gpu: &Gpu, label: &str, numbers: &[f32]) -> wgpu::Buffer {
    let mut contents = bytemuck::cast_slice(numbers).to_vec();
    contents.resize(padded_bytes(numbers.len()) as usize, 0);
    let usage = Usages::STORAGE | Usages::COPY_SRC;
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some(label),
        contents: &contents,
        usage,
    })
}
