//! The HTTP API, over real connections, with real skills.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fixture;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use fixture::packages::{component, remove, replace};
use fixture::{Bench, answer, anywhere, ask, ask_text, eventually, package, relay};
use serde_json::{Value, json};
use waza_daemon::{Daemon, News, Options, Record, Records, StopKind, Token};
use waza_robot::Observation;
use waza_runtime::{Entry, Event, Host, Journal, SkillId, TaskRequest};

const JSON: (&str, &str) = ("content-type", "application/json");

#[track_caller]
fn assert_refused(answer: (u16, Value), status: u16, kind: &str) -> String {
    let (got, body) = answer;
    assert_eq!((got, &body["error"]["kind"]), (status, &kind.into()), "{body}");
    let (cause, way_out) = (body["error"]["cause"].as_str().unwrap(), body["error"]["way_out"].as_str().unwrap());
    assert!(!cause.is_empty() && !way_out.is_empty(), "{body}");
    format!("{cause}: {way_out}")
}

#[test]
fn a_run_is_started_followed_and_ended_over_http() {
    let bench = Bench::new();
    let (status, skills) = bench.get("/v1/skills");
    assert_eq!((status, &skills["loaded"][0]["id"]), (200, &"test/conduct".into()), "{skills}");

    let run = bench.start("say: hello");
    let ended = bench.ended(run);
    assert_eq!((&ended["state"], &ended["events"]["log"]), (&"succeeded".into(), &2.into()), "{ended}");
    let (status, events) = ask_text(bench.daemon.address(), "GET", &format!("/v1/runs/{run}/events"), &[], "");
    let (hello, end) = (events.find("data: {\"line\":\"hello\"}").unwrap(), events.find("event: ended").unwrap());
    assert!(status == 200 && hello < end, "{events}");

    let run = bench.start("panic");
    let ended = bench.ended(run);
    assert_eq!((&ended["state"], &ended["error"]["kind"]), (&"failed".into(), &"trapped".into()));
    assert!(ended["error"]["cause"].as_str().unwrap().contains("on purpose"), "{ended}");

    for instruction in ["wait forever", "spin", "keep moving"] {
        let run = bench.start(instruction);
        assert_eq!(bench.get("/v1/status").1["running"], 1);
        assert_eq!(bench.delete(&format!("/v1/runs/{run}")).0, 202);
        assert_eq!(bench.ended(run)["error"]["kind"], "stopped", "{instruction}");
    }
    assert_eq!(bench.get("/v1/runs").1.as_array().unwrap().len(), 5);
}

#[test]
fn a_version_that_crashes_again_and_again_is_quarantined_in_sight_of_the_operator_who_may_pardon_it() {
    let bench = Bench::new();
    for _ in 0..3 {
        let run = bench.start("panic");
        assert_eq!(bench.ended(run)["error"]["kind"], "trapped");
    }
    let refused = bench.start("say: hello");
    assert_eq!(bench.ended(refused)["error"]["kind"], "quarantined");
    let quarantined = || {
        bench.told(|news| match news {
            News::Quarantined { skill, .. } => Some(skill.to_string()),
            _ => None,
        })
    };
    assert_eq!(quarantined(), "test/conduct");
    let version = &bench.get("/v1/skills").1["quarantined"][0];
    assert_eq!((&version["skill"], &version["version"]), (&"test/conduct".into(), &"0.1.0".into()));
    assert!(version["why"][0].as_str().unwrap().contains("on purpose"), "{version}");

    let pardon = || bench.post("/v1/quarantine/pardon", json!({ "skill": "test/conduct" }));
    assert_eq!(pardon().0, 204);
    assert_refused(pardon(), 404, "not-found");
    let run = bench.start("say: hello");
    assert_eq!(bench.ended(run)["state"], "succeeded");
    (0..3).for_each(|_| drop(bench.ended(bench.start("panic"))));
    assert_eq!(quarantined(), "test/conduct", "it is news again");
}

