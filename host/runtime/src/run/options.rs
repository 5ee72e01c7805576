//! What an operator decides about a host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use waza_package::{Compiler, Layout, Permission};

use crate::limits::Budgets;

/// What an operator decides about a host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// What one run may use.
    pub budgets: Budgets,
    /// What all runs may use together of memory, that of the host's behind their handles included, bytes. 2 GiB. The last
    /// eighth is for runs that use no more than 32 MiB; when that is taken no other run begins.
    pub memory_bytes: usize,
    /// Robot time that one inference takes under [`Pace::Lockstep`](waza_robot::Pace::Lockstep), ticks. In real time the real
    /// latency counts.
    pub model_latency_ticks: u32,
    /// Who answers the questions of skills.
    pub operator: Operator,
    /// Robot time in which a new version of an engaged controller that fails is replaced by the version before.
    pub controller_probation: Duration,
    /// Permissions that no skill gets, whatever it declares.
    pub withheld: BTreeSet<Permission>,
    /// Robot time after which a lease ends whose holder neither moves nor calls the host.
    pub lease_term: Duration,
    /// How a running skill changes its version.
    pub swap: SwapOptions,
    /// The folder in which the host keeps what it must know after a restart: compiled components, checkpoints of runs, the
    /// quarantine. None: it forgets.
    pub state: Option<PathBuf>,
    /// Another folder for compiled components than that in `state`, which several hosts may share. None, and no `state`: they
    /// go with the host.
    pub cache: Option<PathBuf>,
    /// Where packages are compiled. Those of strangers: in a process of its own.
    pub compiler: Compiler,
    /// Where the files of packages may lie.
    pub layout: Layout,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            budgets: Budgets::default(),
            memory_bytes: 2 << 30,
            model_latency_ticks: 5,
            operator: Operator::Absent,
            controller_probation: Duration::from_secs(1),
            withheld: BTreeSet::new(),
            lease_term: Duration::from_secs(30),
            swap: SwapOptions::default(),
            state: None,
            cache: None,
            compiler: Compiler::Here,
            layout: Layout::Package,
        }
    }
}

/// Who answers the questions of skills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Nobody: a question is refused as unavailable.
    Absent,
    /// Agrees to everything.
    SaysYes,
    /// Refuses everything.
    SaysNo,
}

/// How running skills change versions. All times are robot time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapOptions {
    /// How long an old version may take to its next checkpoint before it is stopped.
    pub patience: Duration,
    /// How long a new version may take to its first call.
    pub first_call: Duration,
    /// How long the old version stands by after the new one has taken over. What a play draws is known when it ends, so a
    /// play that began in this time is waited for.
    pub probation: Duration,
}

impl Default for SwapOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            first_call: Duration::from_secs(1),
            probation: Duration::from_secs(10),
        }
    }
}
