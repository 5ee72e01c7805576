//! What a stranger's package does to whoever compiles it, it does to a process of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use waza_robot::observation::Measurement;
use waza_robot::{Embodiment, Frame, Guard, Link, LinkError, Pace, Proprioception, Robot, RobotOptions};
use waza_runtime::{Change, Compiler, Host, HostOptions};

#[path = "../../runtime/tests/packages/bombs.rs"]
mod bombs;
#[path = "../../runtime/tests/models/mod.rs"]
mod models;
#[path = "../../runtime/tests/packages/mod.rs"]
#[allow(dead_code, reason = "others need the rest")]
mod packages;

use models::Silent;
use packages::{component, manifest, package};

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `conduct` asks for.
const CONDUCT: &[&str] = &["sensing", "model", "motion:body", "operator", "durable", "skills:test/conduct"];

/// Of the control loop.
const CONTROL_HZ: f32 = 500.0;

struct Still;

impl Link for Still {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let positions = vec![0.0, -0.6, 0.8, 0.6, 0.0, 0.3];
        let joints = Proprioception { positions, velocities: vec![0.0; 6], efforts: vec![0.0; 6] };
        *into = Measurement { joints, samples: vec![vec![0.0; 6]] };
        Ok(())
    }

    fn write(&mut self, _: &[f32]) -> Result<(), LinkError> {
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        Err(LinkError("it has no cameras".into()))
    }
}

fn host() -> Host {
    let embodiment = Arc::new(Embodiment { control_hz: CONTROL_HZ, ..Embodiment::so101() });
    let kinematics = Box::new(|_: &[f32]| [0.2, 0.0, 0.2]);
    let options = RobotOptions { pace: Pace::RealTime, kinematics, guard: Guard::On };
    let robot = Robot::start(embodiment, Box::new(Still), options).unwrap();
    let compiler =
        Compiler::Process { program: env!("CARGO_BIN_EXE_waza").into(), arguments: vec!["compile-component".into()] };
    Host::new(robot, Silent::new(), HostOptions { compiler, ..HostOptions::default() }).unwrap()
}

/// The most memory that this process has ever had, bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn packages_that_break_or_fill_the_compiler_are_refused_and_a_good_one_beside_them_is_loaded_meanwhile() {
    let bombs = bombs::all();
    assert!(bombs.len() >= 22);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &bombs {
        package(&folder.path().join(name), &manifest(name, &[]), bytes);
    }
    drop(bombs);
    let good = component("conduct");
    package(&folder.path().join("good"), &manifest("good", CONDUCT), &good);
    let host = host();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();

    // Where resetting it is not allowed, the guests' own memory counts too.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, began) = (peak_bytes(), Instant::now());
    let (sender, changes) = channel();
    let missed = host.robot().statistics().missed;
    let watch = host.watch(folder.path(), move |change| drop(sender.send((began.elapsed(), change)))).unwrap();
    println!("watched after {:?}", began.elapsed());
    let mut seen = BTreeMap::new();
    while seen.len() < names.len() {
        match changes.recv_timeout(PATIENCE).unwrap() {
            (at, Change::Loaded(id)) => drop(seen.insert(id.to_string(), (at, "loaded".to_owned()))),
            (at, Change::Refused { folder, error }) => {
                let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
                seen.insert(name, (at, error.to_string()));
            }
            (_, Change::Removed(id)) => panic!("{id} is gone"),
        }
    }
    let grown = peak_bytes() - before;
    let missed = host.robot().statistics().missed - missed;
    for (name, (at, what)) in &seen {
        let what = what.rsplit_once("guest.wasm").map_or(what.as_str(), |(_, what)| what);
        println!("{:7.2} s {name}: {what}", at.as_secs_f64());
    }
    println!("memory: {} MB more; ticks missed at {CONTROL_HZ} Hz: {missed}", grown / 1_000_000);
    let loaded: Vec<_> = seen.iter().filter(|(_, (_, what))| what == "loaded").map(|(name, _)| name.as_str()).collect();
    assert_eq!(loaded, ["test/good"]);
    // On any machine that takes too much; it is smaller than the good one.
    let (refused, why) = &seen["wide-loops"];
    assert!(why.contains("to compile, which no useful component of its size does"), "{why}");
    assert!(seen["test/good"].0 < *refused, "it waited");
    assert!(grown < 50_000_000, "{grown}");

    drop(watch);
}

