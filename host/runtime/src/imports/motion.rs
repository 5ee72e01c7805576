//! `motion`: leases, and what moves under them.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use wasmtime::component::{Access, Accessor, HasSelf, Resource, StreamReader};
use waza_package::{Ability, Permission};
use waza_robot::{Ended, Intervention, Play, PlayReport, RobotError};

use super::stream::{queue, stream};
use super::{Call, Run, refused};
use crate::contract::{Chunk, Fault, Refusal, bytes_of, motion, types};
use crate::imports::pilot::engage;
use crate::imports::rollout::{self, Rollout};
use crate::leases::{Lease, Motion};
use crate::limits::Exhausted;
use crate::model::demand;
use crate::run::activity::PlayInFlight;
use crate::run::events::Event;

/// The part that `grip` moves, as [`waza_robot::Embodiment`]s name it.
const GRIPPER: &str = "gripper";

/// Of the gripper's highest speed.
const GRIP_SPEED: f32 = 0.5;

/// The longest rollout, s.
const LONGEST_S: f32 = 3600.0;

impl<T: Send + 'static> motion::HostWithStore<T> for HasSelf<Run> {
    async fn acquire(accessor: &Accessor<T, Self>, parts: Vec<String>) -> Result<Resource<Lease>, Fault> {
        accessor.with(|mut access| {
            let run = access.get();
            let context = run.context.clone();
            context.called();
            let robot = context.robot().embodiment();
            let mut joints = BTreeSet::new();
            for part in &parts {
                context.skill.grants.check_motion(part, robot).map_err(refused)?;
                let covered = robot.part_joints(part).ok_or_else(|| {
                    let all: Vec<_> = robot.parts.iter().map(|it| it.name.as_str()).collect();
                    Refusal::Unavailable(format!("there is no part {part}; there are {}", all.join(", ")))
                })?;
                joints.extend(covered);
            }
            if joints.is_empty() {
                return Err(Refusal::Invalid("a lease needs a part with a joint".into()).into());
            }
            let lease = context.leases().acquire(&context.holder(), joints)?;
            context.activity.take_over();
            Ok(run.push(lease)?)
        })
    }
}

impl motion::Host for Run {}

impl motion::HostLease for Run {
    fn engage(&mut self, lease: Resource<Lease>, controller: String, goal: Vec<f32>) -> Result<(), Fault> {
        let lease = self.table.get(&lease)?;
        lease.check()?;
        let context = &self.context;
        context.check(Permission::Skills(controller.clone()))?;
        Ok(engage(context, lease, &controller, goal)?)
    }

    fn hold(&mut self, lease: Resource<Lease>) -> Result<(), Fault> {
        Ok(self.table.get(&lease)?.hold()?)
    }

    fn drop(&mut self, lease: Resource<Lease>) -> wasmtime::Result<()> {
        // A motion may still hold on to it.
        self.table.delete(lease)?.end();
        Ok(())
    }
}