#[test]
fn versions_that_change_under_a_run_are_news_and_the_run_shows_the_one_that_works() {
    let bench = Bench::new();
    let load = |version: &str, conduct: &str| relay(bench.packages.path(), version, conduct);
    load("0.1.0", "steady");
    eventually(|| (bench.get("/v1/skills").1["loaded"][1]["id"] == "test/relay").then_some(()));
    let count = json!({ "skill": "test/relay", "instruction": "count", "parameters": 3000 });
    let (_, run) = bench.post("/v1/runs", count);
    assert_eq!(run["version"], "0.1.0", "{run}");
    let path = format!("/v1/runs/{}", run["id"]);
    let works = |version: &str| eventually(|| (bench.get(&path).1["version"] == version).then_some(()));

    load("0.2.0", "panic later");
    bench.change(|change| matches!(change, Event::Swapped { from, to, .. } if pair(from, to) == "0.1.0 0.2.0"));
    let is_back = |change: &Event| {
        matches!(change, Event::RolledBack { from, to, why, .. }
            if pair(from, to) == "0.2.0 0.1.0" && why.contains("on purpose"))
    };
    bench.change(is_back);
    works("0.1.0");
    let (skill, why) = bench.told(|news| match news {
        News::Quarantined { skill, version, why } if version.to_string() == "0.2.0" => Some((skill, why)),
        _ => None,
    });
    assert_eq!(skill.as_str(), "test/relay");
    assert!(why[0].contains("on purpose"), "{why:?}");

    load("0.3.0", "steady again");
    bench.change(|change| matches!(change, Event::Swapped { from, to, .. } if pair(from, to) == "0.1.0 0.3.0"));
    works("0.3.0");
    let kinds = bench.get(&path).1["events"].clone();
    assert_eq!((&kinds["swap-offered"], &kinds["swapped"], &kinds["rolled-back"]), (&2.into(), &2.into(), &1.into()));
    bench.delete(&path);
    eventually(|| (bench.get(&path).1["state"] != "running").then_some(()));
    assert_eq!(bench.get(&path).1["version"], "0.3.0", "it stays in sight");
    let (_, events) = ask_text(bench.daemon.address(), "GET", &format!("{path}/events"), &[], "");
    for line in [
        r#"data: {"from":"0.1.0","seconds":"#,
        r#""skill":"test/relay","to":"0.2.0"}"#,
        r#"data: {"from":"0.2.0","skill":"test/relay","to":"0.1.0","why":"#,
    ] {
        assert!(events.contains(line), "{line} is missing in\n{events}");
    }
}

fn pair(from: &impl ToString, to: &impl ToString) -> String {
    format!("{} {}", from.to_string(), to.to_string())
}

#[test]
fn events_reach_a_reader_while_the_run_works() {
    let bench = Bench::new();
    let run = bench.start("wait forever");
    let address = bench.daemon.address();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /v1/runs/{run}/events HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    bench.delete(&format!("/v1/runs/{run}"));
    let (status, events) = answer(stream);
    assert!(status == 200 && events.contains("event: ended"), "{events}");
}

#[test]
fn the_host_stop_ends_every_run_and_resetting_it_names_the_stop_and_starts_nothing() {
    let bench = Bench::new();
    let thinking = ["wait forever", "spin"].map(|instruction| bench.start(instruction));
    let moving = bench.start("keep moving");
    eventually(|| (bench.robot.commanded()[0] != 0.0).then_some(()));
    let (status, latch) = bench.post("/v1/stop", Value::Null);
    let stop = latch["stopped"].as_u64().unwrap();
    assert_eq!((status, bench.robot.is_stopped()), (200, true));
    bench.told(|news| (news == News::Stopped { stop }).then_some(()));
    assert_eq!(bench.ended(moving)["state"], "failed");
    for run in thinking {
        assert_eq!(bench.ended(run)["error"]["kind"], "stopped");
    }

    let start = || bench.post("/v1/runs", json!({ "skill": "test/conduct", "instruction": "say: no" }));
    assert!(assert_refused(start(), 409, "stopped").contains(&format!("waza ctl reset {stop}")));
    let other = assert_refused(bench.post("/v1/reset", json!({ "stop": stop + 2 })), 409, "another-stop");
    assert!(other.contains(&format!("waza ctl reset {stop}")), "{other}");
    assert!(bench.robot.is_stopped());

    let (status, latch) = bench.post("/v1/reset", json!({ "stop": stop }));
    assert_eq!((status, &latch["stopped"]), (200, &Value::Null));
    assert_eq!(bench.get("/v1/status").1["running"], 0);
    let rest = bench.robot.commanded();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(bench.robot.commanded(), rest, "nothing moves by itself");
    assert_refused(bench.post("/v1/reset", json!({ "stop": stop })), 409, "not-stopped");
    assert_eq!(start().0, 201);
}

