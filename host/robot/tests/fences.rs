//! What was authorised under a fence moves nothing once a newer one is raised, whenever it arrives.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use follower::{Bench, REST, chunk, wait};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use waza_robot::observation::Measurement;
use waza_robot::{
    Embodiment, Ended, Fence, Frame, Guard, Link, LinkError, Pace, PlayError, Playing, Proprioception, Robot,
    RobotError, RobotOptions,
};

const PAN: usize = 0;

fn joints(joints: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
    joints.into_iter().collect()
}

#[test]
fn a_play_whose_fence_was_raised_before_the_loop_took_it_never_moves_anything() {
    let bench = Bench::start(Pace::Lockstep);
    let old = bench.robot.fence(&joints([PAN]));
    let hold = bench.robot.hold_time();
    let sent_before = bench.robot.play_under(chunk(PAN, [0.1, 0.2]), &old);
    let new = bench.robot.fence(&joints([PAN]));
    let sent_after = bench.robot.play_under(chunk(PAN, [0.1, 0.2]), &old);
    assert!(!old.is_current() && new.is_current());
    drop(hold);
    assert_eq!(follower::ends([sent_before, sent_after]), [Ended::Held, Ended::Held]);
    bench.reach(50);
    assert!(bench.joint(PAN).iter().all(|position| *position == REST[PAN]));
    let report = wait(bench.robot.play_under(chunk(PAN, [0.1]), &new)).value.unwrap();
    assert_eq!(report.ended, Ended::Finished);
}

#[test]
fn an_old_play_that_arrives_late_takes_nothing_from_the_new_holder() {
    let bench = Bench::start(Pace::Lockstep);
    let old = bench.robot.fence(&joints([PAN]));
    let new = bench.robot.fence(&joints([PAN]));
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play_under(chunk(PAN, [0.05, 0.1, 0.15, 0.2]), &new);
    let reaching = bench.robot.reach(10);
    drop(hold);
    let moving = wait(reaching);
    let late = bench.robot.play_under(chunk(PAN, [-0.5]), &old);
    drop(moving);
    assert_eq!(follower::ends([late, playing]), [Ended::Held, Ended::Finished]);
    assert_eq!(bench.robot.commanded()[PAN], 0.2);
}

#[test]
fn what_was_asked_before_a_hold_is_held_and_what_was_asked_after_it_plays() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let before = bench.robot.play(chunk(PAN, [0.1, 0.2]));
    bench.robot.hold(&joints([PAN]));
    let after = bench.robot.play(chunk(PAN, [-0.1]));
    let other = bench.robot.play(chunk(1, [-0.5]));
    drop(hold);
    assert_eq!(follower::ends([before, after, other]), [Ended::Held, Ended::Finished, Ended::Finished]);
    assert!(bench.joint(PAN).iter().all(|position| *position <= REST[PAN]));
}

#[test]
fn a_fence_that_is_raised_ends_plays_and_drives_on_its_joints_alone_and_they_brake() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let fences = [0, 1, 2].map(|joint| bench.robot.fence(&joints([joint])));
    let playing = bench.robot.play_under(chunk(0, [0.02, 0.06, 0.12, 0.2, 0.28, 0.36]), &fences[0]);
    let driving = bench.robot.drive_under(&joints([1]), None, &fences[1]).unwrap();
    let other = bench.robot.play_under(chunk(2, [0.79, 0.78]), &fences[2]);
    let reaching = bench.robot.reach(1);
    drop(hold);
    let mut driving = driving;
    let began = wait(reaching);
    assert!(wait(driving.next()).is_some());
    driving.demand(&REST).unwrap();
    bench.robot.fence(&joints([0, 1]));
    drop(began);
    assert_eq!(wait(driving.end()).value.unwrap().ended, Ended::Held);
    assert_eq!(follower::ends([playing, other]), [Ended::Held, Ended::Finished]);
}

