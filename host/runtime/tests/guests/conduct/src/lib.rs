//! Behaves as its instruction says, mostly badly.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill" });

use std::future::poll_fn;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use exports::waza::skill::task::{Guest, Request};
use waza::skill::actions::ActionChunk;
use waza::skill::motion::{Lease, RolloutEvent, RolloutOptions, acquire};
use waza::skill::types::{Error, Outcome, Pose, Quaternion, Vec3};
use waza::skill::{clock, durable, model, operator, sensing, skills};

struct Conduct;

impl Guest for Conduct {
    async fn run(request: Request) -> Result<Outcome, Error> {
        let (what, with) = request.instruction.split_once(": ").unwrap_or((&request.instruction, ""));
        let data = match what {
            "spin" => spin(),
            "spin while moving" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let _events = lease.rollout(&forward(5.0, 0.0))?;
                clock::wait(clock::now() + 200_000_000).await?;
                spin()
            }
            "panic" => panic!("on purpose"),
            "panic while moving" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let _events = lease.rollout(&forward(5.0, 0.0))?;
                clock::wait(clock::now() + 200_000_000).await?;
                panic!("on purpose")
            }
            "eat memory" => {
                let mut eaten = Vec::new();
                loop {
                    eaten.push(black_box(vec![1u8; 1 << 20]));
                }
            }
            "fill memory" => {
                // MiB.
                let mut filled = Vec::new();
                for _ in 0..number(with)? as usize {
                    filled.push(black_box(vec![1u8; 1 << 20]));
                }
                operator::progress(1.0, "filled");
                clock::wait(u64::MAX).await?;
                filled.len().to_string()
            }
            "hoard observations" => {
                let mut seen = Vec::new();
                loop {
                    seen.push(sensing::observe().await?);
                }
            }
            "exit" => std::process::exit(3),
            "say" => {
                println!("{with}");
                eprintln!("and to standard error");
                String::new()
            }
            "answer at length" => "x".repeat(number(with)? as usize),
            "chatter" => {
                for line in 0..10_000 {
                    println!("line {line}");
                }
                String::new()
            }
            "wait forever" => {
                clock::wait(u64::MAX).await?;
                String::new()
            }
            "look at the clock once" => {
                let mut wait = pin!(clock::wait(clock::now() + 100_000_000));
                let waits = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_pending())).await;
                wait.await?;
                String::from(if waits { "it had to wait" } else { "it was there" })
            }
            "sleep" => {
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(50));
                start.elapsed().as_millis().to_string()
            }
            "environment" => {
                let variables = std::env::vars().count();
                let arguments = std::env::args().count();
                format!("{variables} variables, {arguments} arguments")
            }
            "random" => std::collections::hash_map::RandomState::new().hash_one(7).to_string(),
            "robot" => {
                let robot = sensing::robot();
                let joints = robot.joints.len();
                format!("{} has {joints} joints and {} parts", robot.name, robot.parts.len())
            }
            "look" => {
                let seen = sensing::observe().await?;
                let pan = &seen.joints()[0];
                let wrench = seen.samples("wrist_wrench")?;
                format!("{} {:.3} {}", pan.name, pan.position, wrench.channels)
            }
            "peek" => {
                let seen = sensing::observe().await?;
                let image = seen.pixels(with)?;
                format!("{}x{} {}", image.width, image.height, image.rgb.len())
            }
            "watch" => {
                let mut observations = sensing::watch(20.0)?;
                let mut times = Vec::new();
                for _ in 0..4 {
                    times.push(observations.next().await.ok_or(Error::Failed("it ended".into()))?.taken() / 1_000_000);
                }
                format!("{times:?}")
            }
            "what model" => {
                let about = model::about();
                let act = about.abilities.contains(model::Abilities::ACT);
                format!("{} {act} {}", about.name, about.chunk_length)
            }
            "act" => {
                let seen = sensing::observe().await?;
                let chunk = model::act(with.into(), vec![&seen]).await?;
                let late = clock::now() - seen.taken();
                format!("{} rows, {} ms late", chunk.steps().len(), late / 1_000_000)
            }
            "act on a video" => {
                let (earlier, later) = (sensing::observe().await?, sensing::observe().await?);
                let seen = if with == "backwards" { vec![&later, &earlier] } else { vec![&earlier, &later] };
                model::act("turn".into(), seen).await?.steps().len().to_string()
            }
            "act twice" => {
                let seen = sensing::observe().await?;
                model::act("turn".into(), vec![&seen]).await?;
                model::act("turn".into(), vec![&seen]).await?;
                String::new()
            }
            "ask" => {
                let seen = sensing::observe().await?;
                let answer = model::ask(with.into(), vec![&seen]).await?;
                let late = clock::now() - seen.taken();
                format!("{:.3} {} ms late {}", answer.confidence, late / 1_000_000, answer.text)
            }
            "embed" => {
                let seen = sensing::observe().await?;
                format!("{} numbers", model::embed(with.into(), vec![&seen]).await?.len())
            }
            "locate" => {
                let seen = sensing::observe().await?;
                format!("{} found", model::locate(with.into(), &seen).await?.len())
            }
            "acquire" => {
                let _lease = acquire(with.split(", ").map(String::from).collect()).await?;
                String::new()
            }
            "acquire patiently" => {
                while acquire(with.split(", ").map(String::from).collect()).await.is_err() {
                    clock::wait(clock::now() + 500_000_000).await?;
                }
                String::new()
            }
            "hold the arm" => {
                let _lease = acquire(vec!["arm".into()]).await?;
                clock::wait(clock::now() + 1_000_000_000).await?;
                String::new()
            }
            "move" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let interventions = lease.move_joints(positions(with)?, 0.5).await?;
                format!("{}", interventions.len())
            }
            "keep moving" => {
                let lease = acquire(vec!["arm".into()]).await?;
                loop {
                    lease.move_joints(positions("0.3")?, 0.5).await?;
                    lease.move_joints(positions("-0.3")?, 0.5).await?;
                }
            }
            "play" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let rows: Vec<_> = (1..=10).map(|row| row as f32 * 0.02).map(row).collect();
                lease.play(ActionChunk::new(10.0, &rows)).await?;
                String::new()
            }
            "play narrow rows" => {
                let lease = acquire(vec!["arm".into()]).await?;
                lease.play(ActionChunk::new(10.0, &[vec![0.0]])).await?;
                String::new()
            }
            "play what the model says" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let seen = sensing::observe().await?;
                lease.play(model::act(with.into(), vec![&seen]).await?).await?;
                String::new()
            }
            "move the tool" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let orientation = Quaternion { x: 0.0, y: 0.0, z: 0.0, w: 1.0 };
                let position = Vec3 { x: 0.2, y: 0.0, z: 0.2 };
                lease.move_tool(Pose { position, orientation }, 0.5).await?;
                String::new()
            }
            "grip" => {
                let lease = acquire(vec!["gripper".into()]).await?;
                format!("{:.2}", lease.grip(number(with)?, 0.5).await?)
            }
            "engage" => {
                let lease = acquire(vec!["arm".into()]).await?;
                lease.engage("test/follower", &goal(with)?)?;
                clock::wait(clock::now() + 1_000_000_000).await?;
                let pan = sensing::observe().await?.joints()[0].position;
                let told = lease.move_joints(positions("0")?, 0.5).await?;
                let told: Vec<_> = told.iter().map(|it| format!("{} {}", it.rule, it.detail)).collect();
                format!("{pan:.2} [{}]", told.join("; "))
            }
            "engage and hold" => {
                let lease = acquire(vec!["arm".into()]).await?;
                lease.engage("test/follower", &goal(with)?)?;
                clock::wait(clock::now() + 200_000_000).await?;
                lease.hold()?;
                clock::wait(clock::now() + 300_000_000).await?;
                format!("{:.2}", sensing::observe().await?.joints()[0].position)
            }
            "engage a stranger" => {
                let lease = acquire(vec!["arm".into()]).await?;
                lease.engage(with, &[])?;
                String::new()
            }
            "keep engaged" => {
                let lease = acquire(vec!["arm".into()]).await?;
                lease.engage("test/follower", &goal(with)?)?;
                clock::wait(u64::MAX).await?;
                String::new()
            }
            "roll out" => follow(acquire(vec!["arm".into()]).await?, number(with)?).await?,
            "roll out and look away" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let events = lease.rollout(&forward(5.0, 10.0))?;
                clock::wait(clock::now() + 300_000_000).await?;
                drop(events);
                clock::wait(clock::now() + 700_000_000).await?;
                drop(lease);
                String::new()
            }
            "leave the rollout running" => {
                let lease = acquire(vec!["arm".into()]).await?;
                let events = lease.rollout(&forward(5.0, 0.0))?;
                clock::wait(clock::now() + 500_000_000).await?;
                drop((events, lease));
                String::new()
            }
            "look away" => {
                let mut events = acquire(vec!["arm".into()]).await?.rollout(&forward(5.0, 10.0))?;
                let mut all = 0;
                let until = clock::now() + 1_000_000_000;
                let mut stopped = pin!(clock::wait(until));
                loop {
                    let mut next = pin!(events.next());
                    let first = poll_fn(|context| match stopped.as_mut().poll(context) {
                        Poll::Ready(ended) => Poll::Ready(Err(ended)),
                        Poll::Pending => next.as_mut().poll(context).map(Ok),
                    });
                    match first.await {
                        Ok(Some(_)) => all += 1,
                        Ok(None) => break,
                        Err(ended) => break ended?,
                    }
                }
                format!("{all} events in a second")
            }
            "ask the clocks" => {
                let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(20));
                format!("{wall:?} {:?}", start.elapsed())
            }
            "progress" => {
                operator::progress(0.5, "half way");
                String::new()
            }
            "confirm" => operator::confirm(with.into()).await?.to_string(),
            "count" => {
                let before = request.resume.map_or(0, |state| state[0]);
                durable::checkpoint(vec![before + 1]).await?;
                before.to_string()
            }
            "invoke" => {
                let (skill, instruction) = with.split_once(", ").ok_or(Error::Invalid("skill, instruction".into()))?;
                skills::invoke(skill.into(), instruction.into(), String::new()).await?.data
            }
            "invoke while holding the arm" => {
                let (there, on) = with.split_once(", ").ok_or(Error::Invalid("two positions".into()))?;
                let lease = acquire(vec!["arm".into()]).await?;
                let done = skills::invoke("test/conduct".into(), format!("move: {there}"), String::new()).await?.data;
                format!("{done}, then {}", lease.move_joints(positions(on)?, 0.5).await?.len())
            }
            "invoke yourself" => {
                skills::invoke("test/conduct".into(), "invoke yourself".into(), String::new()).await?.data
            }
            other => return Err(Error::Invalid(format!("it does not know how to {other}"))),
        };
        Ok(Outcome { summary: what.into(), data })
    }
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}

