//! Proves that a tick allocates and frees nothing: everything that a test's thread allocates and frees is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
#[cfg(unix)]
use std::time::Duration;

use crate::clock::Pace;
use crate::control::RobotOptions;
use crate::control::answer::{Keeper, Pending, Playing};
use crate::control::external_drive::{Drive, DriveRequest, ExternalDrives, Mailbox};
use crate::control::fence::Fences;
use crate::control::gate::Gate;
use crate::control::joint_holders::Claim;
use crate::control::play::Play;
use crate::control::player::{Player, Prepared};
use crate::embodiment::{Embodiment, ForceLimit, JointTightening, Tightening, Workspace};
#[cfg(unix)]
use crate::link::bridge::{RemoteLink, Server, ServerOptions};
use crate::link::{Link, LinkError};
use crate::observation::{Frame, Image, Measurement, Proprioception};
use crate::robot::Robot;
use crate::safety::filter::{Demand, Filter};
use crate::safety::{Act, Guard};
use crate::sim::{SceneSpec, Simulator, arm};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static FREES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and is no test's.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = FREES.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `dealloc`'s contract, and every pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often some work allocates, and how often it frees.
fn counts_of(work: impl FnOnce()) -> [usize; 2] {
    let before = [ALLOCATIONS.get(), FREES.get()];
    work();
    [ALLOCATIONS.get() - before[0], FREES.get() - before[1]]
}

#[test]
fn allocations_and_frees_are_counted() {
    let kept = std::hint::black_box(Box::new(7));
    assert_eq!(counts_of(|| std::mem::forget(std::hint::black_box(Box::new(7)))), [1, 0]);
    assert_eq!(counts_of(|| drop(kept)), [0, 1]);
}

/// A robot that is where it was commanded to be.
struct Still([f32; 6]);

impl Link for Still {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        into.joints.positions.resize(6, 0.0);
        into.joints.positions.copy_from_slice(&self.0);
        into.joints.velocities.resize(6, 0.0);
        into.joints.efforts.resize(6, 0.0);
        into.samples.resize_with(1, || vec![0.0; 6]);
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.0.copy_from_slice(positions);
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        Ok(vec![Frame::ready(Image { width: 1, height: 1, rgb: vec![0; 3].into() }); 2])
    }

    fn is_simulated(&self) -> bool {
        true
    }
}

