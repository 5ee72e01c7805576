//! The executor for CPUs: the `gemm` crate for products, loops that the compiler vectorises for the rest.
//!
//! Almost every op of a plan computes row `r` of its output from row `r` of its inputs, so work is split by rows, once for
//! many ops: a *phase* (`phases.rs`) is a run of ops that each thread takes through its own part without waiting, and
//! threads meet only between phases. `docs/decisions/0004-cpu-executor.md` says what was tried. A request is one broadcast to the pool, however many ops it has; memory for numbers is
//! laid out when a shape is first seen, and after that only `gemm` takes some, for packing.

mod barrier;
mod math;
mod memory;
mod ops;
mod phases;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::checkpoint::{CheckpointError, WeightSource};
use crate::executor::{Executor, ExecutorError, Memory, Resident, Source, Target};
use crate::plan::{Layout, Plan, View, Weight};
use barrier::Barrier;
use memory::{Arena, CpuWeight};
use ops::{Context, RopeTables};
use phases::Phase;

/// More threads than this wait for each other longer than they compute, on chunks of common length.
const MOST_THREADS: usize = 16;

/// The largest number of kernel widths that `gemm` takes as the rows beyond which it packs: more than 1500 rows.
const NEVER_PACK: usize = 256;

/// Runs plans on the CPU.
pub struct CpuExecutor {
    weights: Vec<CpuWeight>,
    pool: Option<ThreadPool>,
    threads: usize,
    device: String,
    arena: Arena,
    scratch: Vec<Arena>,
    /// The plans whose constants the arena holds.
    resident: Option<Layout>,
    prepared: HashMap<Layout, Prepared>,
}

/// What is worked out once for each layout.
struct Prepared {
    places: Vec<Place>,
    /// Numbers of the arena that it takes.
    numbers: usize,
    kept: Arena,
    ropes: RopeTables,
    schedule: Schedule,
}

/// What differs between plans of one layout.
struct Schedule {
    variant: usize,
    phases: Vec<Phase>,
    /// Threads that have any part in it.
    threads: usize,
    scratch: usize,
}

/// Where a buffer begins.
#[derive(Clone, Copy)]
enum Place {
    /// In the arena that all plans share.
    Arena(usize),
    /// In memory of the layout's own.
    Kept(usize),
}

/// As many threads as the machine (or the container) has, up to a sensible most.
pub fn default_threads() -> NonZeroUsize {
    let threads = available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
    NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)
}

impl CpuExecutor {
    /// Loads weights. Results are equal bit for bit for an equal number of threads; if the system gives none, the caller's
    /// own thread does the work.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn new(
        weights: &[Weight],
        source: &(dyn WeightSource + Sync),
        threads: NonZeroUsize,
    ) -> Result<Self, CheckpointError> {
        // Of panels nothing need be packed, however many rows they are multiplied by. The process has one such setting, and
        // nobody else in it uses this crate.
        gemm::set_lhs_packing_threshold_single_thread(NEVER_PACK);
        let pool = match threads.get() {
            1 => None,
            n => ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("waza-model-{i}")).build().ok(),
        };
        let load = |weight: &Weight| source.load(weight).map(|numbers| CpuWeight::new(weight, numbers));
        let weights = match &pool {
            Some(pool) => pool.install(|| weights.par_iter().map(load).collect::<Result<_, _>>()),
            None => weights.iter().map(load).collect(),
        }?;
        let threads = pool.as_ref().map_or(1, ThreadPool::current_num_threads);
        let device = match threads {
            1 => "cpu (1 thread)".to_owned(),
            n => format!("cpu (up to {n} threads)"),
        };
        Ok(Self {
            weights,
            pool,
            threads,
            device,
            arena: Arena::default(),
            scratch: (0..threads).map(|_| Arena::default()).collect(),
            resident: None,
            prepared: HashMap::new(),
        })
    }
}