fn number(text: &str) -> Result<f32, Error> {
    text.parse().map_err(|_| Error::Invalid(format!("{text} is no number")))
}

/// Every joint at rest but the first.
fn row(pan: f32) -> Vec<f32> {
    vec![pan, -0.6, 0.8, 0.6, 0.0, 0.3]
}

/// Where the shoulder is to go, and what else the follower is asked.
fn goal(text: &str) -> Result<Vec<f32>, Error> {
    let (pan, asked) = text.split_once(", ").unwrap_or((text, "0"));
    let mut goal = positions(pan)?;
    goal.push(number(asked)?);
    Ok(goal)
}

fn positions(pan: &str) -> Result<Vec<f32>, Error> {
    number(pan).map(row)
}

fn forward(max_seconds: f32, observe_hz: f32) -> RolloutOptions {
    RolloutOptions { instruction: "turn".into(), max_seconds, observe_hz, replan_rows: None }
}

/// Counts what a rollout tells.
async fn follow(lease: Lease, max_seconds: f32) -> Result<String, Error> {
    let mut events = lease.rollout(&forward(max_seconds, 10.0))?;
    let (mut chunks, mut interventions, mut pans) = (0, 0, Vec::new());
    while let Some(event) = events.next().await {
        match event {
            RolloutEvent::Chunk(_) => chunks += 1,
            RolloutEvent::Intervened(_) => interventions += 1,
            RolloutEvent::Observed(seen) => pans.push(seen.joints()[0].position),
            RolloutEvent::Done(ended) => ended?,
        }
    }
    let pan = pans.last().copied().unwrap_or_default();
    Ok(format!("{chunks} chunks, {interventions} interventions, {} observations, pan {pan}", pans.len()))
}

export!(Conduct);