#[test]
fn only_whoever_has_the_newest_fence_can_hold_under_it() {
    let bench = Bench::start(Pace::Lockstep);
    let both = bench.robot.fence(&joints([0, 1]));
    let renewed = bench.robot.hold_under(&both).unwrap();
    assert!(renewed.is_current() && !both.is_current());
    assert!(bench.robot.hold_under(&both).is_none());
    let taken = bench.robot.fence(&joints([1]));
    let own = bench.robot.play_under(chunk(0, [0.1, 0.2, 0.3]), &renewed);
    let others = bench.robot.play_under(chunk(1, [-0.55, -0.5]), &taken);
    assert!(bench.robot.hold_under(&renewed).is_none(), "joint 1 is somebody else's");
    assert!(taken.is_current());
    // What was still its own was told to hold, and the other's was not.
    assert_eq!(follower::ends([own, others]), [Ended::Held, Ended::Finished]);
}

#[test]
fn a_fence_authorises_its_own_joints_of_its_own_robot_alone() {
    let (bench, other) = (Bench::start(Pace::Lockstep), Bench::start(Pace::Lockstep));
    let fence = bench.robot.fence(&joints([PAN, 99]));
    assert_eq!(fence.joints().collect::<Vec<_>>(), [PAN]);
    let refused = RobotError::Play(PlayError::NotFenced { joint: "shoulder_lift".into() });
    assert_eq!(wait(bench.robot.play_under(chunk(1, [0.0]), &fence)).value, Err(refused.clone()));
    assert_eq!(bench.robot.drive_under(&joints([0, 1]), None, &fence).err(), Some(refused));
    let foreign = wait(other.robot.play_under(chunk(PAN, [0.1]), &fence)).value.unwrap_err();
    assert_eq!(foreign, RobotError::Play(PlayError::NotFenced { joint: "shoulder_pan".into() }));
    assert!(other.robot.hold_under(&fence).is_none() && fence.is_current());
}

#[derive(Debug, Clone)]
enum Op {
    Fence(u8),
    HoldUnder(usize),
    Hold(u8),
    Play(usize),
    PlayUnder(usize, usize),
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1_u8..8).prop_map(Op::Fence),
        (0_usize..8).prop_map(Op::HoldUnder),
        (1_u8..8).prop_map(Op::Hold),
        (0_usize..3).prop_map(Op::Play),
        (0_usize..8, 0_usize..3).prop_map(|(fence, joint)| Op::PlayUnder(fence, joint)),
        Just(Op::Tick),
    ]
}

