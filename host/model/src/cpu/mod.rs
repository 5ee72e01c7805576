//! The executor for CPUs: the `gemm` crate for products, loops that the compiler vectorises for the rest.
//!
//! Almost every op of a plan computes row `r` of its output from row `r` of its inputs, so work is split by rows, once for
//! many ops: a *phase* (`phases.rs`) is a run of ops that each thread takes through its own rows without waiting, and
//! threads meet only between phases. A request is one broadcast to the pool, however many ops it has; memory for numbers is
//! laid out when a shape is first seen, and after that only `gemm` takes some, for packing.

mod barrier;
mod math;
mod memory;
mod ops;
mod phases;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::CheckpointError;
use crate::executor::{Executor, ExecutorError, Sections, Timing};
use crate::plan::{Network, Op, Plan, Shape, View, Weight, WeightSource};
use barrier::Barrier;
use memory::{Arena, CpuWeight};
use ops::{Context, RopeTables, attention_scratch};
use phases::{Phase, Section};

/// More threads than this wait for each other longer than they compute, on chunks of common length.
const MOST_THREADS: usize = 16;

/// Runs plans on the CPU.
pub struct CpuExecutor {
    weights: Vec<CpuWeight>,
    pool: Option<ThreadPool>,
    threads: usize,
    device: String,
    arena: Arena,
    /// The plan whose constants the arena holds.
    resident: Option<Shape>,
    prepared: HashMap<Shape, Prepared>,
}

/// What is worked out once for each shape.
struct Prepared {
    /// Where each buffer begins in the arena, and behind them each thread's scratch.
    offsets: Vec<usize>,
    scratch: Vec<usize>,
    scratch_len: usize,
    numbers: usize,
    ops: Vec<Op>,
    phases: Vec<Phase>,
    /// Threads that have any part in it.
    threads: usize,
    ropes: RopeTables,
}

/// As many threads as the machine (or the container) has, up to a sensible most.
pub fn default_threads() -> NonZeroUsize {
    let threads = available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
    NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)
}

impl CpuExecutor {
    /// Loads the weights of `network`. Results are equal bit for bit for an equal number of threads; if the system gives
    /// none, the caller's own thread does the work.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn new(network: &Network, source: &dyn WeightSource, threads: NonZeroUsize) -> Result<Self, CheckpointError> {
        let factors = factors(network);
        let weights = network.weights().iter().enumerate().map(|(id, weight)| load(weight, factors[id], source));
        let weights = weights.collect::<Result<_, _>>()?;
        let pool = match threads.get() {
            1 => None,
            n => ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("waza-model-{i}")).build().ok(),
        };
        let threads = pool.as_ref().map_or(1, ThreadPool::current_num_threads);
        let device = match threads {
            1 => "cpu (1 thread)".to_owned(),
            n => format!("cpu (up to {n} threads)"),
        };
        Ok(Self { weights, pool, threads, device, arena: Arena::default(), resident: None, prepared: HashMap::new() })
    }
}

/// Which weights are the right-hand side of a product; the rest are added or multiplied row by row.
fn factors(network: &Network) -> Vec<bool> {
    let mut factors = vec![false; network.weights().len()];
    let smallest = Shape { cameras: 1, empty_cameras: 0, language_tokens: 1 };
    if let Ok(plan) = network.plan(smallest) {
        for op in plan.ops() {
            if let Op::Gemm { weight, .. } = op {
                factors[weight.0] = true;
            }
        }
    }
    factors
}

fn load(weight: &Weight, factor: bool, source: &dyn WeightSource) -> Result<CpuWeight, CheckpointError> {
    let numbers = source.load(weight)?.into_f32();
    Ok(match factor {
        true => CpuWeight::factor(&numbers, weight.rows, weight.columns),
        false => CpuWeight::table(&numbers, weight.rows, weight.columns),
    })
}

impl Prepared {
    fn new(plan: &Plan, threads: usize) -> Self {
        let mut end = 0;
        let mut place = |numbers: usize| {
            let offset = end;
            end += Arena::padded(numbers);
            offset
        };
        let offsets = plan.buffers.iter().map(|b| place(b.rows * b.columns)).collect();
        let scratch_len = plan.ops().map(attention_scratch).max().unwrap_or(0);
        let phases = phases::split(plan, threads);
        let threads = phases.iter().map(Phase::parts).max().unwrap_or(1);
        let scratch = (0..threads).map(|_| place(scratch_len)).collect();
        let (ops, ropes) = (plan.ops().cloned().collect(), RopeTables::new(plan));
        Self { offsets, scratch, scratch_len, numbers: end, ops, phases, threads, ropes }
    }
}

