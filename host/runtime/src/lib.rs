//! Runs skills as sandboxed WebAssembly components against a robot and a model.
