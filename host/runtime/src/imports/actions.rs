//! `actions`: chunks, which have no power by themselves.

use wasmtime::component::Resource;

use super::Run;
use crate::contract::{Chunk, Held, actions};

impl actions::Host for Run {}

impl actions::HostActionChunk for Run {
    fn new(&mut self, rate_hz: f32, rows: Vec<Vec<f32>>) -> wasmtime::Result<Resource<Chunk>> {
        let chunk = Chunk { rate_hz, rows, since_tick: None };
        self.context.carry(chunk.bytes(self.context.robot().embodiment())).map_err(wasmtime::Error::new)?;
        self.push_held(chunk)
    }

    fn rate_hz(&mut self, chunk: Resource<Chunk>) -> wasmtime::Result<f32> {
        Ok(self.table.get(&chunk)?.rate_hz)
    }

    fn steps(&mut self, chunk: Resource<Chunk>) -> wasmtime::Result<Vec<Vec<f32>>> {
        let chunk = self.table.get(&chunk)?;
        self.context.carry(chunk.bytes(self.context.robot().embodiment())).map_err(wasmtime::Error::new)?;
        Ok(chunk.rows.clone())
    }

    fn since(&mut self, chunk: Resource<Chunk>) -> wasmtime::Result<Option<u64>> {
        let since = self.table.get(&chunk)?.since_tick;
        Ok(since.map(|tick| self.context.robot().tick_ns(tick)))
    }

    fn drop(&mut self, chunk: Resource<Chunk>) -> wasmtime::Result<()> {
        self.take_held(chunk)?;
        Ok(())
    }
}
