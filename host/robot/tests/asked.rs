//! What is asked of the control loop and given up leaves nothing behind: no memory, no ticks, no time that goes on.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::alloc::{GlobalAlloc, Layout, System};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use follower::{Bench, REST, chunk, wait};
use waza_robot::{Ended, Pace, Pending, RobotError};

/// Bytes that live in this process.
static LIVE: AtomicIsize = AtomicIsize::new(0);

/// Tests that look at memory disturb each other.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and every pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const A_MEGABYTE: isize = 1 << 20;

/// Asks whether it is there, as `pollable.ready` does.
fn is_there<T>(pending: &mut Pending<T>) -> bool {
    Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_million_questions_that_are_given_up_while_time_stands_still_take_neither_memory_nor_ticks() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(3);
    let hold = bench.robot.hold_time();
    let mut most = 0;
    let before = LIVE.load(Ordering::Relaxed);
    for round in 0..1_000_000 {
        assert!(!is_there(&mut bench.robot.reach(u64::MAX)));
        if round % 10 == 0 {
            assert!(!is_there(&mut bench.robot.observe()));
        }
        most = most.max(LIVE.load(Ordering::Relaxed) - before);
    }
    assert!(most < A_MEGABYTE, "{most} bytes lived");
    drop(hold);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bench.robot.tick(), 3, "nobody waits for a tick");
    bench.reach(10);
    assert_eq!(bench.log.lock().unwrap().captures, 0);
}

#[test]
fn a_question_that_is_given_up_after_the_loop_has_taken_it_keeps_no_time_going_and_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::start(Pace::Lockstep);
    let mut hold = bench.robot.hold_time();
    let before = LIVE.load(Ordering::Relaxed);
    for tick in 1..102 {
        let far: Vec<_> = (0..1000).map(|_| bench.robot.reach(360_000)).collect();
        let next = bench.robot.reach(tick);
        drop(hold);
        hold = wait(next).hold;
        drop(far);
    }
    drop(hold);
    let stands = bench.robot.tick();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((stands, bench.robot.tick()), (101, 101), "nobody waits for a tick");
    let left = LIVE.load(Ordering::Relaxed) - before;
    assert!(left < 2 * A_MEGABYTE, "{left} bytes of 100,000 waiters who have gone");
}

#[test]
fn waiters_who_come_and_go_in_real_time_take_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::start(Pace::RealTime);
    bench.reach(1);
    let before = LIVE.load(Ordering::Relaxed);
    let (over, mut most) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(!is_there(&mut bench.robot.reach(u64::MAX)));
                }
            });
        }
        for _ in 0..50 {
            bench.reach(bench.robot.tick() + 2);
            most = most.max(LIVE.load(Ordering::Relaxed) - before);
        }
        assert_eq!(bench.finish(chunk(0, [0.01])).unwrap().ended, Ended::Finished);
        over.store(true, Ordering::Relaxed);
    });
    assert!(most < A_MEGABYTE, "{most} bytes lived");
}

#[test]
fn a_play_goes_on_when_nobody_waits_for_its_end_also_if_it_has_not_begun() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    drop(bench.robot.play(chunk(0, [0.1])));
    drop(hold);
    bench.reach(60);
    assert_eq!(bench.robot.commanded()[0], 0.1);
}

#[test]
fn plays_that_nobody_waits_for_take_no_more_memory_than_those_that_can_wait_for_one_tick() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::start(Pace::Lockstep);
    let long = chunk(0, [0.1; 3000]);
    let hold = bench.robot.hold_time();
    let before = LIVE.load(Ordering::Relaxed);
    let mut refused = 0;
    for _ in 0..10_000 {
        // A third of them would be 80 MB.
        refused += usize::from(is_there(&mut bench.robot.play(long.clone())));
    }
    let most = LIVE.load(Ordering::Relaxed) - before;
    assert!(most < 16 * A_MEGABYTE, "{most} bytes of plays lived");
    assert!(refused > 9000, "{refused}");
    drop(hold);
    bench.reach(bench.robot.tick() + 2);
    assert!(!is_there(&mut bench.robot.play(long)), "there is room again");
}

#[test]
fn whoever_waits_for_an_earlier_tick_is_answered_earlier_whoever_asked_first() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let mut asked: Vec<_> = [40, 7, 23, 7, 1].map(|tick| (tick, bench.robot.reach(tick))).into();
    drop(hold);
    asked.sort_by_key(|(tick, _)| *tick);
    for (tick, reaching) in asked {
        assert_eq!(wait(reaching).value.unwrap(), tick);
    }
}

#[test]
fn more_than_can_wait_for_one_tick_is_refused_until_some_of_it_is_given_up() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let mut asked = Vec::new();
    let most = loop {
        let mut pending = bench.robot.reach(1);
        match Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => asked.push(pending),
            Poll::Ready(reply) => match reply.value {
                Err(RobotError::Busy { most }) => break most,
                other => panic!("{other:?}"),
            },
        }
    };
    assert_eq!(asked.len(), most);
    assert!(matches!(wait(bench.robot.play(chunk(0, [0.1]))).value, Err(RobotError::Busy { .. })));
    // A hold needs no place.
    bench.robot.hold(&[0].into());
    asked.truncate(most - 1);
    let playing = bench.robot.play(chunk(0, [0.1]));
    drop(hold);
    asked.into_iter().for_each(|reaching| assert!(wait(reaching).value.is_ok()));
    assert_eq!(wait(playing).value.unwrap().ended, Ended::Finished);
    assert_eq!(bench.robot.commanded()[1], REST[1]);
}