impl Executor for CpuExecutor {
    fn device(&self) -> &str {
        &self.device
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, &[f32])],
        outputs: &mut [(View, &mut [f32])],
    ) -> Result<Timing, ExecutorError> {
        let start = Instant::now();
        let prepared = self.prepared.entry(plan.shape).or_insert_with(|| Prepared::new(plan, self.threads));
        self.arena.reserve(prepared.numbers);
        if self.resident != Some(plan.shape) {
            for (buffer, &offset) in plan.buffers.iter().zip(&prepared.offsets) {
                if let Some(numbers) = &buffer.initial {
                    self.arena.numbers_mut()[offset..][..numbers.len()].copy_from_slice(numbers);
                }
            }
            self.resident = Some(plan.shape);
        }
        for (view, numbers) in inputs {
            let rows = numbers.chunks_exact(view.columns);
            for (row, from) in rows.enumerate() {
                let at = prepared.offsets[view.buffer.0] + plan.offset(view) + row * plan.stride(view);
                self.arena.numbers_mut()[at..][..view.columns].copy_from_slice(from);
            }
        }

        let context = Context::new(plan, &self.weights, &prepared.offsets, &prepared.ropes, &mut self.arena);
        let barrier = Barrier::new(prepared.threads);
        let work = |thread: usize| {
            let _guard = barrier.guard();
            let mut clock = [Duration::ZERO; Section::COUNT];
            let mut since = Instant::now();
            for phase in &prepared.phases {
                if let Some(rows) = phase.part(thread) {
                    for op in &prepared.ops[phase.ops.clone()] {
                        let scratch = prepared.scratch[thread]..prepared.scratch[thread] + prepared.scratch_len;
                        // SAFETY: `phases::split` puts ops into one phase only if no thread reads rows that another one
                        // writes in it, the barrier separates phases, and the scratch is this thread's own.
                        unsafe { context.run(op, rows.clone(), scratch) };
                    }
                }
                barrier.wait();
                let now = Instant::now();
                clock[phase.section as usize] += now - since;
                since = now;
            }
            clock
        };
        let clock = match &self.pool {
            Some(pool) if prepared.threads > 1 => {
                let clocks = pool.broadcast(|thread| (thread.index() < prepared.threads).then(|| work(thread.index())));
                clocks[0].unwrap_or_default()
            }
            _ => work(0),
        };

        for (view, numbers) in outputs.iter_mut() {
            for (row, to) in numbers.chunks_exact_mut(view.columns).enumerate() {
                let at = prepared.offsets[view.buffer.0] + plan.offset(view) + row * plan.stride(view);
                to.copy_from_slice(&self.arena.numbers_mut()[at..][..view.columns]);
            }
        }
        let [vision, prefix, denoise] = clock;
        Ok(Timing { total: start.elapsed(), sections: Some(Sections { vision, prefix, denoise }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Architecture, Expert, ExpertAttention, ExpertLayer, Flow, Text, Vision};
    use crate::noise::fill_normal;
    use crate::plan::Numbers;

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

    fn run(executor: &mut CpuExecutor, plan: &Plan) -> Vec<f32> {
        let content: Vec<(View, Vec<f32>)> =
            [plan.inputs.patches, plan.inputs.language, plan.inputs.state, plan.inputs.noise]
                .into_iter()
                .map(|view| {
                    let mut numbers = vec![0.0; view.rows * view.columns];
                    fill_normal(&mut numbers, view.rows as u64);
                    (view, numbers)
                })
                .collect();
        let inputs: Vec<(View, &[f32])> = content.iter().map(|(view, numbers)| (*view, numbers.as_slice())).collect();
        let mut velocity = vec![0.0; plan.outputs.velocity.rows * plan.outputs.velocity.columns];
        executor.run(plan, &inputs, &mut [(plan.outputs.velocity, &mut velocity)]).unwrap();
        velocity
    }

    #[test]
    fn several_threads_compute_what_one_computes_and_the_same_every_time() {
        let network = network();
        let plan = network.plan(Shape { cameras: 2, empty_cameras: 0, language_tokens: 5 }).unwrap();
        let threads = |n| CpuExecutor::new(&network, &Random, NonZeroUsize::new(n).unwrap()).unwrap();
        let one = run(&mut threads(1), &plan);
        assert!(one.iter().any(|x| x.abs() > 0.1));

        let mut executor = threads(3);
        let three = run(&mut executor, &plan);
        let parts = |section| {
            let of_section = executor.prepared[&plan.shape].phases.iter().filter(move |phase| phase.section == section);
            of_section.map(Phase::parts).max()
        };
        for section in [Section::Vision, Section::Prefix, Section::Denoise] {
            assert_eq!(parts(section), Some(3), "{section:?} is too small to show anything");
        }
        let worst = one.iter().zip(&three).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        for _ in 0..3 {
            assert_eq!(run(&mut executor, &plan), three);
        }
    }

    #[test]
    fn plans_of_different_shapes_take_turns_in_one_arena() {
        let network = network();
        let plan = |tokens| network.plan(Shape { cameras: 1, empty_cameras: 0, language_tokens: tokens }).unwrap();
        let mut executor = CpuExecutor::new(&network, &Random, NonZeroUsize::MIN).unwrap();
        let (short, long) = (plan(3), plan(40));
        let first = run(&mut executor, &short);
        assert_ne!(run(&mut executor, &long), first);
        assert_eq!(run(&mut executor, &short), first);
    }
}
