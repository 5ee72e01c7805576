//! Products of the shapes that a stock SmolVLA is made of, on every executor that is here.
//!
//!     cargo bench -p waza-model --bench gemm
//!
//! Weights are f32 and bf16. `waza-bench model` measures whole models.

use waza_model::Device;
use waza_model::bench::{Format, gemm_gflop_per_s};

/// `[m, n, k]` and where it comes from.
const SHAPES: [([usize; 3], &str); 6] = [
    ([1024, 3072, 768], "vision, one camera"),
    ([1024, 768, 3072], "vision, one camera"),
    ([512, 2560, 960], "language model, a long prefix"),
    ([113, 960, 2560], "language model, one camera"),
    ([50, 4096, 720], "expert"),
    ([1, 960, 2560], "language model, one word"),
];

fn main() {
    println!("{:>5} {:>5} {:>5} {:>8} {:>8} {:>8} {:>8}  GFLOP/s", "m", "n", "k", "cpu", "bf16", "gpu", "bf16");
    for (shape, place) in SHAPES {
        let [m, n, k] = shape;
        print!("{m:>5} {n:>5} {k:>5}");
        for device in [Device::Cpu, Device::Gpu] {
            for format in [Format::F32, Format::Bf16] {
                match gemm_gflop_per_s(device, shape, format) {
                    Ok(speed) => print!(" {speed:>8.1}"),
                    Err(_) => print!(" {:>8}", "-"),
                }
            }
        }
        println!("  {place}");
    }
}
