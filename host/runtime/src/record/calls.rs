//! Every call of the contract: what it is named in a record, what it takes and what it answers.

/// Hands the calls to a macro that implements the contract's traits. First those that are answered at once, then those that
/// are awaited or open a stream; what these answer has room for a refusal.
macro_rules! calls {
    ($implement:ident) => {
        $implement! {
            at_once {
                clock::Host {
                    now = "clock.now" () -> wasmtime::Result<u64>;
                }
                sensing::Host {
                    robot = "sensing.robot" () -> wasmtime::Result<sensing::Embodiment>;
                }
                sensing::HostObservation {
                    taken = "observation.taken" (seen: Resource<Observed>) -> wasmtime::Result<u64>;
                    joints = "observation.joints" (seen: Resource<Observed>) -> wasmtime::Result<Vec<sensing::Joint>>;
                    samples = "observation.samples" (seen: Resource<Observed>, sensor: String)
                        -> Result<sensing::Samples, Fault>;
                    pixels = "observation.pixels" (seen: Resource<Observed>, camera: String)
                        -> Result<sensing::Image, Fault>;
                    drop = "observation.drop" (seen: Resource<Observed>) -> wasmtime::Result<()>;
                }
                actions::Host {}
                actions::HostActionChunk {
                    new = "action-chunk.new" (rate_hz: f32, rows: Vec<Vec<f32>>) -> wasmtime::Result<Resource<Chunk>>;
                    rate_hz = "action-chunk.rate-hz" (chunk: Resource<Chunk>) -> wasmtime::Result<f32>;
                    steps = "action-chunk.steps" (chunk: Resource<Chunk>) -> wasmtime::Result<Vec<Vec<f32>>>;
                    since = "action-chunk.since" (chunk: Resource<Chunk>) -> wasmtime::Result<Option<u64>>;
                    drop = "action-chunk.drop" (chunk: Resource<Chunk>) -> wasmtime::Result<()>;
                }
                model::Host {
                    about = "model.about" () -> wasmtime::Result<model::Info>;
                }
                motion::Host {}
                motion::HostLease {
                    engage = "lease.engage" (lease: Resource<Lease>, controller: String, goal: Vec<f32>)
                        -> Result<(), Fault>;
                    hold = "lease.hold" (lease: Resource<Lease>) -> Result<(), Fault>;
                    drop = "lease.drop" (lease: Resource<Lease>) -> wasmtime::Result<()>;
                }
                operator::Host {
                    progress = "operator.progress" (fraction: f32, note: String) -> wasmtime::Result<()>;
                }
                durable::Host {}
                skills::Host {}
            }
            in_time {
                clock::HostWithStore {
                    async wait = "clock.wait" (until: u64) -> ();
                }
                sensing::HostWithStore {
                    async observe = "sensing.observe" () -> Resource<Observed>;
                    stream watch = "sensing.watch" (rate_hz: f32) -> Resource<Observed>;
                }
                model::HostWithStore {
                    async act = "model.act" (instruction: String, seen: Vec<Resource<Observed>>) -> Resource<Chunk>;
                    async ask = "model.ask" (question: String, seen: Vec<Resource<Observed>>) -> model::Answer;
                    async locate = "model.locate" (what: String, seen: Resource<Observed>) -> Vec<model::Detection>;
                    async embed = "model.embed" (text: String, seen: Vec<Resource<Observed>>) -> Vec<f32>;
                }
                motion::HostWithStore {
                    async acquire = "motion.acquire" (parts: Vec<String>) -> Resource<Lease>;
                }
                motion::HostLeaseWithStore {
                    async play = "lease.play" (lease: Resource<Lease>, chunk: Resource<Chunk>)
                        -> Vec<motion::Intervention>;
                    async move_joints = "lease.move-joints" (lease: Resource<Lease>, positions: Vec<f32>, speed: f32)
                        -> Vec<motion::Intervention>;
                    async move_tool = "lease.move-tool" (lease: Resource<Lease>, target: types::Pose, speed: f32)
                        -> Vec<motion::Intervention>;
                    async grip = "lease.grip" (lease: Resource<Lease>, opening: f32, effort: f32) -> f32;
                    stream rollout = "lease.rollout" (lease: Resource<Lease>, options: motion::RolloutOptions)
                        -> motion::RolloutEvent;
                }
                operator::HostWithStore {
                    async confirm = "operator.confirm" (question: String) -> bool;
                }
                durable::HostWithStore {
                    async checkpoint = "durable.checkpoint" (state: Vec<u8>) -> ();
                }
                skills::HostWithStore {
                    async invoke = "skills.invoke" (skill: String, instruction: String, parameters: String)
                        -> types::Outcome;
                }
            }
        }
    };
}
pub(crate) use calls;