impl<T: Send + 'static> motion::HostLeaseWithStore<T> for HasSelf<Run> {
    async fn play(
        accessor: &Accessor<T, Self>,
        lease: Resource<Lease>,
        chunk: Resource<Chunk>,
    ) -> Result<Vec<motion::Intervention>, Fault> {
        let chunk = accessor.with(|mut access| access.get().take_held(chunk))?;
        let (context, motion, _play) = begin(accessor, &lease)?;
        let _call = context.meter.call()?;
        let play = Play {
            joints: motion.joints().clone(),
            rate_hz: chunk.rate_hz,
            rows: chunk.rows,
            since_tick: chunk.since_tick,
            within: context.skill.within.clone(),
        };
        let ended = context.holds.settle(context.robot().play_under(play, motion.fence())).await;
        Ok(interventions(&context, finished(&context, &motion, ended)?))
    }

    fn rollout(
        mut access: Access<'_, T, Self>,
        lease: Resource<Lease>,
        options: motion::RolloutOptions,
    ) -> Result<StreamReader<motion::RolloutEvent>, Fault> {
        let run = access.get();
        let context = run.context.clone();
        context.check(Permission::Model)?;
        context.check(Permission::Sensing)?;
        let control_hz = context.robot().embodiment().control_hz;
        let motion::RolloutOptions { instruction, max_seconds, observe_hz, replan_rows } = options;
        let invalid = |what: String| Err(Refusal::Invalid(what).into());
        if !(max_seconds > 0.0 && max_seconds <= LONGEST_S) {
            return invalid(format!("max-seconds is {max_seconds}, it must lie in (0, {LONGEST_S}]"));
        }
        if !(0.0..=control_hz).contains(&observe_hz) {
            return invalid(format!("observe-hz is {observe_hz}, it must lie in [0, {control_hz}]"));
        }
        let about = context.model().about();
        demand(Ability::Act, about)?;
        let said = about.action_steps.unwrap_or(about.chunk_length / 2);
        let replan_rows = replan_rows.unwrap_or(said.max(1) as u32);
        if replan_rows == 0 {
            return invalid("replan-rows is 0, it must be at least 1".into());
        }
        context.carry(instruction.len())?;
        let open = context.meter.call()?;
        let motion = run.table.get(&lease)?.begin()?;
        let (events, reader) = queue();
        let rollout = Rollout {
            context: context.clone(),
            motion,
            instruction,
            ticks: (f64::from(max_seconds) * f64::from(control_hz)).ceil() as u64,
            observe_ticks: (observe_hz > 0.0).then(|| f64::from(control_hz) / f64::from(observe_hz)),
            replan_rows,
            events,
        };
        context.spawn(open, rollout.run());
        Ok(stream(access, reader, deliver)?)
    }

    async fn move_joints(
        accessor: &Accessor<T, Self>,
        lease: Resource<Lease>,
        positions: Vec<f32>,
        speed: f32,
    ) -> Result<Vec<motion::Intervention>, Fault> {
        let (context, motion, _play) = begin(accessor, &lease)?;
        let _call = context.meter.call()?;
        context.carry(size_of_val(&*positions))?;
        let robot = context.robot();
        let joints = motion.joints().clone();
        let body = context.skill.robot(robot.embodiment());
        let play = Play::joints_to(body, joints, &robot.commanded(), &positions, speed).map_err(RobotError::Play)?;
        carry_rows(&context, &play)?;
        let ended =
            context.holds.settle(robot.play_under(play.within(context.skill.within.clone()), motion.fence())).await;
        Ok(interventions(&context, finished(&context, &motion, ended)?))
    }

    async fn move_tool(
        accessor: &Accessor<T, Self>,
        lease: Resource<Lease>,
        _: types::Pose,
        _: f32,
    ) -> Result<Vec<motion::Intervention>, Fault> {
        let context = accessor.with(|mut access| {
            let run = access.get();
            run.table.get(&lease)?.check()?;
            Ok::<_, Fault>(run.context.clone())
        })?;
        let robot = &context.robot().embodiment().name;
        Err(Refusal::Unavailable(format!("there is no inverse kinematics for {robot}; use move-joints")).into())
    }

    async fn grip(
        accessor: &Accessor<T, Self>,
        lease: Resource<Lease>,
        opening: f32,
        effort: f32,
    ) -> Result<f32, Fault> {
        let (context, motion, _play) = begin(accessor, &lease)?;
        let _call = context.meter.call()?;
        Ok(grip(&context, &motion, opening, effort).await?)
    }
}

fn begin<T>(
    accessor: &Accessor<T, HasSelf<Run>>,
    lease: &Resource<Lease>,
) -> Result<(Arc<Call>, Motion, PlayInFlight), Fault> {
    accessor.with(|mut access| {
        let run = access.get();
        let context = run.context.clone();
        let motion = run.table.get(lease)?.begin()?;
        let play = context.activity.play(context.robot().tick());
        Ok((context, motion, play))
    })
}

/// Counts what the host planned for a few numbers of the skill's as if the skill had handed it over.
fn carry_rows(context: &Call, play: &Play) -> Result<(), Exhausted> {
    context.carry(bytes_of(&play.rows))
}

