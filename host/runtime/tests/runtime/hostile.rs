//! Components that try to do harm, and what must come of each: `tests/guests/hostile`.
//!
//! Whatever one does, afterwards the arm holds, another skill runs, and the control loop has missed no tick.

use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::Input;
use waza_runtime::{
    Budget, Budgets, Event, Flaw, HostOptions, Outcome, PackageError, RuntimeError, SkillError, TaskRequest,
};

use crate::bombs::bomb;
use crate::fixture::{ALL, Bench, REST};
use crate::packages::{component, manifest};

/// How a run must end.
enum Must {
    /// By a budget.
    Exhaust(Budget),
    /// By a trap; these are among its words.
    Trap(&'static str),
    /// As the skill's own, with a refusal of the host's that begins so.
    Refuse(&'static str),
    /// Well: the harm is undone without a word.
    Done,
}

use Must::{Done, Exhaust, Refuse, Trap};

fn tight() -> HostOptions {
    let budgets = Budgets {
        cpu_burst: Duration::from_millis(100),
        cpu_time: Duration::from_millis(400),
        run_time: Duration::from_secs(5),
        memory_bytes: 32 << 20,
        handles: 64,
        held_bytes: 8 << 20,
        calls: 32,
        bytes_per_s: 64 << 20,
        model_requests_per_s: 20,
        log_bytes: 16 << 10,
        ..Budgets::default()
    };
    HostOptions { budgets, ..HostOptions::default() }
}

fn bench() -> Bench {
    Bench::with(Pace::Lockstep, tight(), ALL)
}

/// Loads a component as `test/hostile`, with every permission that there is.
fn load(bench: &Bench, name: &str) {
    let everything = [ALL, &["skills:test/hostile", "pixels:front"]].concat();
    let component = component(&format!("examples/{name}"));
    let package = bench.package_of("hostile", &manifest("hostile", &everything), &component);
    bench.host.load(&package).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn run(bench: &Bench, resume: Option<Vec<u8>>) -> Result<Outcome, SkillError> {
    let request = TaskRequest { seed: 7, resume, ..TaskRequest::default() };
    let events = bench.events.clone();
    let running = bench.host.run("test/hostile", request, move |event| events.lock().unwrap().push(event));
    futures_executor::block_on(running).value
}

fn check(name: &str, must: &Must, ended: Result<Outcome, SkillError>) {
    let fits = match (must, &ended) {
        (Exhaust(budget), Err(SkillError::Exhausted { budget: over, .. })) => over.budget == *budget,
        (Trap(words), Err(SkillError::Trapped { what, .. })) => what.contains(words),
        (Refuse(words), Err(error @ SkillError::Returned { .. })) => {
            error.to_string().contains(&format!("ended with: {words}"))
        }
        (Done, Ok(_)) => true,
        _ => false,
    };
    assert!(fits, "{name} ended with {ended:?}");
}

/// The arm holds, another skill runs, no tick was missed.
fn assert_no_harm(bench: &Bench, name: &str) {
    bench.assert_the_arm_holds();
    bench.data("look");
    assert_eq!(bench.robot.statistics().missed, 0, "{name} made the control loop miss ticks");
    assert!(bench.commands.lock().unwrap().iter().flatten().all(|it| it.is_finite()), "{name} moved the arm nowhere");
}

fn all(corpus: &[(&str, Must)]) {
    all_on(&bench(), corpus);
}

fn all_on(bench: &Bench, corpus: &[(&str, Must)]) {
    for (name, must) in corpus {
        load(bench, name);
        check(name, must, run(bench, None));
        assert_no_harm(bench, name);
    }
}

#[test]
fn what_never_ends_is_ended_wherever_it_loops_or_waits() {
    all(&[
        ("spin", Exhaust(Budget::CpuBurst)),
        ("spin_before_it_starts", Exhaust(Budget::CpuBurst)),
        ("spin_in_drop", Exhaust(Budget::CpuBurst)),
        ("spin_after_return", Exhaust(Budget::CpuBurst)),
        ("spin_while_moving", Exhaust(Budget::CpuBurst)),
        ("spin_in_short_bursts", Exhaust(Budget::CpuTime)),
        ("yield_forever", Exhaust(Budget::CpuBurst)),
        ("wait_forever", Exhaust(Budget::RunTime)),
        ("sleep_forever", Exhaust(Budget::RunTime)),
        ("poller", Exhaust(Budget::CpuBurst)),
        ("poller_of_many", Exhaust(Budget::CpuBurst)),
        ("poller_in_short_bursts", Exhaust(Budget::CpuTime)),
        ("streams_dropped_half_way", Exhaust(Budget::RunTime)),
    ]);
}

#[test]
fn what_crashes_crashes_alone() {
    all(&[
        ("trap_before_it_starts", Trap("unreachable")),
        ("trap_while_moving", Trap("unreachable")),
        ("exit_while_moving", Trap("it called exit")),
        ("recurse", Trap("wasm trap")),
    ]);
}

#[test]
fn what_grows_is_stopped_at_its_budget() {
    all(&[
        ("memory_bomb", Exhaust(Budget::Memory)),
        ("memory_at_once", Exhaust(Budget::Memory)),
        ("chunk_handles", Exhaust(Budget::Handles)),
        ("chunk_bytes", Exhaust(Budget::Held)),
        ("chunk_in_one_call", Exhaust(Budget::CallBytes)),
        ("chunk_traffic", Exhaust(Budget::Bytes)),
        ("observation_hoard", Exhaust(Budget::Handles)),
        ("stream_bomb", Refuse("exhausted: the number of calls and streams at once")),
        ("own_streams", Exhaust(Budget::Handles)),
        ("waitable_sets", Exhaust(Budget::Handles)),
        ("pollables", Exhaust(Budget::Calls)),
        ("outcome_bomb", Exhaust(Budget::CallBytes)),
        ("error_bomb", Exhaust(Budget::CallBytes)),
        ("checkpoint_bomb", Exhaust(Budget::CallBytes)),
        ("checkpoint_of_a_gigabyte", Trap("out of bounds")),
    ]);
}

#[test]
fn what_floods_the_host_is_throttled_or_ended() {
    all(&[
        ("clock_flood", Exhaust(Budget::CpuBurst)),
        ("wait_flood", Exhaust(Budget::CpuBurst)),
        ("random_flood", Exhaust(Budget::CpuBurst)),
        ("random_gigabytes", Trap("random bytes are more than")),
        ("concurrent_waits", Refuse("exhausted: the number of calls and streams at once")),
        ("concurrent_observations", Refuse("exhausted: the number of calls and streams at once")),
        ("model_flood", Refuse("exhausted: the number of requests to the model is used up (limit: 20 a second)")),
        ("huge_instruction", Exhaust(Budget::CallBytes)),
        ("rollouts_unread", Refuse("exhausted: the number of calls and streams at once")),
        ("calls_dropped_half_way", Exhaust(Budget::CpuBurst)),
        ("covert_clock", Done),
    ]);
}

#[test]
fn what_makes_the_host_do_much_for_little_is_throttled() {
    let budgets = Budgets { bytes_per_s: 1 << 20, ..tight().budgets };
    let bench = Bench::with(Pace::Lockstep, HostOptions { budgets, ..HostOptions::default() }, ALL);
    bench.load("follower", &[]).unwrap();
    let corpus = [
        ("slow_move", Refuse("exhausted: the traffic of calls is used up (limit: 1 MiB a second)")),
        ("engage_forever", Refuse("exhausted: the number of calls and streams at once")),
    ];
    all_on(&bench, &corpus);
}

#[test]
fn what_engaging_a_controller_costs_is_counted_where_it_is_asked_for() {
    // In these two minutes of robot time the skill itself thinks for one second, and what it asks for takes six.
    let budgets = Budgets { cpu_time: Duration::from_secs(2), run_time: Duration::from_secs(120), ..tight().budgets };
    let bench = Bench::with(Pace::Lockstep, HostOptions { budgets, ..HostOptions::default() }, ALL);
    bench.load("follower", &[]).unwrap();
    all_on(&bench, &[("engage_and_wait", Exhaust(Budget::CpuTime))]);
}

/// What polls or withdraws at its control loop's cost.
const POLLERS: [&str; 3] = ["poller", "poller_in_short_bursts", "calls_dropped_half_way"];

#[cfg(target_os = "linux")]
#[test]
fn what_polls_or_withdraws_without_end_takes_no_memory_of_the_hosts_and_others_go_on() {
    alone("hostile::what_polls_or_withdraws_without_end_takes_no_memory_of_the_hosts_and_others_go_on", || {
        for pace in [Pace::Lockstep, Pace::RealTime] {
            let [cpu_burst, cpu_time] = [1, 2].map(Duration::from_secs);
            let budgets = Budgets { cpu_burst, cpu_time, ..Budgets::default() };
            let bench = Bench::with(pace, HostOptions { budgets, ..HostOptions::default() }, ALL);
            load(&bench, "spin");
            let _ = run(&bench, None);
            for name in POLLERS {
                load(&bench, name);
                let before = resident_bytes("VmRSS");
                // The highest so far becomes what it is now.
                std::fs::write("/proc/self/clear_refs", "5").unwrap();
                let hostile = bench.host.run("test/hostile", TaskRequest::default(), |_| ());
                // Waited for meanwhile: an answer that nobody takes keeps robot time still.
                let hostile = std::thread::spawn(|| futures_executor::block_on(hostile).value);
                bench.data("look");
                let ended = hostile.join().unwrap();
                let grown = resident_bytes("VmHWM").saturating_sub(before);
                assert!(ended.is_err());
                println!("{pace:?} {name}: {} kB, {ended:?}", grown >> 10);
                assert!(grown < 10 << 20, "{name} took {grown} bytes under {pace:?}");
            }
        }
    });
}

/// Does this in a process of its own, in which no other test takes memory meanwhile.
#[cfg(target_os = "linux")]
fn alone(test: &str, work: impl FnOnce()) {
    const ALONE: &str = "WAZA_TEST_ALONE";

    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = again.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("1 passed"), "there is no test {test}: {said}");
    print!("{said}");
}

/// Of this process, as the system counts it.
#[cfg(target_os = "linux")]
fn resident_bytes(which: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn what_talks_too_much_is_not_listened_to() {
    for name in ["log_bomb", "log_without_lines", "progress_bomb"] {
        let bench = bench();
        load(&bench, name);
        check(name, &Done, run(&bench, None));
        let said = bench.events.lock().unwrap().len();
        assert!((1..800).contains(&said), "{name} was heard {said} times");
        let sane = |event: &Event| !matches!(event, Event::Progress { fraction, .. } if !fraction.is_finite());
        assert!(bench.events.lock().unwrap().iter().all(sane));
        assert_no_harm(&bench, name);
    }
}

#[test]
fn skills_that_invoke_without_end_come_to_one() {
    let bench = Bench::with(Pace::Lockstep, tight(), &[ALL, &["skills:test/hostile"]].concat());
    let corpus = [
        ("invoke_itself", Refuse("exhausted: the depth of skills that invoke each other")),
        ("invoke_each_other", Refuse("exhausted: the depth of skills that invoke each other")),
        ("invoke_many_at_once", Refuse("exhausted: the number of invoked runs at once")),
    ];
    all_on(&bench, &corpus);
}

#[test]
fn a_run_that_was_invoked_counts_until_it_is_over_however_early_its_caller_looks_away() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    load(&bench, "invocations_dropped_half_way");
    // What is invoked stays where it reports, as a run does whose events nobody takes.
    let (over, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let running = bench.host.run("test/hostile", TaskRequest::default(), move |event| {
        if matches!(event, Event::Progress { .. }) {
            // An error as soon as the other end is dropped.
            let _ = ended.lock().map(|ended| ended.recv());
        }
    });
    let refused = futures_executor::block_on(running).value;
    drop(over);
    let must = Refuse("exhausted: the number of invoked runs at once");
    check("invocations_dropped_half_way", &must, refused);
    assert_no_harm(&bench, "invocations_dropped_half_way");
}

#[test]
fn a_handle_that_was_not_given_out_is_worth_nothing() {
    all(&[
        ("forged_observation", Trap("unknown handle index")),
        ("forged_chunk", Trap("unknown handle index")),
        ("forged_lease", Trap("unknown handle index")),
        ("stale_observation", Trap("unknown handle index")),
        ("stale_chunk", Trap("unknown handle index")),
        ("stale_lease", Trap("unknown handle index")),
        ("double_drop_observation", Trap("unknown handle index")),
        ("double_drop_chunk", Trap("unknown handle index")),
        ("double_drop_lease", Trap("unknown handle index")),
        ("observation_as_lease", Trap("handle")),
        ("lease_as_pollable", Trap("handle")),
        ("drop_what_is_borrowed", Trap("borrowed")),
    ]);
}

#[test]
fn what_does_not_keep_to_the_canonical_abi_traps() {
    all(&[
        ("callback_of_nonsense", Trap("unsupported callback code")),
        ("callback_on_a_forged_set", Trap("unknown handle index")),
        ("exit_without_an_answer", Trap("failed to produce a result")),
    ]);
}

/// A component whose function is called back by one with this signature: `results` are all zero.
fn called_back_as(parameters: &str, results: &[&str]) -> Vec<u8> {
    let zeros: String = results.iter().map(|it| format!("({it}.const 0)")).collect();
    let results = results.join(" ");
    let text = format!(
        r#"(component
            (core module $module
                (func (export "run") (result i32) (i32.const 1))
                (func (export "called back") (param {parameters}) (result {results}) {zeros}))
            (core instance $core (instantiate $module))
            (func (export "run") async
                (canon lift (core func $core "run") async (callback (core func $core "called back")))))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_component_that_is_called_back_by_a_function_of_another_type_is_refused() {
    let bench = bench();
    let load = |component: &[u8]| {
        let folder = bench.package_of("bomb", &manifest("bomb", ALL), component);
        bench.host.load(&folder).unwrap_err().to_string()
    };
    // As it should be; it is no skill, but that is looked at after its types are.
    let error = load(&called_back_as("i32 i32 i32", &["i32"]));
    assert!(error.contains("exports no waza:skill/task@0.1.0"), "{error}");
    // With many results some hosts have written what the guest answers over their own stack.
    for (parameters, results) in [
        ("i32 i32 i32", &["i32"; 1000][..]),
        ("i32 i32 i32", &["i32"; 2]),
        ("i32 i32 i32", &["i64"]),
        ("i32 i32 i32", &[]),
        ("i32 i32", &["i32"]),
        ("i32 i32 i32 i32", &["i32"]),
        ("i64 i32 i32", &["i32"]),
    ] {
        let error = load(&called_back_as(parameters, results));
        let expected = "canonical option `callback` uses a core function with an incorrect signature";
        assert!(error.contains(expected), "({parameters}) -> {} results: {error}", results.len());
        assert_no_harm(&bench, "a mistyped callback");
    }
}

#[test]
fn a_command_that_is_none_is_refused_and_one_that_is_wild_is_tamed() {
    all(&[
        ("not_a_number", Refuse("invalid: ")),
        ("infinite", Refuse("invalid: ")),
        ("wrong_width", Refuse("invalid: ")),
        ("no_rows", Refuse("invalid: ")),
        ("too_many_rows", Refuse("invalid: ")),
        ("absurd_rates", Refuse("invalid: none was taken")),
        ("a_row_an_age", Refuse("invalid: the play would last")),
        ("teleport", Done),
        ("supersede_itself", Done),
        ("leases_in_a_loop", Done),
        ("lease_twice", Refuse("unavailable: this run holds the joint shoulder_pan already")),
        ("rollout_dropped_half_way", Done),
    ]);
}

#[test]
fn a_skill_that_teleports_moves_no_faster_than_the_arm_may() {
    let bench = bench();
    load(&bench, "teleport");
    check("teleport", &Done, run(&bench, None));
    let commands = bench.commands.lock().unwrap();
    let joint = &bench.robot.embodiment().joints[0];
    let hz = bench.robot.embodiment().control_hz;
    let speeds: Vec<f32> = commands.windows(2).map(|pair| (pair[1][0] - pair[0][0]) * hz).collect();
    let fastest = speeds.iter().fold(0.0, |most: f32, it| most.max(it.abs()));
    assert!(fastest > 0.1 && fastest <= joint.velocity * 1.001, "{fastest} rad/s");
    let hardest = speeds.windows(2).map(|pair| ((pair[1] - pair[0]) * hz).abs()).fold(0.0, f32::max);
    assert!(hardest <= joint.acceleration * 1.01, "{hardest} rad/s²");
}

#[test]
fn nothing_that_a_skill_says_after_it_lost_its_lease_reaches_the_robot() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    load(&bench, "move_after_loss");
    let running = bench.host.run("test/hostile", TaskRequest::default(), |_| ());
    while bench.robot.commanded()[0] <= 0.02 {
        bench.reach(bench.robot.tick() + 1);
    }
    bench.host.revoke(&"test/hostile".to_owned().try_into().unwrap());
    check("move_after_loss", &Refuse("preempted: "), futures_executor::block_on(running).value);
    assert!(bench.robot.commanded()[0] < 0.6);
    bench.assert_the_arm_holds();
}

#[test]
fn a_skill_that_behaves_until_it_is_resumed_is_caught_when_it_does_not() {
    for (name, must) in [("restore_hangs", Exhaust(Budget::CpuBurst)), ("turns_when_resumed", Trap("unreachable"))] {
        let bench = bench();
        load(&bench, name);
        check(name, &Done, run(&bench, None));
        let state = bench.host.checkpoint(&"test/hostile".to_owned().try_into().unwrap()).unwrap();
        for _ in 0..3 {
            check(name, &must, run(&bench, Some(state.clone())));
            assert_no_harm(&bench, name);
        }
        let again = run(&bench, None).unwrap_err();
        assert!(matches!(again, SkillError::Quarantined { .. }), "{name} is still run: {again}");
    }
}

#[test]
fn a_controller_that_misbehaves_ends_and_answers_nothing() {
    let bench = bench();
    let still = vec![0.0; 6];
    let input = Input {
        at: 0,
        positions: REST.to_vec(),
        velocities: still.clone(),
        efforts: still.clone(),
        samples: still,
        goal: REST.to_vec(),
    };
    for (name, expected) in [
        ("control_spin_in_start", "the time for one call of a controller"),
        ("control_spin_in_tick", "the time for one call of a controller"),
        ("control_spin_in_state", "the time for one call of a controller"),
        ("control_recurse", "wasm trap"),
        ("control_memory_bomb", "the memory"),
        ("control_answer_bomb", "the size of one call"),
        ("control_state_bomb", "the size of one call"),
        ("control_not_a_number", "NaN"),
        ("control_trap", "unreachable"),
    ] {
        let folder = bench.package_of("control", &manifest("control", &[]), &component(&format!("examples/{name}")));
        let mut controller = bench.host.controller(&folder).unwrap();
        let ended = controller.start("", None).and_then(|()| controller.tick(&input)).and_then(|_| controller.state());
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_no_harm(&bench, name);
    }
}

#[test]
fn a_component_that_is_a_bomb_by_itself_is_refused_before_it_is_compiled() {
    let bench = bench();
    for (name, expected) in [
        ("memory", "bytes of memory: 4294967296"),
        ("table", "elements of a table: 10000000"),
        ("functions", "functions: 200001"),
        ("function", "bytes of a function"),
        ("nesting", "components in components: 9"),
        ("components", "modules and components: 201"),
        ("modules", "modules and components: 201"),
        ("instances", "instances: 5000"),
        ("exponential", "instances: 512"),
    ] {
        let folder = bench.package_of("bomb", &manifest("bomb", ALL), &bomb(name));
        let error = bench.host.load(&folder).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Package(PackageError::Component { flaw: Flaw::Outsized(what), .. }) if what.contains(expected)),
            "{name}: {error}"
        );
        assert_no_harm(&bench, name);
    }
}

#[test]
fn a_component_that_wants_or_offers_what_it_should_not_is_refused_with_a_reason() {
    let bench = bench();
    for (name, expected) in [
        ("memories", "transitively contains 40 Wasm linear memories"),
        ("imports", "exports no waza:skill/task@0.1.0"),
        ("exports", "exports no waza:skill/task@0.1.0"),
    ] {
        let folder = bench.package_of("bomb", &manifest("bomb", ALL), &bomb(name));
        let error = bench.host.load(&folder).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_no_harm(&bench, name);
    }
}
