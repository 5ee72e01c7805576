//! Which adapter runs the model, and everything that can go wrong with it.
//!
//! wgpu reports most faults through callbacks, and panics when nobody listens. [`Gpu`] listens, and
//! [`Gpu::check`] turns what was heard into an [`ExecutorError`] at the next safe point.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::executor::ExecutorError;

/// Which adapters will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapters {
    /// Hardware only: a software adapter computes on the same cores as the CPU executor, and slower.
    Hardware,
    /// Hardware if there is some, else a software adapter such as Mesa's lavapipe.
    Any,
}

/// A device that works longer than this on one run hangs. Most drivers reset it themselves after 2 to 10 s, but not all of
/// them when it computes.
const LONGEST_RUN: Duration = Duration::from_secs(20);
/// Software adapters are slow.
const LONGEST_RUN_IN_SOFTWARE: Duration = Duration::from_secs(120);

/// An open device with its queue.
///
/// It cannot be cloned: threads that wait on one wgpu device hold each other up, and may take each other's answers.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    software: bool,
    software_lanes: Option<u32>,
    pipeline_cache_key: Option<String>,
    longest_run: Duration,
    faults: Arc<Mutex<Option<Fault>>>,
}

/// What wgpu reported.
#[derive(Clone)]
struct Fault {
    kind: Kind,
    cause: String,
}

/// In the order of weight: what is heavier outranks what came before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Failed,
    Memory,
    /// A lost device stays lost.
    Lost,
    /// So does one that hangs, and it may not even be closed.
    Hung,
}