/// What the compiler's process says of a component, run with these bounds.
fn compile(component: &[u8], bounds: &str) -> (Option<i32>, String) {
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), component).unwrap();
    let order = format!("{{\"limits\":{{\"memory_bytes\":268435456,\"table_elements\":20000}},\"bounds\":{bounds}}}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
    command.args(["compile-component", &order]).stdin(std::fs::File::open(input.path()).unwrap());
    let output = command.stdout(tempfile::tempfile().unwrap()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_compilers_process_ends_where_its_time_its_memory_or_its_output_does() {
    let good = component("conduct");
    let (code, said) = compile(&good, r#"{"cpu_ms":60000,"memory_mib":1024,"code_mib":64}"#);
    assert_eq!((code, said.as_str()), (Some(0), "{\"Ok\":\"skill\"}"));
    let (code, said) = compile(&good, r#"{"cpu_ms":20,"memory_mib":1024,"code_mib":64}"#);
    assert_eq!((code, said.as_str()), (Some(75), ""));
    let (code, said) = compile(&good, r#"{"cpu_ms":60000,"memory_mib":4,"code_mib":64}"#);
    assert!(code != Some(0) || said.contains("memory"), "{said}");
    let (code, said) = compile(&good, r#"{"cpu_ms":60000,"memory_mib":1024,"code_mib":0}"#);
    assert_ne!(code, Some(0), "{said}");
}

#[test]
fn the_compilers_process_has_no_files_no_network_no_other_processes_and_the_last_priority() {
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), bombs::bomb("wide-loops")).unwrap();
    // As a library of the host may leave it open for its children.
    let inherited = rustix::io::dup(std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap()).unwrap();
    let order = r#"{"limits":{"memory_bytes":268435456,"table_elements":20000},"bounds":{"cpu_ms":60000,"memory_mib":1024,"code_mib":512}}"#;
    let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
    command.args(["compile-component", order]).stdin(std::fs::File::open(input.path()).unwrap());
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    drop(inherited);
    let about = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", process.id())).unwrap();
    let began = Instant::now();
    // The last that it gives up is system calls.
    while !about("status").contains("Seccomp:\t2") {
        assert!(began.elapsed() < PATIENCE, "{}", about("status"));
        std::thread::sleep(Duration::from_millis(1));
    }
    let (status, limits, stat) = (about("status"), about("limits"), about("stat"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(open, 3);
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    for (name, most) in [
        ("Max cpu time", 61),
        ("Max file size", 512 << 20),
        ("Max data size", 1 << 30),
        ("Max core file size", 0),
        ("Max processes", 0),
        ("Max open files", 0),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let found: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(found, [most.to_string(), most.to_string()], "{name}");
    }
    // After the name, which ends with a bracket: the state, fifteen others, and how nice it is.
    let nice = stat.rsplit_once(") ").unwrap().1.split_whitespace().nth(16);
    assert_eq!(nice, Some("19"), "{stat}");
}

#[test]
fn a_host_starts_arms_and_answers_before_anything_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..8 {
        let name = format!("loops-{number}");
        package(&folder.path().join(&name), &manifest(&name, &[]), &bombs::bomb("loops"));
    }
    let host = host();
    let (sender, changes) = channel();
    let watch = host.watch(Path::new(folder.path()), move |change| drop(sender.send(change))).unwrap();
    assert!(changes.try_recv().is_err(), "it waited for a package");
    assert!(host.skills().is_empty());
    assert!(matches!(changes.recv_timeout(PATIENCE).unwrap(), Change::Refused { .. }));
    drop(watch);
}