/// What a play that ended means for the skill that waits for it, and to whoever watches the run.
pub(crate) fn finished(
    context: &Call,
    motion: &Motion,
    ended: Result<PlayReport, RobotError>,
) -> Result<Vec<Intervention>, Refusal> {
    let PlayReport { ended, interventions } = ended?;
    interventions.iter().for_each(|it| (context.events)(Event::Intervention(*it)));
    motion.check_lease()?;
    match ended {
        Ended::Finished | Ended::Superseded | Ended::Held => Ok(interventions),
        Ended::Stopped => Err(Refusal::Stopped),
        Ended::Late => {
            Err(Refusal::Invalid("every row was due before the chunk was played; observe and act again".into()))
        }
    }
}

fn interventions(context: &Call, interventions: Vec<Intervention>) -> Vec<motion::Intervention> {
    let own = interventions.into_iter().map(|it| intervention(context, it));
    context.unreported.take().into_iter().chain(own).collect()
}

pub(crate) fn intervention(context: &Call, it: Intervention) -> motion::Intervention {
    let robot = context.robot();
    motion::Intervention {
        at: robot.tick_ns(it.first_tick),
        rule: it.rule.name().into(),
        detail: it.detail(context.skill.robot(robot.embodiment())),
    }
}

fn deliver(run: &mut Run, event: rollout::Event) -> wasmtime::Result<motion::RolloutEvent> {
    Ok(match event {
        rollout::Event::Chunk(number) => motion::RolloutEvent::Chunk(number),
        rollout::Event::Intervened(it) => motion::RolloutEvent::Intervened(intervention(&run.context, it)),
        rollout::Event::Observed(seen) => motion::RolloutEvent::Observed(run.push_held(seen)?),
        rollout::Event::Done(ended) => motion::RolloutEvent::Done(ended),
    })
}

/// Moves the gripper until it is open that far or feels that much resistance, and says how far open it is then.
async fn grip(context: &Call, motion: &Motion, opening: f32, effort: f32) -> Result<f32, Refusal> {
    let robot = context.robot();
    let embodiment = context.skill.robot(robot.embodiment());
    let joints = embodiment.part_joints(GRIPPER).unwrap_or_default();
    let (Some(&index), 1) = (joints.first(), joints.len()) else {
        return Err(Refusal::Unavailable(format!("{} has no part {GRIPPER} of one joint", embodiment.name)));
    };
    if !motion.joints().contains(&index) {
        return Err(Refusal::Invalid(format!("the lease does not cover the part {GRIPPER}")));
    }
    let joint = &embodiment.joints[index];
    let [low, high] = joint.position;
    if !(0.0..=1.0).contains(&opening) {
        return Err(Refusal::Invalid(format!("opening is {opening}, it must lie in [0, 1]")));
    }
    if !(effort > 0.0 && effort <= joint.effort) {
        return Err(Refusal::Invalid(format!("effort is {effort} N m, it must lie in (0, {}]", joint.effort)));
    }
    let from = robot.commanded();
    let mut target = from.clone();
    target[index] = (low + opening * (high - low)).clamp(low, high);
    let direction = (target[index] - from[index]).signum();
    let play = Play::joints_to(embodiment, joints.clone(), &from, &target, GRIP_SPEED).map_err(RobotError::Play)?;
    carry_rows(context, &play)?;
    let mut playing =
        pin!(context.holds.settle(robot.play_under(play.within(context.skill.within.clone()), motion.fence())));
    let seen = loop {
        // What is not waited for must be gone before anything else is: an unread answer keeps robot time still.
        let seen = {
            let observing = pin!(context.holds.settle(robot.observe()));
            match select(playing.as_mut(), observing).await {
                Either::Left((ended, _)) => Err(ended),
                Either::Right((seen, _)) => Ok(seen?),
            }
        };
        match seen {
            Err(ended) => {
                finished(context, motion, ended)?;
                break context.holds.settle(robot.observe()).await?;
            }
            // Only what resists the motion: a gripper that opens may still feel what it held.
            Ok(seen) if seen.joints.efforts[index] * direction >= effort => {
                motion.hold(&joints)?;
                break seen;
            }
            Ok(_) => {}
        }
    };
    Ok(((seen.joints.positions[index] - low) / (high - low)).clamp(0.0, 1.0))
}