/// Asks a robot for everything there is, in 2000 ticks, and counts from the tick `since` on.
fn come_and_go(link: Box<dyn Link>, since: u64) {
    let embodiment = Arc::new(Embodiment::so101());
    let options =
        RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
    let (robot, mut control) = Robot::with_loop(embodiment, link, options).unwrap();
    let narrow = JointTightening { name: "shoulder_pan".into(), velocity: Some(1.0), ..JointTightening::default() };
    let narrow = Tightening { joints: vec![narrow], ..Tightening::default() };
    let mut context = Context::from_waker(Waker::noop());
    let (mut playing, mut reaching, mut driving) = (Vec::new(), Vec::new(), Vec::<Drive>::new());
    let mut ended = BTreeSet::new();
    let (mut reached, mut driven) = (0, 0);
    for tick in 1..=2000_u64 {
        let joint = (tick / 7 % 3) as usize;
        let joints = BTreeSet::from([joint]);
        let fence = tick.is_multiple_of(5).then(|| robot.fence(&BTreeSet::from([5])));
        if tick.is_multiple_of(7) {
            let to = if tick.is_multiple_of(2) { 0.2 } else { -0.2 };
            let mut row = robot.commanded();
            row[joint] = (row[joint] + to).clamp(-0.5, 0.9);
            let rows = vec![row; 1 + (tick % 3) as usize];
            // Nobody else has these limits.
            let within = tick.is_multiple_of(2).then(|| robot.within(&narrow, "a skill").unwrap());
            let play = Play { joints: joints.clone(), rate_hz: 10.0, rows, since_tick: None, within };
            match tick % 4 {
                // Nobody waits for the end of some.
                0 => drop(robot.play(play)),
                // Some come too late.
                1 => playing.push(robot.play_under(play, &robot.fence(&joints))),
                _ => playing.push(robot.play(play)),
            }
        }
        match tick % 40 {
            0..3 => driving.push(robot.drive(&BTreeSet::from([3, 4]), None).unwrap()),
            30 => driving.clear(),
            35 => robot.hold(&BTreeSet::from([0, 1, 2])),
            _ => {}
        }
        match tick % 333 {
            331 => robot.stop(),
            0 => assert!(robot.stopped().is_none_or(|stopped| robot.reset(stopped))),
            _ => {}
        }
        drop(fence.map(|fence| robot.hold_under(&fence)));
        reaching.push(robot.reach(tick + tick % 13));
        reaching.extend((0..20).map(|_| robot.reach(u64::MAX)));
        let observing = tick.is_multiple_of(50).then(|| robot.observe());

        let counts = counts_of(|| {
            control.listen();
            control.step();
            control.publish();
            control.answer();
        });
        // An observation is new each time, and its frames with it.
        if observing.is_none() && tick >= since {
            assert_eq!(counts, [0, 0], "allocations and frees in tick {tick}");
        }

        playing.retain_mut(|it: &mut Playing| match Pin::new(it).poll(&mut context) {
            Poll::Ready(reply) => {
                ended.insert(format!("{:?}", reply.value.unwrap().ended));
                false
            }
            Poll::Pending => true,
        });
        reaching.retain_mut(|it: &mut Pending<u64>| match Pin::new(it).poll(&mut context) {
            Poll::Ready(reply) => {
                reached += 1;
                assert_eq!(reply.value.unwrap(), tick);
                false
            }
            Poll::Pending => true,
        });
        // Those who wait for ever give up, some at once and some later.
        reaching.truncate(30 + (tick % 100) as usize);
        driving.retain_mut(|drive| {
            let turn = pin!(drive.next()).poll(&mut context);
            let goes_on = match turn {
                Poll::Ready(turn) => turn.is_some(),
                Poll::Pending => true,
            };
            driven += u64::from(goes_on && drive.demand(&robot.commanded()).is_ok());
            goes_on
        });
        if let Some(mut observing) = observing {
            assert!(Pin::new(&mut observing).poll(&mut context).is_ready());
        }
    }
    assert!(reached > 100 && driven > 500, "{reached} {driven}");
    let every = ["Finished", "Held", "Stopped", "Superseded"].map(String::from);
    assert!(every.iter().all(|end| ended.contains(end)), "{ended:?}");
}

#[test]
fn a_whole_tick_allocates_and_frees_nothing_while_everything_that_can_be_asked_comes_and_goes() {
    come_and_go(Box::new(Still(arm::HOME)), 1);
}

#[cfg(unix)]
#[test]
fn nor_does_a_tick_whose_robot_is_in_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, embodiment) = (folder.path().join("mine/link"), Arc::new(Embodiment::so101()));
    let options = ServerOptions { silence: 100_000, ..ServerOptions::new(|_: &[f32]| [0.2, 0.0, 0.2]) };
    let server = Server::start(&socket, embodiment.clone(), Box::new(Still(arm::HOME)), options).unwrap();
    let link = RemoteLink::connect(&socket, embodiment, Duration::ZERO).unwrap();
    // Its messages have had their greatest lengths then.
    come_and_go(Box::new(link), 60);
    drop(server);
}