fn of(mask: u8) -> BTreeSet<usize> {
    (0..3).filter(|joint| mask & (1 << joint) != 0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Against a model that knows of every play when its authority ended.
    #[test]
    fn a_play_moves_only_while_its_authority_lasts(ops in prop::collection::vec(op(), 1..60)) {
        struct Sent { playing: Playing, joint: usize, count: u64, taken: bool, ended: Option<Ended>, told: Option<Ended> }
        let bench = Bench::start(Pace::Lockstep);
        let (mut fences, mut sent) = (Vec::<Fence>::new(), Vec::<Sent>::new());
        // The model: how often the authority over each joint has changed, and what it was at each fence.
        let (mut counts, mut marks) = ([0_u64; 3], Vec::<Vec<(usize, u64)>>::new());
        let mut hold = Some(bench.robot.hold_time());
        let ramp = |joint: usize| chunk(joint, (1..=30).map(|row| REST[joint] + 0.01 * row as f32));
        for op in ops {
            match op {
                Op::Fence(mask) => {
                    let joints = of(mask);
                    joints.iter().for_each(|joint| counts[*joint] += 1);
                    marks.push(joints.iter().map(|joint| (*joint, counts[*joint])).collect());
                    fences.push(bench.robot.fence(&joints));
                }
                Op::Hold(mask) => {
                    let joints = of(mask);
                    joints.iter().for_each(|joint| counts[*joint] += 1);
                    bench.robot.hold(&joints);
                }
                Op::HoldUnder(fence) if fence < fences.len() => {
                    let current = marks[fence].iter().all(|(joint, count)| counts[*joint] == *count);
                    for (joint, count) in &marks[fence] {
                        counts[*joint] += u64::from(counts[*joint] == *count);
                    }
                    let renewed = bench.robot.hold_under(&fences[fence]);
                    prop_assert_eq!(renewed.is_some(), current);
                    if let Some(renewed) = renewed {
                        marks.push(renewed.joints().map(|joint| (joint, counts[joint])).collect());
                        fences.push(renewed);
                    }
                }
                Op::Play(joint) => {
                    let playing = bench.robot.play(ramp(joint));
                    sent.push(Sent { playing, joint, count: counts[joint], taken: false, ended: None, told: None });
                }
                Op::PlayUnder(fence, joint) if fence < fences.len() => {
                    let Some((_, count)) = marks[fence].iter().find(|(fenced, _)| *fenced == joint) else { continue };
                    let playing = bench.robot.play_under(ramp(joint), &fences[fence]);
                    sent.push(Sent { playing, joint, count: *count, taken: false, ended: None, told: None });
                }
                Op::HoldUnder(_) | Op::PlayUnder(..) => {}
                Op::Tick => {
                    // First what has lost its authority ends, and then what is newer supersedes.
                    let stale = |it: &Sent| it.count != counts[it.joint];
                    sent.iter_mut().filter(|it| it.ended.is_none() && stale(it)).for_each(|it| it.ended = Some(Ended::Held));
                    for index in 0..sent.len() {
                        let (earlier, [new, ..]) = sent.split_at_mut(index) else { continue };
                        if !new.taken && new.ended.is_none() {
                            let superseded = |it: &&mut Sent| it.joint == new.joint && it.ended.is_none();
                            earlier.iter_mut().filter(superseded).for_each(|it| it.ended = Some(Ended::Superseded));
                        }
                        new.taken = true;
                    }
                    let next = bench.robot.reach(bench.robot.tick() + 1);
                    drop(hold.take());
                    hold = Some(wait(next).hold);
                    let mut context = Context::from_waker(Waker::noop());
                    for it in sent.iter_mut().filter(|it| it.told.is_none()) {
                        if let Poll::Ready(reply) = Pin::new(&mut it.playing).poll(&mut context) {
                            it.told = Some(reply.value.unwrap().ended);
                        }
                    }
                    let ends = |which: fn(&Sent) -> Option<Ended>| sent.iter().map(which).collect::<Vec<_>>();
                    prop_assert_eq!(ends(|it| it.told), ends(|it| it.ended));
                }
            }
        }
    }
}

/// A robot that is where it was commanded to be, and every command of its first joint, from tick 1 on.
struct Pan {
    robot: Robot,
    commands: Arc<Mutex<Vec<f32>>>,
}

struct PanLink {
    last: Vec<f32>,
    commands: Arc<Mutex<Vec<f32>>>,
}

impl Link for PanLink {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let (positions, still) = (self.last.clone(), vec![0.0; self.last.len()]);
        let joints = Proprioception { positions, velocities: still.clone(), efforts: still };
        *into = Measurement { joints, samples: vec![vec![0.0; 6]] };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.last.copy_from_slice(positions);
        self.commands.lock().unwrap().push(positions[PAN]);
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        Err(LinkError("there are no cameras".into()))
    }
}

