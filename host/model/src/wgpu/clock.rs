//! How long the sections of a plan take on the device itself, where the adapter has timestamps.

use std::time::Duration;

use super::device::Gpu;
use crate::executor::Sections;

/// One timestamp at each end of each section.
const STAMPS: u32 = 2 * Clock::SECTIONS as u32;

/// The timestamps of one executor's runs.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    nanoseconds_per_tick: f64,
}

impl Clock {
    /// Compute passes that are timed: one for each field of [`Sections`].
    pub(super) const SECTIONS: usize = 3;
    /// Bytes that [`Clock::read`] takes.
    pub(super) const BYTES: u64 = 8 * STAMPS as u64;

    /// A clock, if the adapter has one.
    pub(super) fn new(gpu: &Gpu) -> Option<Self> {
        let device = gpu.device();
        device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("sections"),
                ty: wgpu::QueryType::Timestamp,
                count: STAMPS,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("sections"),
                size: Self::BYTES,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            nanoseconds_per_tick: gpu.queue().get_timestamp_period().into(),
        })
    }

    /// What the pass of a section has to write.
    pub(super) fn stamps(&self, section: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * section),
            end_of_pass_write_index: Some(2 * section + 1),
        }
    }

    /// Copies the stamps of the passes before it to [`Clock::BYTES`] bytes of `target`.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, target: &wgpu::Buffer, offset: u64) {
        encoder.resolve_query_set(&self.queries, 0..STAMPS, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, target, offset, Self::BYTES);
    }

    /// What the copied stamps say.
    pub(super) fn read(&self, stamps: &[u8]) -> Sections {
        let stamps: Vec<u64> = stamps.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let section = |index: usize| {
            // A driver may reset its clock between two stamps.
            let ticks = stamps[2 * index + 1].saturating_sub(stamps[2 * index]);
            Duration::from_nanos((ticks as f64 * self.nanoseconds_per_tick) as u64)
        };
        Sections { vision: section(0), prefix: section(1), denoise: section(2) }
    }
}
