//! Runs plans on a GPU: everything is prepared once for a layout, so that a run only writes inputs, encodes one compute
//! pass, and reads outputs.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::mpsc;

use wgpu::BufferUsages as Usages;

use super::device::Gpu;
use super::fuse::{Fused, fuse};
use super::kernels::Format;
use super::lower::{Dispatch, ENOUGH_WORKGROUPS, Profile, Slot, Turns, lower};
use super::pipelines::Pipelines;
use crate::checkpoint::{CheckpointError, WeightSource};
use crate::executor::{Executor, ExecutorError, Memory, Resident, Source, Target};
use crate::plan::{Layout, Numbers, Plan, Role, View, Weight};

/// Dispatches that are handed to the device together: it begins with the first while later ones are encoded.
const DISPATCHES_AT_ONCE: usize = 64;

/// The executor for Vulkan, Metal and Direct3D 12 adapters.
pub struct WgpuExecutor {
    gpu: Gpu,
    weights: Vec<Weight>,
    weight_buffers: Vec<wgpu::Buffer>,
    formats: Vec<Format>,
    pub(super) profile: Profile,
    pipelines: Pipelines,
    prepared: HashMap<Layout, Prepared>,
}

/// All that the plans of one layout need on the device.
struct Prepared {
    variant: usize,
    buffers: Vec<wgpu::Buffer>,
    /// Tables of rotary embeddings: as long as the plan, so they go with it.
    turns: HashMap<Turns, wgpu::Buffer>,
    params: wgpu::Buffer,
    dispatches: Vec<Encodable>,
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
        let mut weight_buffers: Vec<wgpu::Buffer> = Vec::with_capacity(weights.len());
        let mut formats = Vec::with_capacity(weights.len());
        for weight in weights {
            gpu.require_buffer(weight.rows * weight.columns)?;
            let (format, buffer) = upload(&gpu, weight, source.load(weight)?);
            weight_buffers.push(buffer);
            formats.push(format);
            gpu.check().map_err(|error| out_of_memory(error, weights, &formats, &weight_buffers))?;
        }
        let limits = gpu.limits();
        let pipelines = Pipelines::new(&gpu);
        Ok(Self {
            profile: Profile {
                software_lanes: gpu.software_lanes(),
                max_workgroups: limits.max_compute_workgroups_per_dimension,
                max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
                enough_workgroups: ENOUGH_WORKGROUPS,
            },
            gpu,
            weights: weights.to_vec(),
            weight_buffers,
            formats,
            pipelines,
            prepared: HashMap::new(),
        })
    }

    /// The adapter that it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn lower(&self, plan: &Plan) -> Vec<Dispatch> {
        let apart = |op| Fused { op, prologue: None };
        // On a CPU a dispatch costs little, and the repeated prologue much.
        let fused =
            if self.profile.software_lanes.is_some() { plan.ops.iter().map(apart).collect() } else { fuse(&plan.ops) };
        let lower = |fused| lower(fused, plan, &self.weights, &self.formats, self.profile);
        fused.into_iter().map(lower).collect()
    }

    /// All parameters of a plan, each where a uniform binding may begin, and where that is.
    fn params(&self, dispatches: &[Dispatch]) -> (Vec<u8>, Vec<u64>) {
        let alignment = self.gpu.limits().min_uniform_buffer_offset_alignment as usize;
        let mut params = Vec::new();
        let mut places = Vec::with_capacity(dispatches.len());
        for dispatch in dispatches {
            params.resize(params.len().next_multiple_of(alignment), 0);
            places.push(params.len() as u64);
            params.extend_from_slice(&dispatch.params);
        }
        params.resize(params.len().next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT as usize), 0);
        (params, places)
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        for buffer in plan.buffers.iter() {
            let numbers = buffer.rows * buffer.columns;
            self.gpu.require_buffer(numbers)?;
            buffers.push(match &buffer.initial {
                Some(content) => constant(&self.gpu, buffer.name, content),
                None => empty(&self.gpu, buffer.name, numbers, Usages::STORAGE | Usages::COPY_DST | Usages::COPY_SRC),
            });
        }
        let dispatches = self.lower(plan);
        let (params, places) = self.params(&dispatches);
        let params = filled(&self.gpu, "params", &params, Usages::UNIFORM | Usages::COPY_DST);
        // Bound where a kernel has a binding that an op does not use.
        let nothing = constant(&self.gpu, "nothing", &[]);
        let mut turns = HashMap::new();

        let mut encodables = Vec::with_capacity(dispatches.len());
        for (dispatch, offset) in dispatches.iter().zip(places) {
            for workgroups in dispatch.workgroups {
                self.gpu.require("workgroups in a row", workgroups.into(), self.profile.max_workgroups.into())?;
            }
            let mut inputs: Vec<wgpu::Buffer> = Vec::with_capacity(dispatch.inputs.len());
            for slot in &dispatch.inputs {
                inputs.push(match slot {
                    Slot::Weight(id) => self.weight_buffers[id.0].clone(),
                    Slot::Buffer(id) => buffers[id.0].clone(),
                    Slot::Turns(of) => {
                        turns.entry(*of).or_insert_with(|| constant(&self.gpu, "turns", &of.numbers())).clone()
                    }
                    Slot::Nothing => nothing.clone(),
                });
            }
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
            encodables.push(Encodable { pipeline: pipeline.compute, bind_group, workgroups: dispatch.workgroups });
        }
        self.gpu.check()?;
        self.pipelines.save();
        Ok(Prepared { variant: plan.variant, buffers, turns, params, dispatches: encodables })
    }

    /// Prepares the layout of `plan`, or moves it to this variant: kernels and bindings are the same, parameters are not.
    fn make_ready(&mut self, plan: &Plan) -> Result<(), ExecutorError> {
        match self.prepared.get(&plan.layout) {
            None => {
                let prepared = self.prepare(plan).map_err(|error| no_room_for_buffers(error, plan))?;
                self.prepared.insert(plan.layout, prepared);
            }
            Some(prepared) if prepared.variant != plan.variant => {
                let dispatches = self.lower(plan);
                let (params, _) = self.params(&dispatches);
                self.gpu.queue().write_buffer(&prepared.params, 0, &params);
                if let Some(prepared) = self.prepared.get_mut(&plan.layout) {
                    prepared.variant = plan.variant;
                    for (encodable, dispatch) in prepared.dispatches.iter_mut().zip(dispatches) {
                        encodable.workgroups = dispatch.workgroups;
                    }
                }
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// An error of making a plan's buffers, with what they take.
fn no_room_for_buffers(error: ExecutorError, plan: &Plan) -> ExecutorError {
    let ExecutorError::Memory { device, .. } = error else { return error };
    let cause = format!(
        "besides its weights the model needs {} MiB to {}. Free memory on it, show fewer cameras or frames, ask for fewer \
         chunks at a time, or use `--device cpu`",
        plan.bytes() >> 20,
        plan.name
    );
    ExecutorError::Memory { device, cause }
}

/// A weight in the adapter's memory: products take what the file has, tables are few and small.
fn upload(gpu: &Gpu, weight: &Weight, numbers: Numbers) -> (Format, wgpu::Buffer) {
    let (format, bits) = match numbers {
        Numbers::Bf16(bits) if weight.role == Role::Factor => (Format::Bf16, bits),
        Numbers::F16(bits) if weight.role == Role::Factor => (Format::F16, bits),
        numbers => return (Format::F32, constant(gpu, "weight", &numbers.into_f32())),
    };
    (format, filled(gpu, "weight", bytemuck::cast_slice(&bits), Usages::STORAGE | Usages::COPY_SRC))
}

/// An error of uploading weights, with what would have fitted.
fn out_of_memory(
    error: ExecutorError,
    weights: &[Weight],
    formats: &[Format],
    uploaded: &[wgpu::Buffer],
) -> ExecutorError {
    let ExecutorError::Memory { device, .. } = error else { return error };
    let numbers = |weight: &Weight| weight.rows * weight.columns;
    // Those to come are as wide as those that came.
    let width = formats.first().map_or(4, |format| format.bytes());
    let needed: usize = width * weights.iter().map(numbers).sum::<usize>();
    let fitted: u64 = uploaded.iter().rev().skip(1).map(wgpu::Buffer::size).sum();
    let mib = |bytes: u64| bytes >> 20;
    let cause = format!(
        "the model's weights take {} MiB, and there was room for {}. Free memory on it, take a smaller model, or use \
         `--device cpu`",
        mib(needed as u64),
        mib(fitted)
    );
    ExecutorError::Memory { device, cause }
}

impl Executor for WgpuExecutor {
    fn device(&self) -> &str {
        self.gpu.name()
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, Source<'_>)],
        outputs: &mut [(View, Target<'_>)],
    ) -> Result<(), ExecutorError> {
        self.make_ready(plan)?;
        let prepared = &self.prepared[&plan.layout];
        let device = self.gpu.device();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(plan.name) });
        for (view, source) in inputs {
            let buffer = &prepared.buffers[view.buffer.0];
            for (offset, range) in runs(plan, view) {
                match source {
                    Source::Host(numbers) => {
                        self.gpu.queue().write_buffer(buffer, bytes(offset), bytemuck::cast_slice(&numbers[range]));
                    }
                    Source::Resident(resident) => {
                        let from = device_memory(resident);
                        let (at, size) = (bytes(range.start), bytes(range.len()));
                        encoder.copy_buffer_to_buffer(from, at, buffer, bytes(offset), size);
                    }
                }
            }
        }
        for (index, dispatches) in prepared.dispatches.chunks(DISPATCHES_AT_ONCE).enumerate() {
            if index > 0 {
                let next = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(plan.name) });
                self.gpu.queue().submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for Encodable { pipeline, bind_group, workgroups: [x, y, z] } in dispatches {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
        let to_host: usize = outputs.iter().map(|(_, target)| host_len(target)).sum();
        let readback = (to_host > 0).then(|| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size: bytes(to_host),
                usage: Usages::MAP_READ | Usages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let mut first = 0;
        for (view, target) in outputs.iter_mut() {
            let (to, base) = match target {
                Target::Host(numbers) => {
                    first += numbers.len();
                    (readback.clone(), first - numbers.len())
                }
                Target::Resident(resident) => (Some(room_for(&self.gpu, resident, view.rows * view.columns)), 0),
            };
            for (offset, range) in runs(plan, view) {
                if let Some(to) = &to {
                    let (from, at) = (&prepared.buffers[view.buffer.0], bytes(base + range.start));
                    encoder.copy_buffer_to_buffer(from, bytes(offset), to, at, bytes(range.len()));
                }
            }
        }
        let submission = self.gpu.queue().submit([encoder.finish()]);
        let Some(readback) = readback else { return self.gpu.check() };

        let (sender, mapped) = mpsc::channel();
        readback.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver lives until the answer has come, or nobody waits for it any more.
            let _ = sender.send(result);
        });
        self.gpu.wait(Some(submission))?;
        match mapped.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.gpu.failed(error.to_string())),
            Err(_) => return Err(self.gpu.failed("the work ended without an answer")),
        }
        let content = readback.get_mapped_range(..).map_err(|error| self.gpu.failed(error.to_string()))?;
        let mut rest: &[u8] = &content;
        for (_, target) in outputs.iter_mut() {
            if let Target::Host(numbers) = target {
                let (this, others) = rest.split_at(4 * numbers.len());
                bytemuck::cast_slice_mut(numbers).copy_from_slice(this);
                rest = others;
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), ExecutorError> {
        self.gpu.wait(None)
    }

    fn forget(&mut self, layout: Layout) {
        self.prepared.remove(&layout);
    }

    fn gains_in_batches(&self) -> bool {
        !self.gpu.is_software()
    }

    fn lose(&mut self) {
        self.gpu.device().destroy();
    }

    fn hang(&mut self) {
        self.gpu.hang();
    }

    fn bytes(&self) -> u64 {
        let of = |prepared: &Prepared| {
            prepared.buffers.iter().chain(prepared.turns.values()).map(wgpu::Buffer::size).sum::<u64>()
        };
        self.weight_buffers.iter().map(wgpu::Buffer::size).chain(self.prepared.values().map(of)).sum()
    }

    fn dispatches(&self, plan: &Plan) -> Option<usize> {
        Some(self.lower(plan).len())
    }
}

fn host_len(target: &Target<'_>) -> usize {
    match target {
        Target::Host(numbers) => numbers.len(),
        Target::Resident(_) => 0,
    }
}

fn device_memory(resident: &Resident) -> &wgpu::Buffer {
    match &resident.memory {
        Memory::Device(buffer) => buffer,
        Memory::Host(_) => unreachable!("a resident belongs to the executor that made it"),
    }
}

/// Memory for `numbers`: what is there, if it is as large.
fn room_for(gpu: &Gpu, resident: &mut Option<Resident>, numbers: usize) -> wgpu::Buffer {
    if let Some(resident) = resident.as_ref().filter(|resident| resident.numbers == numbers) {
        return device_memory(resident).clone();
    }
    let buffer = empty(gpu, "resident", numbers, Usages::COPY_DST | Usages::COPY_SRC);
    *resident = Some(Resident { numbers, memory: Memory::Device(buffer.clone()) });
    buffer
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
    filled(gpu, label, bytemuck::cast_slice(numbers), Usages::STORAGE | Usages::COPY_SRC)
}

/// A buffer with this in it, and zeros up to a whole `vec4`. Of a device that is lost or full it is a buffer of nothing, and
/// [`Gpu::check`] says so; wgpu's `create_buffer_init` would panic.
fn filled(gpu: &Gpu, label: &str, contents: &[u8], usage: Usages) -> wgpu::Buffer {
    let size = contents.len().next_multiple_of(16).max(16) as u64;
    let description = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true };
    let buffer = gpu.device().create_buffer(&description);
    if let Ok(mut mapped) = buffer.get_mapped_range_mut(..) {
        mapped.slice(..contents.len()).copy_from_slice(contents);
        drop(mapped);
        buffer.unmap();
    }
    buffer
}
