//! GEMM throughput of the GPU executor on shapes of the 450 M model, and the latency of a small whole model.
//!
//!     cargo bench -p waza-model --bench gpu

use std::time::Instant;

use waza_model::executor::Executor;
use waza_model::plan::{
    Activation, Buffer, BufferId, Inputs, Numbers, Op, Outputs, Pick, Plan, Shape, View, Weight, WeightId, WeightSource,
};
use waza_model::wgpu::{Adapters, Gpu, WgpuExecutor};
use waza_model::{Checkpoint, CheckpointError, Device, Policy, bench};

/// Weights of no meaning.
struct Waves;

impl WeightSource for Waves {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        Ok(Numbers::F32((0..weight.rows * weight.columns).map(|i| (i as f32).sin()).collect()))
    }
}

/// A plan of `repeats` equal GEMMs, with the activations' shape.
fn gemms(m: usize, n: usize, k: usize, repeats: usize) -> Plan {
    let buffer = |columns| Buffer { name: "activations", rows: m, columns, initial: None };
    let view = |id, columns| View { buffer: BufferId(id), row: 0, rows: m, column: 0, columns };
    let op = Op::Gemm {
        input: view(0, k),
        weight: WeightId(0),
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
        residual: None,
        output: view(1, n),
    };
    let inputs = Inputs {
        patches: view(0, k),
        specials: Vec::new(),
        special_tokens: Vec::new(),
        language: view(0, k),
        state: view(0, k),
        noise: view(0, k),
    };
    let outputs = Outputs { image_embeddings: Vec::new(), velocity: view(1, n), actions: view(1, n) };
    Plan {
        shape: Shape { cameras: 1, empty_cameras: 0, language_tokens: 1 },
        buffers: vec![buffer(k), buffer(n)],
        vision: vec![op; repeats],
        prefix: Vec::new(),
        invariant: Vec::new(),
        steps: Vec::new(),
        inputs,
        outputs,
    }
}

fn main() {
    measure_gemms();
    measure_actions();
}

fn measure_gemms() {
    println!("{:>6} {:>6} {:>6}  GFLOP/s", "m", "n", "k");
    for (m, n, k) in [(512, 2560, 960), (1024, 768, 3072), (50, 2048, 720), (50, 320, 720)] {
        let gpu = Gpu::open(Adapters::Any).unwrap_or_else(|error| panic!("{error}"));
        let weight = Weight { rows: n, columns: k, tensors: Vec::new(), take: 0..k, pick: Pick::All };
        let mut executor = WgpuExecutor::new(gpu, &[weight], &Waves).unwrap_or_else(|error| panic!("{error}"));
        let repeats = 2;
        let plan = gemms(m, n, k, repeats);
        let input: Vec<f32> = (0..m * k).map(|i| (i as f32).cos()).collect();
        let mut output = vec![0.0; m * n];
        let mut fastest = f64::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            let outputs = &mut [(plan.outputs.velocity, &mut output[..])];
            executor.run(&plan, &[(plan.inputs.patches, &input)], outputs).unwrap_or_else(|error| panic!("{error}"));
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        let flop = 2.0 * (repeats * m * n * k) as f64;
        println!("{m:>6} {n:>6} {k:>6}  {:>7.1}  {}", flop / fastest / 1e9, executor.device());
    }
}

fn measure_actions() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvla-a/checkpoint");
    let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{error}"));
    for device in [Device::Cpu, Device::Gpu] {
        let mut policy = Policy::new(&checkpoint, device).unwrap_or_else(|error| panic!("{error}"));
        let report = bench::measure(&mut policy, "pick up the red cube", 20).unwrap_or_else(|error| panic!("{error}"));
        println!("{report:#?}");
    }
}
