//! Proves that a tick allocates nothing: every allocation of a test's thread is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::Pace;
use crate::control::answer::Keeper;
use crate::control::external_drive::{Driven, Drives, Seat};
use crate::control::fence::Fences;
use crate::control::gate::Gate;
use crate::control::joint_holders::Claim;
use crate::control::play::Play;
use crate::control::player::{Player, Prepared};
use crate::embodiment::{Embodiment, ForceLimit, Tightening, Workspace};
use crate::link::Link;
use crate::observation::{Measurement, Proprioception};
use crate::safety::filter::{Demand, Filter};
use crate::safety::{Act, Guard};
use crate::sim::{SceneSpec, Simulator, arm};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
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
        // SAFETY: the caller keeps `dealloc`'s contract, and every pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))), 1);
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
        let allocations = allocations_of(|| {
            player.start(play, answer, begin + 1, |joint| filter.state(joint), &mut over, &mut keep);
        });
        assert_eq!(allocations, 0, "at the change to chunk {index}");
        let allocations = allocations_of(|| {
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
        assert_eq!(allocations, 0, "in the ticks of chunk {index}");
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
    let mut drives = Drives::new(&robot, Pace::RealTime);
    let mut demands = vec![Demand::Hold; 6];
    let (seat, (answer, _asked)) = (Seat::new(&robot), answers.pending(&gate));
    let claim = Claim::new(vec![0, 1], &fences, None, 0).unwrap();
    let driven = Driven { claim, seat, demand: vec![0.0; 6], within: None };
    drives.start(Box::new(driven), answer, 1, &mut over);
    let mut missed = 0;
    let allocations = allocations_of(|| {
        for tick in 1..=25 {
            drives.demands(tick, &mut demands, &mut over, |_| missed += 1);
            drives.publish(tick, &measured, &gate);
        }
    });
    assert_eq!((allocations, missed), (0, 24));
}