#[test]
fn a_package_is_taken_and_a_bad_one_refused_with_its_reason_while_the_daemon_works() {
    let bench = Bench::new();
    let folder = package(bench.packages.path(), "probe", b"not a component");
    let why = eventually(|| {
        let (_, skills) = bench.get("/v1/skills");
        skills["refused"][0]["why"].as_str().map(String::from)
    });
    assert!(why.contains("guest.wasm is no WebAssembly component"), "{why}");
    bench.told(|news| matches!(news, News::Refused { .. }).then_some(()));

    package(bench.packages.path(), "probe", &component("probe"));
    let skills =
        eventually(|| Some(bench.get("/v1/skills").1).filter(|skills| skills["loaded"][1]["id"] == "test/probe"));
    assert_eq!(skills["refused"], json!([]));

    replace(&folder.join("guest.wasm"), "again");
    eventually(|| (bench.get("/v1/skills").1["refused"] != json!([])).then_some(()));
    remove(&folder);
    let skills = eventually(|| Some(bench.get("/v1/skills").1).filter(|skills| skills["loaded"][1].is_null()));
    assert_eq!(skills["refused"], json!([]));
}

#[test]
fn of_two_packages_of_one_name_the_second_is_refused_for_as_long_as_the_first_is_there() {
    let bench = Bench::new();
    let (first, second) = (bench.packages.path().join("conduct"), bench.packages.path().join("other"));
    package(bench.packages.path(), "other", &component("conduct"));
    std::fs::copy(first.join("skill.toml"), second.join("skill.toml")).unwrap();
    let refused = || bench.get("/v1/skills").1["refused"].clone();
    let is_refused = || refused()[0]["why"].as_str().is_some_and(|why| why.contains("test/conduct"));
    eventually(|| is_refused().then_some(()));

    let newer = std::fs::read_to_string(first.join("skill.toml")).unwrap().replace("0.1.0\"\nwit", "0.2.0\"\nwit");
    replace(&first.join("skill.toml"), newer);
    bench.told(|news| matches!(news, News::Loaded { version, .. } if version == "0.2.0").then_some(()));
    assert!(is_refused(), "{}", refused());
    remove(&first);
    eventually(|| (refused() == json!([])).then_some(()));
}

#[test]
fn a_stranger_s_web_page_is_refused_and_a_program_of_this_machine_is_not() {
    let bench = Bench::new();
    let address = bench.daemon.address();
    let stop = |headers: &[(&str, &str)]| ask(address, "POST", "/v1/stop", headers, "null");
    assert_refused(stop(&[JSON, ("origin", "https://page.example")]), 403, "foreign");
    assert_refused(stop(&[JSON, ("origin", "null")]), 403, "foreign");
    assert_refused(stop(&[JSON, ("host", "robot.example:7373")]), 403, "foreign");
    assert_refused(stop(&[("content-type", "text/plain")]), 415, "content-type");
    assert_refused(stop(&[]), 415, "content-type");
    assert_refused(ask(address, "GET", "/v1/status", &[("host", "robot.example")], ""), 403, "foreign");
    assert_refused(ask(address, "GET", "/v1/status", &[("host", "[::1]x")], ""), 403, "foreign");
    let run = bench.start("wait forever");
    let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")];
    assert_refused(ask(address, "GET", &format!("/v1/runs/{run}/events"), &image, ""), 403, "foreign");
    assert!(!bench.robot.is_stopped());
    let own = format!("http://{address}");
    assert_eq!(stop(&[JSON, ("origin", &own)]).0, 200);
}

#[test]
fn requests_that_are_wrong_are_refused_with_a_way_out() {
    let bench = Bench::new();
    let run = |body: Value| bench.post("/v1/runs", body);
    assert!(assert_refused(run(json!({ "skill": "no/such" })), 404, "not-found").contains("loaded are test/conduct"));
    assert_refused(run(json!({ "skill": "test/conduct", "speed": 3 })), 400, "bad-request");
    assert_refused(run(json!({ "instruction": "x".repeat(70_000) })), 413, "body");
    assert_refused(bench.get("/v1/runs/7"), 404, "not-found");
    assert_refused(bench.get("/v1/runs/seven"), 400, "bad-request");
    assert_refused(bench.get("/v2"), 404, "not-found");
    assert_refused(bench.delete("/v1/status"), 405, "method");
    assert_refused(bench.post("/v1/reset", json!({})), 400, "bad-request");
    assert_refused(bench.post("/v1/leases/revoke", json!({ "skill": "No Such" })), 400, "bad-request");
    assert_eq!(bench.post("/v1/leases/revoke", json!({ "skill": "test/conduct" })).0, 204);
}