impl Pan {
    fn start(pace: Pace, control_hz: f32) -> Self {
        let commands = Arc::new(Mutex::new(Vec::new()));
        let link = PanLink { last: REST.to_vec(), commands: commands.clone() };
        // However far a play leads at once: these shall begin to move at once.
        let embodiment = Embodiment { control_hz, discontinuity_rad: None, ..Embodiment::so101() };
        let options = RobotOptions { pace, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
        Self { robot: Robot::start(Arc::new(embodiment), Box::new(link), options).unwrap(), commands }
    }

    /// Whether it moved when its joint was told to hold, before `tick` was over. Nothing but braking may follow, but in the
    /// tick that was under way then.
    fn brakes_after(&self, tick: u64) -> bool {
        let (first, last) = (tick.max(1) as usize, tick.max(1) as usize + 6);
        wait_until(&self.robot, last as u64);
        let commands = self.commands.lock().unwrap()[first - 1..last].to_vec();
        let speeds: Vec<f32> = commands.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        for pair in speeds.windows(2) {
            assert!(pair[1] <= (pair[0] - 1e-6).max(2e-7), "after tick {tick} it went {commands:?}");
        }
        speeds[0] > 0.0
    }

    /// Somebody plays under a fence as fast as they can while somebody else raises it.
    fn revoke_at_random(&self, rounds: usize) {
        let robot = &self.robot;
        // In lockstep, so that time goes on.
        let _far = robot.reach(u64::MAX);
        let fence = Mutex::new(robot.fence(&joints([PAN])));
        let (over, up) = (AtomicBool::new(false), AtomicBool::new(true));
        let mut moved = 0;
        std::thread::scope(|scope| {
            {
                let (fence, over, up) = (&fence, &over, &up);
                scope.spawn(move || {
                    let mut random = ChaCha8Rng::seed_from_u64(1);
                    while !over.load(Ordering::Relaxed) {
                        let under = fence.lock().unwrap().clone();
                        let to = if up.load(Ordering::Relaxed) { 1.8 } else { -1.8 };
                        for _ in 0..random.random_range(1..4) {
                            drop(robot.play_under(chunk(PAN, [to; 3]), &under));
                            (0..random.random_range(0..400)).for_each(|_| std::hint::spin_loop());
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let _over = Over(&over);
            let mut random = ChaCha8Rng::seed_from_u64(9);
            for _ in 0..rounds {
                let position = robot.commanded()[PAN];
                if position.abs() > 0.5 {
                    up.store(position < 0.0, Ordering::Relaxed);
                }
                (0..random.random_range(0..20_000)).for_each(|_| std::hint::spin_loop());
                let raised = robot.fence(&joints([PAN]));
                moved += usize::from(self.brakes_after(robot.tick()));
                assert!(raised.is_current());
                *fence.lock().unwrap() = raised;
                wait_until(robot, robot.tick() + random.random_range(1..12));
            }
        });
        assert!(moved > rounds / 20, "in {moved} of {rounds} rounds there was something to stop");
    }
}

/// Ends the others' loops also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_until(robot: &Robot, tick: u64) {
    drop(wait(robot.reach(tick)));
}

#[test]
fn no_command_of_a_revoked_play_reaches_the_link_in_ten_thousand_rounds() {
    Pan::start(Pace::Lockstep, 100.0).revoke_at_random(10_000);
}

#[test]
fn nor_does_one_in_real_time() {
    Pan::start(Pace::RealTime, 1000.0).revoke_at_random(300);
}

#[test]
fn a_hold_is_seen_in_the_next_tick_however_much_others_ask() {
    let pan = Pan::start(Pace::RealTime, 1000.0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _given_up = pan.robot.reach(u64::MAX);
                }
            });
        }
        let _over = Over(&over);
        let mut moved = 0;
        for round in 0..30 {
            let way = if round % 2 == 0 { 0.05 } else { -0.05 };
            let from = pan.robot.commanded()[PAN];
            let playing = pan.robot.play(chunk(PAN, (1..=40).map(|row| from + way * row as f32)));
            wait_until(&pan.robot, pan.robot.tick() + 60);
            pan.robot.hold(&joints([PAN]));
            moved += usize::from(pan.brakes_after(pan.robot.tick()));
            assert_eq!(wait(playing).value.unwrap().ended, Ended::Held);
        }
        // A machine that leaves the loop alone for a quarter of a second has held the joints already.
        assert!(moved > 0);
    });
}