impl Gpu {
    /// Opens the best adapter: discrete before integrated before virtual before software.
    ///
    /// # Errors
    /// [`ExecutorError::Unavailable`] if there is none, or its driver refuses.
    pub fn open(adapters: Adapters) -> Result<Gpu, ExecutorError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
            .into_iter()
            .filter(|adapter| adapters == Adapters::Any || !is_software(&adapter.get_info()))
            .min_by_key(|adapter| rank(adapter.get_info().device_type))
            .ok_or_else(|| unavailable(match adapters {
                Adapters::Hardware => "no driver offers a hardware adapter; install the Vulkan driver of your GPU",
                Adapters::Any => {
                    "no driver offers an adapter; install the Vulkan driver of your GPU, or a software one (on Debian, \
                     `mesa-vulkan-drivers`)"
                }
            }))?;
        let info = adapter.get_info();
        let software = is_software(&info);
        let name = format!("{} ({}{})", info.name, info.backend, if software { ", software" } else { "" });
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SUBGROUP, software);
        features.set(wgpu::Features::PIPELINE_CACHE, true);
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("waza model"),
            required_features: adapter.features() & features,
            required_limits: adapter.limits(),
            ..Default::default()
        }))
        .map_err(|error| unavailable(format!("{name} cannot be opened: {error}; update its driver")))?;

        let faults = Arc::new(Mutex::new(None));
        let heard = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let (kind, cause) = match error {
                wgpu::Error::OutOfMemory { source } => (Kind::Memory, source.to_string()),
                wgpu::Error::Validation { description, .. } => {
                    (Kind::Failed, format!("rejected the program: {description}"))
                }
                wgpu::Error::Internal { description, .. } => (Kind::Failed, description),
            };
            note(&heard, Fault { kind, cause });
        }));
        let heard = faults.clone();
        // Dropping the last handle of a device also counts as losing it, but then nobody is left to look at this.
        device.set_device_lost_callback(move |_, message| note(&heard, Fault { kind: Kind::Lost, cause: message }));
        let keeps = device.features().contains(wgpu::Features::PIPELINE_CACHE);
        let pipeline_cache_key = if keeps { wgpu::util::pipeline_cache_key(&info) } else { None };
        // A subgroup there is a SIMD vector: 128, 256 or 512 bits.
        let lanes = info.subgroup_min_size;
        let usable = software
            && device.features().contains(wgpu::Features::SUBGROUP)
            && lanes == info.subgroup_max_size
            && [4, 8, 16].contains(&lanes);
        Ok(Gpu {
            device,
            queue,
            name,
            software,
            software_lanes: usable.then_some(lanes),
            pipeline_cache_key,
            longest_run: if software { LONGEST_RUN_IN_SOFTWARE } else { LONGEST_RUN },
            faults,
        })
    }

    /// The adapter's name with its API, and `software` where it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the adapter computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.software
    }

    /// What compiled kernels of this adapter may be kept under, if it can take them back.
    pub(super) fn pipeline_cache_key(&self) -> Option<&str> {
        self.pipeline_cache_key.as_deref()
    }

    /// Threads of a subgroup, if kernels for software adapters can run here.
    pub(super) fn software_lanes(&self) -> Option<u32> {
        self.software_lanes
    }

    /// What the adapter offers.
    pub fn limits(&self) -> wgpu::Limits {
        self.device.limits()
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Reports the first fault since the last check.
    ///
    /// # Errors
    /// [`ExecutorError::Failed`], [`ExecutorError::Memory`], [`ExecutorError::Lost`] or [`ExecutorError::Hung`].
    pub(super) fn check(&self) -> Result<(), ExecutorError> {
        if self.faults.lock().is_some() {
            // What is asked of a lost device is invalid, and that is heard first. That the device is lost, a poll says.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        let mut fault = self.faults.lock();
        let Some(Fault { kind, cause }) = fault.clone() else { return Ok(()) };
        let device = self.name.clone();
        Err(match kind {
            Kind::Hung => ExecutorError::Hung { device, seconds: self.longest_run.as_secs() },
            Kind::Lost => ExecutorError::Lost { device, cause },
            Kind::Memory => {
                *fault = None;
                ExecutorError::Memory { device, cause }
            }
            Kind::Failed => {
                *fault = None;
                ExecutorError::Failed { device, cause }
            }
        })
    }

    /// Waits until `submission` is done.
    ///
    /// # Errors
    /// If the device fails, or does not answer in time.
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), ExecutorError> {
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: Some(self.longest_run) };
        match self.device.poll(wait) {
            Ok(_) => self.check(),
            Err(wgpu::PollError::Timeout) => {
                note(&self.faults, Fault { kind: Kind::Hung, cause: String::new() });
                self.check()
            }
            Err(error) => self.check().and(Err(self.failed(error.to_string()))),
        }
    }

    /// From now on gives the device no time at all, as if it hung. For tests.
    pub(super) fn hang(&mut self) {
        self.longest_run = Duration::ZERO;
    }

    /// Refuses a need beyond what the adapter offers.
    pub(super) fn require(&self, what: &str, needed: u64, offered: u64) -> Result<(), ExecutorError> {
        if needed <= offered {
            return Ok(());
        }
        Err(unavailable(format!("the model needs {needed} {what}, and {} offers {offered}", self.name)))
    }

    /// Refuses a buffer that no kernel could bind or index.
    pub(super) fn require_buffer(&self, numbers: usize) -> Result<(), ExecutorError> {
        let limits = self.limits();
        let offered = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(u32::MAX.into());
        self.require("bytes in one buffer", 4 * numbers as u64, offered)
    }

    /// An error of this adapter.
    pub(super) fn failed(&self, cause: impl Into<String>) -> ExecutorError {
        ExecutorError::Failed { device: self.name.clone(), cause: cause.into() }
    }
}

fn unavailable(cause: impl Into<String>) -> ExecutorError {
    ExecutorError::Unavailable { device: "GPU", cause: cause.into() }
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    info.device_type == wgpu::DeviceType::Cpu
}

fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// Keeps the first fault, since later ones follow from it; but a heavier one outranks it.
fn note(faults: &Mutex<Option<Fault>>, fault: Fault) {
    let mut first = faults.lock();
    if first.as_ref().is_none_or(|first| fault.kind > first.kind) {
        *first = Some(fault);
    }
}