#[test]
fn who_says_nothing_is_cut_off_and_keeps_nobody_out() {
    let bench = Bench::new();
    let address = bench.daemon.address();
    let silent: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut slow = TcpStream::connect(address).unwrap();
    write!(
        slow,
        "POST /v1/runs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    )
    .unwrap();
    assert_eq!(bench.get("/v1/status").0, 200);
    assert_eq!(answer(slow).0, 408);
    drop(silent);
}

#[test]
fn with_a_token_only_who_has_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let write = |token: &str| {
        std::fs::write(&path, token).unwrap();
        fixture::private(&path);
    };
    write("short\n");
    assert!(Token::open(&path).err().unwrap().contains("16"));
    write("0123456789abcdef\n");
    let token = Token::open(&path).unwrap();

    let bench = Bench::with(Options { token: Some(token.clone()), stops: vec![StopKind::Http], ..anywhere() });
    assert_refused(bench.get("/v1/status"), 401, "unauthorised");
    let address = bench.daemon.address();
    let known = token.header();
    let (status, body) = ask(address, "GET", "/v1/status", &[("authorization", &known)], "");
    assert_eq!((status, &body["armed"]), (200, &true.into()), "the source finds its own way in: {body}");
    let by_name = [("authorization", known.as_str()), ("host", "robot.example:7373")];
    assert_eq!(ask(address, "GET", "/v1/status", &by_name, "").0, 200, "whoever knows it is no stranger's page");
}

#[cfg(unix)]
#[test]
fn a_token_that_others_may_read_is_refused_with_a_way_out() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Token::open(&path).err().unwrap();
        assert!(refused.contains(&format!("{mode:03o}")) && refused.contains("chmod 600"), "{refused}");
    }
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(Token::open(&path).is_ok(), "{mode:o}");
    }
}

#[test]
fn a_link_that_is_down_and_a_control_loop_that_has_ended_are_said_and_nothing_starts_after_that() {
    let bench = Bench::new();
    let condition = |word: &str| eventually(|| (bench.get("/v1/status").1["condition"] == word).then_some(()));
    condition("works");
    bench.link.is_down();
    condition("link-down");
    bench.told(|news| (news == News::LinkDown).then_some(()));
    bench.link.works();
    condition("works");
    bench.told(|news| (news == News::LinkBack).then_some(()));
    bench.link.is_broken();
    condition("ended");
    bench.told(|news| (news == News::RobotEnded).then_some(()));
    let start = bench.post("/v1/runs", json!({ "skill": "test/conduct", "instruction": "say: no" }));
    assert!(assert_refused(start, 409, "robot-ended").contains("start the host again"));
    let (_, counts) = ask_text(bench.daemon.address(), "GET", "/metrics", &[], "");
    assert!(counts.contains("waza_robot_ended 1") && counts.contains("waza_link_down 0"), "{counts}");
}

#[test]
fn what_a_skill_says_at_length_is_whole_in_its_own_run_and_in_the_last_event_and_short_in_every_list() {
    let bench = Bench::new();
    let run = bench.start("answer at length: 1000000");
    let ended = bench.ended(run);
    assert_eq!(ended["outcome"]["data"].as_str().unwrap().len(), 1_000_000);
    let path = format!("/v1/runs/{run}/events");
    let (_, events) = ask_text(bench.daemon.address(), "GET", &path, &[], "");
    let (_, last) = events.split_once("event: ended\ndata: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(last.lines().next().unwrap()).unwrap(), ended);

    let long = format!("say: {}", "at length ".repeat(1_000));
    let other = bench.start(&long);
    let ended = bench.ended(other);
    assert_eq!(ended["instruction"].as_str().unwrap(), long);
    let (status, list) = ask_text(bench.daemon.address(), "GET", "/v1/runs", &[], "");
    assert!(status == 200 && list.len() < 4_000, "{} bytes", list.len());
    let listed = &serde_json::from_str::<Value>(&list).unwrap()[0];
    assert_eq!((&listed["outcome"]["summary"], &listed["outcome"]["data"]), (&"answer at length".into(), &Value::Null));
    let told = bench.told(|news| match &news {
        News::Ended(run) if run.id.to_string() == other.to_string() => Some((news.to_string(), run.clone())),
        _ => None,
    });
    assert!(told.0.len() < 1_000 && told.1.instruction.len() < 1_000, "{}", told.0);
}

#[test]
fn of_runs_that_said_much_the_oldest_are_forgotten_first() {
    let bench = Bench::new();
    let runs: Vec<_> = (0..40).map(|_| bench.start("answer at length: 2000000")).collect();
    runs.iter().for_each(|run| drop(bench.ended(*run)));
    let last = bench.start("say: the last");
    bench.ended(last);
    let known = eventually(|| {
        let (_, list) = bench.get("/v1/runs");
        let known: Vec<_> = list.as_array().unwrap().iter().map(|run| run["id"].as_u64().unwrap()).collect();
        (known.len() < runs.len()).then_some(known)
    });
    assert_eq!(known.last(), Some(&last));
    assert!(known.windows(2).all(|two| two[1] == two[0] + 1), "{known:?}");
}

#[test]
fn nothing_starts_before_every_stop_source_has_been_seen_alive() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing/STOP");
    let bench = Bench::with(Options { stops: vec![StopKind::Http, StopKind::File(file.clone())], ..anywhere() });
    let (_, status) = bench.get("/v1/status");
    assert_eq!(status["armed"], false);
    assert_eq!(status["stop_sources"][0], json!({ "name": "http", "seen": true }));
    let start = || bench.post("/v1/runs", json!({ "skill": "test/conduct", "instruction": "say: no" }));
    assert!(assert_refused(start(), 409, "not-armed").contains("missing/STOP"));
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    eventually(|| (bench.get("/v1/status").1["armed"] == true).then_some(()));
    assert_eq!(start().0, 201);
    std::fs::write(file, "").unwrap();
    eventually(|| bench.get("/v1/status").1["stopped"].as_u64());
}