impl Prepared {
    fn new(plan: &Plan, weights: &[CpuWeight], threads: usize) -> Self {
        let (mut in_arena, mut in_kept) = (0, 0);
        let place = |buffer: &crate::plan::Buffer| {
            let numbers = Arena::padded(buffer.rows * buffer.columns);
            let end = if buffer.kept { &mut in_kept } else { &mut in_arena };
            *end += numbers;
            if buffer.kept { Place::Kept(*end - numbers) } else { Place::Arena(*end - numbers) }
        };
        let places = plan.buffers.iter().map(place).collect();
        let mut kept = Arena::default();
        kept.reserve(in_kept);
        let schedule = Schedule::new(plan, weights, threads);
        Self { places, numbers: in_arena, kept, ropes: RopeTables::new(plan), schedule }
    }

    /// Where each buffer begins.
    fn buffers(&mut self, arena: &mut Arena) -> Vec<*mut f32> {
        arena.reserve(self.numbers);
        let (shared, kept) = (arena.numbers_mut(), self.kept.numbers_mut());
        let begin = |place: &Place| match *place {
            // An empty buffer at the end begins nowhere, and nobody reads it.
            Place::Arena(at) => shared[at..].as_mut_ptr(),
            Place::Kept(at) => kept[at..].as_mut_ptr(),
        };
        self.places.iter().map(begin).collect()
    }
}

impl Schedule {
    fn new(plan: &Plan, weights: &[CpuWeight], threads: usize) -> Self {
        let phases = phases::split(plan, threads);
        let threads = phases.iter().map(Phase::parts).max().unwrap_or(1);
        let scratch = plan.ops.iter().map(|op| ops::scratch(op, weights)).max().unwrap_or(0);
        Self { variant: plan.variant, phases, threads, scratch }
    }
}

