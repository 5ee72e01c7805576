//! Loads a foundation model checkpoint and runs it, on wgpu or on the CPU.