#[test]
fn counts_read_as_prometheus_wants_them() {
    let bench = Bench::new();
    let (status, text) = ask_text(bench.daemon.address(), "GET", "/metrics", &[], "");
    assert_eq!(status, 200);
    for line in [
        "# TYPE waza_ticks_total counter",
        "waza_stopped 0",
        "waza_stop_source_seen{source=\"http\"} 1",
        "waza_skills 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in\n{text}");
    }
}

#[test]
fn sources_and_addresses_that_cannot_be_are_refused() {
    let bench = Bench::new();
    let taken = Options { listen: bench.daemon.address(), ..anywhere() };
    let error = fixture::daemon(taken).err().unwrap();
    assert!(error.to_string().contains("--listen"), "{error}");
    let open = Options { listen: ([0, 0, 0, 0], 0).into(), ..anywhere() };
    assert!(fixture::daemon(open).err().unwrap().to_string().contains("--token"));
    let twice = Options { stops: vec![StopKind::Http, StopKind::Http], ..anywhere() };
    assert!(fixture::daemon(twice).err().unwrap().to_string().contains("declared twice"));
}

#[test]
fn a_daemon_that_ends_leaves_the_robot_stopped_and_at_rest() {
    let bench = Bench::new();
    bench.start("keep moving");
    eventually(|| (bench.robot.commanded()[0] != 0.0).then_some(()));
    let robot = bench.robot.clone();
    Daemon::end(bench.daemon);
    assert!(robot.is_stopped());
    let rest = robot.commanded();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(robot.commanded(), rest);
}

/// Begins a record when it is let.
struct Slow {
    may_begin: Mutex<Receiver<()>>,
    discarded: Sender<()>,
}

struct Discarded(Sender<()>);

impl Records for Slow {
    fn begin(&self, _: &Host, _: &SkillId, _: &TaskRequest) -> Result<Arc<dyn Record>, String> {
        self.may_begin.lock().unwrap().recv().map_err(|error| error.to_string())?;
        Ok(Arc::new(Discarded(self.discarded.clone())))
    }
}

impl Journal for Discarded {
    fn entry(&self, _: u64, _: &Entry) {}

    fn observed(&self, _: u32, _: &Arc<Observation>) {}
}

impl Record for Discarded {
    fn path(&self) -> &Path {
        Path::new("nowhere")
    }

    fn finish(&self) -> Option<String> {
        None
    }

    fn discard(&self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn a_run_whose_record_comes_too_late_for_who_asked_does_not_begin_and_its_record_is_discarded() {
    let ((begin, may_begin), (discarded, is_discarded)) = (channel(), channel());
    let records = Arc::new(Slow { may_begin: Mutex::new(may_begin), discarded });
    let bench = Bench::with(Options { stops: vec![StopKind::Http], records: Some(records), ..anywhere() });
    let ask = json!({ "skill": "test/conduct", "instruction": "say: late", "record": true });
    assert_refused(bench.post("/v1/runs", ask), 408, "timeout");
    begin.send(()).unwrap();
    is_discarded.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(bench.get("/v1/runs").1, json!([]));
}