impl Executor for CpuExecutor {
    fn device(&self) -> &str {
        &self.device
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, Source<'_>)],
        outputs: &mut [(View, Target<'_>)],
    ) -> Result<(), ExecutorError> {
        let prepared =
            (self.prepared.entry(plan.layout)).or_insert_with(|| Prepared::new(plan, &self.weights, self.threads));
        if prepared.schedule.variant != plan.variant {
            prepared.schedule = Schedule::new(plan, &self.weights, self.threads);
        }
        let buffers = prepared.buffers(&mut self.arena);
        // SAFETY: `buffers` point at whole buffers of this plan, and a view that `Plan::check` saw, or that is made of one,
        // lies in its buffer; `slice` checks it once more for views that an op does not use.
        let row = |view: &View, row: usize| {
            let buffer = &plan.buffers[view.buffer.0];
            assert!(
                view.row + row < buffer.rows && view.column + view.columns <= buffer.columns,
                "view leaves its buffer"
            );
            let at = plan.offset(view) + row * plan.stride(view);
            unsafe { std::slice::from_raw_parts_mut(buffers[view.buffer.0].add(at), view.columns) }
        };
        if self.resident != Some(plan.layout) {
            for (buffer, &begin) in plan.buffers.iter().zip(&buffers) {
                if let Some(numbers) = &buffer.initial {
                    // SAFETY: as above.
                    unsafe { std::slice::from_raw_parts_mut(begin, numbers.len()) }.copy_from_slice(numbers);
                }
            }
            self.resident = Some(plan.layout);
        }
        for (view, source) in inputs {
            let numbers = match source {
                Source::Host(numbers) => numbers,
                Source::Resident(resident) => host_memory(resident),
            };
            assert_eq!(numbers.len(), view.rows * view.columns, "an input does not fill its view");
            numbers
                .chunks_exact(view.columns.max(1))
                .enumerate()
                .for_each(|(r, from)| row(view, r).copy_from_slice(from));
        }

        let Schedule { phases, threads, scratch, .. } = &prepared.schedule;
        let scratches: Vec<ScratchPointer> = self.scratch[..*threads]
            .iter_mut()
            .map(|arena| {
                arena.reserve(*scratch);
                ScratchPointer(arena.numbers_mut().as_mut_ptr())
            })
            .collect();
        let context = Context::new(plan, &self.weights, &buffers, &prepared.ropes);
        let barrier = Barrier::new(*threads);
        let work = |thread: usize| {
            let _guard = barrier.guard();
            // SAFETY: each thread has a scratch of its own, of this length.
            let scratch = unsafe { std::slice::from_raw_parts_mut(scratches[thread].0, *scratch) };
            for phase in phases {
                for op in &plan.ops[phase.ops.clone()] {
                    if let Some(part) = phase.part(thread, op.output().columns) {
                        // SAFETY: `phases::split` puts ops into one phase only if no thread reads what another one writes
                        // in it, and the barrier separates phases.
                        unsafe { context.run(op, part, scratch) };
                    }
                }
                barrier.wait();
            }
        };
        match &self.pool {
            Some(pool) if *threads > 1 => {
                pool.broadcast(|thread| {
                    if thread.index() < *threads {
                        work(thread.index());
                    }
                });
            }
            _ => work(0),
        }

        for (view, target) in outputs.iter_mut() {
            let numbers = match target {
                Target::Host(numbers) => &mut **numbers,
                Target::Resident(resident) => memory_for(resident, view.rows * view.columns),
            };
            assert_eq!(numbers.len(), view.rows * view.columns, "an output does not hold its view");
            numbers
                .chunks_exact_mut(view.columns.max(1))
                .enumerate()
                .for_each(|(r, to)| to.copy_from_slice(row(view, r)));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn forget(&mut self, layout: Layout) {
        self.prepared.remove(&layout);
    }

    fn bytes(&self) -> u64 {
        let weights: usize = self.weights.iter().map(CpuWeight::bytes).sum();
        let kept: usize = self.prepared.values().map(|prepared| prepared.kept.bytes()).sum();
        let scratch: usize = self.scratch.iter().map(Arena::bytes).sum();
        (weights + kept + scratch + self.arena.bytes()) as u64
    }
}

/// A thread's own scratch.
struct ScratchPointer(*mut f32);

// SAFETY: each is handed to one thread.
unsafe impl Sync for ScratchPointer {}

fn host_memory(resident: &Resident) -> &[f32] {
    match &resident.memory {
        Memory::Host(numbers) => numbers,
        #[cfg(feature = "gpu")]
        Memory::Device(_) => unreachable!("a resident belongs to the executor that made it"),
    }
}

fn memory_for(resident: &mut Option<Resident>, numbers: usize) -> &mut [f32] {
    if resident.as_ref().is_none_or(|resident| resident.numbers != numbers) {
        *resident = None;
    }
    let memory = || Resident { numbers, memory: Memory::Host(vec![0.0; numbers]) };
    match &mut resident.get_or_insert_with(memory).memory {
        Memory::Host(numbers) => numbers,
        #[cfg(feature = "gpu")]
        Memory::Device(_) => unreachable!("a resident belongs to the executor that made it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Architecture, Expert, ExpertAttention, ExpertLayer, Flow, Text, Vision};
    use crate::noise::fill_normal;
    use crate::plan::{Network, Numbers, Shape};

    /// Random weights, small enough that the network stays in range.
    struct Random;

    impl WeightSource for Random {
        fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
            let mut numbers = vec![0.0; weight.rows * weight.columns];
            fill_normal(&mut numbers, weight.tensors.concat().bytes().map(u64::from).sum());
            let scale = 1.0 / (weight.columns as f32).sqrt();
            numbers.iter_mut().for_each(|number| *number *= scale);
            Ok(Numbers::F32(numbers))
        }
    }

    /// Large enough that all three sections are worth several threads.
    fn network() -> Network {
        let layer = |text_layer, attention| ExpertLayer { text_layer, attention };
        Network::new(Architecture {
            vision: Vision {
                layers: 1,
                width: 96,
                feed_forward: 192,
                heads: 3,
                channels: 3,
                patch_px: 4,
                image_width_px: 96,
                image_height_px: 96,
                positions_per_side: 24,
                epsilon: 1e-6,
                shuffle_factor: 2,
            },
            text: Text {
                layers: 2,
                width: 256,
                feed_forward: 512,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                vocabulary: 1,
                epsilon: 1e-5,
            },
            expert: Expert {
                width: 192,
                feed_forward: 512,
                layers: vec![layer(0, ExpertAttention::Joint), layer(1, ExpertAttention::Cross)],
            },
            flow: Flow { chunk: 130, steps: 2, max_state: 8, max_action: 8, min_period: 4e-3, max_period: 4.0 },
            image_special_tokens: false,
            video: None,
            sensors: None,
        })
    }

    /// Runs a whole network on random inputs; the velocities of all steps.
    fn run(executor: &mut CpuExecutor, network: &Network, cameras: usize, language_tokens: usize) -> Vec<f32> {
        let random = |view: View| {
            let mut numbers = vec![0.0; view.rows * view.columns];
            fill_normal(&mut numbers, view.rows as u64);
            numbers
        };
        let encode = network.encode(cameras, 1).unwrap();
        let mut tokens: Vec<Option<Resident>> = (0..cameras).map(|_| None).collect();
        let mut outputs: Vec<_> =
            encode.embeddings.iter().copied().zip(tokens.iter_mut().map(Target::Resident)).collect();
        executor.run(&encode.plan, &[(encode.patches, Source::Host(&random(encode.patches)))], &mut outputs).unwrap();

        let shape = Shape { requests: 1, cameras, empty_cameras: 0, language_tokens };
        let prefix = network.prefix(shape).unwrap();
        let views = &prefix.requests[0];
        let (language, state) = (random(views.language), random(views.state));
        let mut inputs = vec![(views.language, Source::Host(&language)), (views.state, Source::Host(&state))];
        for (view, tokens) in views.images.iter().zip(&tokens) {
            inputs.push((*view, Source::Resident(tokens.as_ref().unwrap())));
        }
        let mut caches: Vec<Option<Resident>> = prefix.caches[0].iter().map(|_| None).collect();
        let mut outputs: Vec<_> =
            prefix.caches[0].iter().copied().zip(caches.iter_mut().map(Target::Resident)).collect();
        executor.run(&prefix.plan, &inputs, &mut outputs).unwrap();

        let denoise = network.denoise(shape).unwrap();
        let noise = random(denoise.actions[0]);
        let mut inputs = vec![(denoise.actions[0], Source::Host(noise.as_slice()))];
        for (view, cache) in denoise.caches[0].iter().zip(&caches) {
            inputs.push((*view, Source::Resident(cache.as_ref().unwrap())));
        }
        let mut velocity: Vec<Vec<f32>> = denoise.velocity.iter().map(|v| vec![0.0; v.rows * v.columns]).collect();
        let mut outputs: Vec<_> =
            denoise.velocity.iter().copied().zip(velocity.iter_mut().map(|numbers| Target::Host(numbers))).collect();
        executor.run(&denoise.plan, &inputs, &mut outputs).unwrap();
        velocity.concat()
    }

    fn executor(network: &Network, threads: usize) -> CpuExecutor {
        CpuExecutor::new(network.weights(), &Random, NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn several_threads_compute_what_one_computes_and_the_same_every_time() {
        let network = network();
        let one = run(&mut executor(&network, 1), &network, 2, 5);
        assert!(one.iter().any(|x| x.abs() > 0.1));

        let mut several = executor(&network, 3);
        let three = run(&mut several, &network, 2, 5);
        assert_eq!(several.prepared.len(), 3);
        for prepared in several.prepared.values() {
            assert_eq!(prepared.schedule.threads, 3, "a plan is too small to show anything");
        }
        let worst = one.iter().zip(&three).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        for _ in 0..3 {
            assert_eq!(run(&mut several, &network, 2, 5), three);
        }
    }

    #[test]
    fn plans_take_turns_in_one_arena_and_what_is_forgotten_frees_its_memory() {
        let network = network();
        let mut executor = executor(&network, 1);
        let first = run(&mut executor, &network, 1, 3);
        assert_ne!(run(&mut executor, &network, 1, 40), first);
        assert_eq!(run(&mut executor, &network, 1, 3), first);
        let layouts: Vec<Layout> = executor.prepared.keys().copied().collect();
        layouts.into_iter().for_each(|layout| executor.forget(layout));
        assert!(executor.prepared.is_empty());
        assert_eq!(run(&mut executor, &network, 1, 3), first);
    }
}