#[test]
fn a_tick_allocates_nothing_not_even_when_chunks_change_and_every_rule_acts() {
    let place = Workspace { min: [0.15, 0.08, 0.0], max: [0.3, 0.3, 0.4] };
    let limit = ForceLimit { sensor: "wrist_wrench".into(), link: "wrist_roll".into(), newtons: 20.0 };
    let mut robot = Embodiment {
        forbidden: vec![place],
        force_limits: vec![limit],
        discontinuity_rad: Some(3.0),
        ..Embodiment::so101()
    };
    // Some have a limit to their jerk, and some have none.
    robot.joints[2..5].iter_mut().for_each(|joint| joint.jerk = Some(8.0 * joint.acceleration));
    let robot = Arc::new(robot);
    let near = Workspace { min: [0.1, -0.05, 0.01], max: [0.3, 0.3, 0.3] };
    let narrow = Tightening { workspace: Some(near), forbidden: vec![place], ..Tightening::default() };
    let narrow = robot.within(&narrow, "a skill").unwrap();
    let feels = |effort, force| Measurement {
        joints: Proprioception { efforts: vec![effort; 6], ..Proprioception::default() },
        samples: vec![vec![force; 6]],
    };
    // Pushed up and back while some joint turns one way, and torqued both ways.
    let felt = [feels(0.0, 0.0), feels(9.0, 0.0), feels(-9.0, 0.0), feels(0.0, 20.0), feels(0.0, -20.0)];
    let mut player = Player::new(&robot);
    let mut filter = Filter::new(&robot, Box::new(arm::tool_position), Guard::On, &arm::HOME);
    let mut demands = vec![Demand::Hold; 6];
    let mut over = Vec::with_capacity(64);
    let (gate, answers, fences) = (Gate::new(Pace::RealTime), Keeper::default(), Fences::new(6));
    let chunk = |target: [f32; 6], within| {
        let (joints, rows) = (BTreeSet::from_iter(0..6), vec![target.to_vec(); 16]);
        let claim = Claim::new(joints.iter().copied().collect(), &fences, None, 0).unwrap();
        Box::new(Prepared::new(&Play { joints, rate_hz: 10.0, rows, since_tick: None, within }, &robot, claim))
    };
    let targets = [[1.0, 0.5, 0.5, 0.5, 0.0, 2.5], [-0.5, 1.6, 1.6, 0.5, 0.0, 0.0], [0.0, -0.2, 1.6, 1.6, 0.0, 0.3]];
    // Without stricter limits and feeling nothing, under stricter limits, and feeling too much.
    let within = |index| if (6..12).contains(&index) { Some(narrow.clone()) } else { None };
    let plays: Vec<_> =
        (0..18).map(|index| (chunk(targets[index % 3], within(index)), answers.pending(&gate))).collect();
    let mut rules = BTreeSet::new();
    for (index, (play, (answer, _asked))) in plays.into_iter().enumerate() {
        let begin = index as u64 * 80;
        // Every other chunk meets a player that plays nothing, every other supersedes the one before.
        player = if index % 2 == 0 { Player::new(&robot) } else { player };
        let mut acts: [Option<Act>; 4000] = [None; 4000];
        let mut count = 0;
        let mut keep = |act| {
            acts[count % 4000] = Some(act);
            count += 1;
        };
        let counts = counts_of(|| {
            player.start(play, answer, begin + 1, |joint| filter.state(joint), &mut over, &mut keep);
        });
        assert_eq!(counts, [0, 0], "at the change to chunk {index}");
        let counts = counts_of(|| {
            for tick in begin + 1..=begin + 80 {
                player.demands(tick, &mut demands, &mut keep);
                if tick % 40 == 0 {
                    demands[4] = Demand::To(f64::NAN);
                }
                filter.latch(tick % 80 > 70);
                filter.keep_within(player.playing.limits());
                filter.feel(if index < 12 { &felt[0] } else { &felt[1 + index % 4] });
                filter.step(&demands, |act| {
                    keep(act);
                    player.playing.note(act, tick);
                });
                player.end_finished(tick, |joint| filter.rests(joint), &mut over);
            }
        });
        assert_eq!(counts, [0, 0], "in the ticks of chunk {index}");
        rules.extend(acts.iter().flatten().map(|act| act.rule.name()));
    }
    let expected = [
        "acceleration",
        "discontinuity",
        "effort",
        "forbidden",
        "force",
        "host_stop",
        "jerk",
        "not_a_number",
        "position",
        "self_collision",
        "velocity",
        "workspace",
    ];
    assert!(expected.iter().all(|rule| rules.contains(rule)), "{rules:?}");
}

#[test]
fn a_tick_with_a_driver_allocates_nothing_whether_it_answers_or_not() {
    let robot = Arc::new(Embodiment::so101());
    let measured = Simulator::new(robot.clone(), &SceneSpec::tabletop(), 7).read().unwrap();
    let (gate, answers, fences) = (Gate::new(Pace::RealTime), Keeper::default(), Fences::new(6));
    let mut over = Vec::new();
    let mut drives = ExternalDrives::new(&robot, Pace::RealTime);
    let mut demands = vec![Demand::Hold; 6];
    let (seat, (answer, _asked)) = (Mailbox::new(&robot), answers.pending(&gate));
    let claim = Claim::new(vec![0, 1], &fences, None, 0).unwrap();
    let driven = DriveRequest { claim, seat, demand: vec![0.0; 6], within: None };
    drives.start(Box::new(driven), answer, 1, &mut over);
    let mut missed = 0;
    let counts = counts_of(|| {
        for tick in 1..=25 {
            drives.demands(tick, &mut demands, &mut over, |_| missed += 1);
            drives.publish(tick, &measured, &gate);
        }
    });
    assert_eq!((counts, missed), ([0, 0], 24));
}
