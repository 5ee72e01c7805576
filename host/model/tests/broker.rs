//! What becomes of requests that several skills make of one model: on the CPU, and where a device must be lost, on whatever
//! adapter is here.

#![allow(clippy::expect_used, clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, current, park};
use std::time::{Duration, Instant};

use waza_model::plan::{Numbers, Weight};
use waza_model::{
    Ability, Actions, Answering, Broker, Checkpoint, CheckpointError, Decoding, Device, Image, Model, ModelError,
    ModelHandle, Noise, Policy, Priority, Query, Question, Ticket, Vlm, VlmCheckpoint, WeightSource,
};

fn checkpoint() -> Checkpoint {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvla-a/checkpoint");
    Checkpoint::open(&folder).unwrap()
}

fn policy(device: Device) -> Result<Policy, ModelError> {
    Policy::new(&checkpoint(), device)
}

fn broker() -> ModelHandle {
    Broker::start(|| policy(Device::Cpu).map(Model::from)).unwrap()
}

/// A broker that lets what waits run together, as on a GPU.
fn batching() -> ModelHandle {
    Broker::start(|| {
        let mut policy = policy(Device::Cpu)?;
        policy.batch(true);
        Ok(policy.into())
    })
    .unwrap()
}

/// Weights whose table of words does something in the middle of each chunk, on the model's own thread.
struct Faulty<F>(Checkpoint, F);

impl<F: Fn()> WeightSource for Faulty<F> {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        if weight.tensors.iter().any(|name| name.contains("embed_tokens")) {
            (self.1)();
        }
        self.0.load(weight)
    }
}

/// A policy that does something in the middle of each chunk that is of something new.
fn faulty(fault: impl Fn() + Send + Sync + 'static) -> Result<Model, ModelError> {
    Ok(Policy::with_weights(&checkpoint(), Faulty(checkpoint(), fault), Device::Cpu)?.into())
}

fn image(seed: u32) -> Image {
    Image::new(96, 64, (0..96 * 64 * 3).map(|i: u32| (i.wrapping_mul(seed) >> 3) as u8).collect()).unwrap()
}

fn query(seed: u64) -> Query {
    Query {
        instruction: "pick up the red cube".to_owned(),
        images: vec![("front".to_owned(), image(7))],
        state: vec![0.5, -0.25, 0.0, 1.0, 0.3, -1.0],
        sensors: Vec::new(),
        noise: Noise::Seed(seed),
    }
}

fn ticket(skill: &str) -> Ticket {
    Ticket::new(skill)
}

type Answer = Pin<Box<dyn Future<Output = Result<Actions, ModelError>> + Send>>;

/// Blocks this thread on a future.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => park(),
        }
    }
}

/// As [`wait`], and fails instead of waiting for ever.
fn soon<T: Send + 'static>(answer: impl Future<Output = T> + Send + 'static) -> T {
    let (send, sent) = mpsc::channel();
    std::thread::spawn(move || send.send(wait(answer)));
    sent.recv_timeout(Duration::from_secs(60)).expect("nobody answers")
}

/// Does something on the model's own thread when a request is answered: that thread wakes whoever waits.
struct OnAnswer<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for OnAnswer<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn on_answer(answer: &mut Answer, action: impl Fn() + Send + Sync + 'static) {
    let waker = Waker::from(Arc::new(OnAnswer(action)));
    assert!(answer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
}

/// A broker whose device hangs in the middle of each chunk, where it says so, until the sender is dropped.
fn hanging() -> (ModelHandle, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (hang, hangs) = mpsc::channel();
    let (answer, answers) = mpsc::channel::<()>();
    let answers = Arc::new(Mutex::new(answers));
    let started = Broker::start(move || {
        let (hang, answers) = (hang.clone(), Arc::clone(&answers));
        faulty(move || {
            hang.send(()).unwrap();
            // An error means that the sender was dropped.
            let _ = answers.lock().unwrap().recv();
        })
    });
    (started.unwrap(), hangs, answer)
}

/// Keeps the model's thread busy, until this is opened, with the answer to a first request.
struct Gate {
    open: mpsc::Sender<()>,
    _first: Answer,
}

impl Gate {
    fn shut(handle: &ModelHandle) -> Self {
        let (shut, is_shut) = mpsc::channel();
        loop {
            let (open, opened) = mpsc::channel();
            let (shut, opened) = (shut.clone(), Mutex::new(opened));
            let mut first: Answer = Box::pin(handle.act(query(0), &ticket("gate").of(Priority::Low)));
            let waker = Waker::from(Arc::new(OnAnswer(move || {
                shut.send(()).unwrap();
                // An error means that the test is over.
                let _ = opened.lock().unwrap().recv();
            })));
            // The model may have been quicker than this thread.
            if first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                is_shut.recv().unwrap();
                return Self { open, _first: first };
            }
        }
    }

    fn open(self) {
        self.open.send(()).unwrap();
    }
}

/// In which order requests are answered.
struct Order {
    note: mpsc::Sender<String>,
    noted: mpsc::Receiver<String>,
}

impl Order {
    fn new() -> Self {
        let (note, noted) = mpsc::channel();
        Self { note, noted }
    }

    fn ask(&self, handle: &ModelHandle, name: &str, ticket: &Ticket) -> Answer {
        let mut answer: Answer = Box::pin(handle.act(query(1), ticket));
        let (note, name) = (self.note.clone(), name.to_owned());
        on_answer(&mut answer, move || note.send(name.clone()).unwrap());
        answer
    }

    fn of(&self, answers: &[Answer]) -> Vec<String> {
        answers.iter().map(|_| self.noted.recv_timeout(Duration::from_secs(60)).unwrap()).collect()
    }
}

#[test]
fn every_handle_is_answered_as_the_policy_would() {
    let expected = policy(Device::Cpu).unwrap().act(&query(1)).unwrap().rows;
    let handle = broker();
    assert_eq!(handle.about().chunk_length, 50);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || wait(handle.act(query(1), &ticket("skill"))).unwrap().rows)
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn what_is_more_urgent_is_served_first() {
    let (handle, order) = (broker(), Order::new());
    let gate = Gate::shut(&handle);
    let within = |seconds| ticket("skill").within(Duration::from_secs(seconds));
    let answers = [
        order.ask(&handle, "low, 50 s", &within(50).of(Priority::Low)),
        order.ask(&handle, "no deadline", &ticket("skill")),
        order.ask(&handle, "90 s", &within(90)),
        order.ask(&handle, "60 s", &within(60)),
        order.ask(&handle, "60 s after all", &within(60)),
        order.ask(&handle, "high, 99 s", &within(99).of(Priority::High)),
    ];
    gate.open();
    assert_eq!(order.of(&answers), ["high, 99 s", "60 s", "60 s after all", "90 s", "no deadline", "low, 50 s"]);
}

#[test]
fn a_skill_that_floods_is_turned_away_at_its_quota_and_another_one_is_served() {
    let (handle, order) = (broker(), Order::new());
    let gate = Gate::shut(&handle);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut answers: Vec<Answer> =
        (0..16).map(|i| order.ask(&handle, &format!("flood {i}"), &ticket("flood").until(deadline))).collect();
    let refused = wait(handle.act(query(1), &ticket("flood").until(deadline))).unwrap_err();
    assert!(matches!(refused, ModelError::Quota { most: 16 }), "{refused}");
    answers.push(order.ask(&handle, "other", &ticket("other").until(deadline)));
    gate.open();
    assert_eq!(order.of(&answers)[..3], ["flood 0", "other", "flood 1"]);
    assert_eq!(handle.statistics().refused, 1);
    wait(handle.act(query(1), &ticket("flood"))).unwrap();
}

#[test]
fn no_more_requests_wait_than_the_broker_keeps() {
    let handle = broker();
    let gate = Gate::shut(&handle);
    let waiting: Vec<Answer> =
        (0..256).map(|i| Box::pin(handle.act(query(1), &ticket(&format!("skill {}", i / 16)))) as Answer).collect();
    let refused = wait(handle.act(query(1), &ticket("one more"))).unwrap_err();
    assert!(matches!(refused, ModelError::Busy { waiting: 256 }), "{refused}");
    drop(waiting);
    gate.open();
    wait(handle.act(query(1), &ticket("one more"))).unwrap();
}

#[test]
fn what_has_not_begun_by_its_deadline_is_dropped_by_name_and_never_done() {
    let handle = broker();
    let gate = Gate::shut(&handle);
    let late = handle.act(query(1), &ticket("skill").until(Instant::now() + Duration::from_millis(20)));
    let in_time = handle.act(query(1), &ticket("skill").within(Duration::from_secs(60)));
    std::thread::sleep(Duration::from_millis(30));
    gate.open();
    let error = wait(late).unwrap_err();
    assert!(
        matches!(error, ModelError::Late { .. }) && error.to_string().contains("no time for this within"),
        "{error}"
    );
    wait(in_time).unwrap();
    let done = handle.statistics();
    assert_eq!((done.late, done.served, done.runs), (1, 2, 2));
}

#[test]
fn a_request_that_nobody_waits_for_any_more_never_begins_and_makes_room() {
    let handle = broker();
    let gate = Gate::shut(&handle);
    let mut waiting: Vec<_> = (0..16).map(|_| handle.act(query(1), &ticket("skill"))).collect();
    waiting.truncate(4);
    let more: Vec<_> = (0..12).map(|_| handle.act(query(1), &ticket("skill"))).collect();
    drop(more);
    gate.open();
    waiting.into_iter().for_each(|answer| drop(wait(answer).unwrap()));
    let done = handle.statistics();
    assert_eq!((done.asked, done.cancelled, done.served, done.runs), (29, 24, 5, 5));
}

#[test]
fn skills_that_ask_about_one_frame_have_it_encoded_once() {
    for handle in [broker(), batching()] {
        let colours = ["red", "blue", "green", "white"];
        let gate = Gate::shut(&handle);
        let before = handle.statistics().frames;
        let seen = image(99);
        let about = |colour: &str| Query {
            instruction: format!("pick up the {colour} cube"),
            images: vec![("front".to_owned(), seen.clone())],
            ..query(1)
        };
        let answers: Vec<_> = colours.iter().map(|colour| handle.act(about(colour), &ticket(colour))).collect();
        gate.open();
        answers.into_iter().for_each(|answer| drop(wait(answer).unwrap()));
        assert_eq!(handle.statistics().frames, before + 1);
    }
}

#[test]
fn requests_that_wait_run_together_and_each_gets_what_it_would_get_alone() {
    let handle = batching();
    let queries: Vec<Query> =
        (0..4).map(|i| Query { images: vec![("front".to_owned(), image(i + 3))], ..query(i.into()) }).collect();
    let other_shape = Query { instruction: "lift".to_owned(), ..query(9) };
    let bad = Query { state: vec![f32::NAN; 6], ..query(1) };
    let gate = Gate::shut(&handle);
    let before = handle.statistics();
    let bad = handle.act(bad, &ticket("bad"));
    let answers: Vec<_> =
        queries.iter().chain([&other_shape]).map(|query| handle.act(query.clone(), &ticket("skill"))).collect();
    gate.open();
    assert!(matches!(wait(bad).unwrap_err(), ModelError::NotFinite { .. }));
    let mut alone = policy(Device::Cpu).unwrap();
    for (query, answer) in queries.iter().chain([&other_shape]).zip(answers) {
        let (together, alone) = (wait(answer).unwrap().rows, alone.act(query).unwrap().rows);
        for (a, b) in alone.iter().flatten().zip(together.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{a} alone, {b} together");
        }
    }
    let done = handle.statistics();
    // The four, the one of another shape, and the one that could not run.
    assert_eq!((done.runs - before.runs, done.served - before.served, done.failed), (3, 5, 1));
}

#[test]
fn a_request_that_waits_is_told_at_its_deadline_while_the_model_is_busy() {
    let handle = broker();
    let gate = Gate::shut(&handle);
    let late = soon(handle.act(query(1), &ticket("skill").within(Duration::from_millis(20)))).unwrap_err();
    assert!(matches!(late, ModelError::Late { .. }), "{late}");
    // The deadlines that are waited for change with every request.
    let later = handle.act(query(1), &ticket("skill").within(Duration::from_millis(200)));
    let earlier = handle.act(query(1), &ticket("skill").within(Duration::from_millis(20)));
    assert!(matches!(soon(earlier), Err(ModelError::Late { .. })));
    assert!(matches!(soon(later), Err(ModelError::Late { .. })));
    gate.open();
    wait(handle.act(query(1), &ticket("skill"))).unwrap();
    let done = handle.statistics();
    assert_eq!((done.late, done.served), (3, 2));
}

#[test]
fn whoever_asked_a_device_that_hangs_is_told_that_it_is_late_and_the_next_is_served_once_it_answers() {
    let (handle, hangs, answer) = hanging();
    let begun = handle.act(query(1), &ticket("skill").within(Duration::from_secs(1)));
    hangs.recv_timeout(Duration::from_secs(60)).unwrap();
    let waits = handle.act(query(1), &ticket("skill").within(Duration::from_millis(20)));
    assert!(matches!(soon(waits), Err(ModelError::Late { .. })));
    assert!(matches!(soon(begun), Err(ModelError::Late { .. })));
    drop(answer);
    soon(handle.act(query(1), &ticket("skill"))).unwrap();
    let done = handle.statistics();
    assert_eq!((done.late, done.served, done.failed, done.runs), (2, 1, 0, 2));
}

#[test]
fn a_request_that_the_device_works_on_is_withdrawn_at_once_too() {
    let (handle, hangs, answer) = hanging();
    let asked = handle.act(query(1), &ticket("skill"));
    hangs.recv_timeout(Duration::from_secs(60)).unwrap();
    drop(asked);
    assert_eq!(handle.statistics().cancelled, 1);
    drop(answer);
    soon(handle.act(query(1), &ticket("skill"))).unwrap();
    assert_eq!((handle.statistics().cancelled, handle.statistics().served), (1, 1));
}

#[test]
fn a_model_that_panics_is_opened_again_and_only_whom_it_served_is_told() {
    let (opened, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opens, breaks) = (Arc::clone(&opened), Arc::clone(&broken));
    let handle = Broker::start(move || {
        assert_ne!(opens.fetch_add(1, Ordering::SeqCst), 1, "while opening");
        let breaks = Arc::clone(&breaks);
        faulty(move || assert_ne!(breaks.fetch_add(1, Ordering::SeqCst), 0, "in the middle of a chunk"))
    })
    .unwrap();
    let asked = [0, 1, 2].map(|seed| handle.act(query(seed), &ticket("skill")));
    let [hit, reopening, waits] = asked.map(soon);
    let panicked = |result: Result<Actions, ModelError>, at: &str| match result.unwrap_err() {
        ModelError::Panicked { cause } => assert!(cause.contains(at), "{cause}"),
        other => panic!("{other}"),
    };
    panicked(hit, "in the middle of a chunk");
    panicked(reopening, "while opening");
    assert_eq!(waits.unwrap().rows, policy(Device::Cpu).unwrap().act(&query(2)).unwrap().rows);
    let done = handle.statistics();
    assert_eq!((opened.load(Ordering::SeqCst), done.reopened, done.failed, done.served), (3, 1, 2, 1));
}

#[test]
fn whoever_panics_when_woken_harms_nobody_else() {
    let handle = broker();
    let gate = Gate::shut(&handle);
    // On the thread that keeps deadlines.
    let mut late: Answer = Box::pin(handle.act(query(1), &ticket("skill").within(Duration::from_millis(20))));
    on_answer(&mut late, || panic!("on purpose, when late"));
    let later = handle.act(query(1), &ticket("skill").within(Duration::from_millis(40)));
    assert!(matches!(soon(later), Err(ModelError::Late { .. })));
    // On the model's.
    let mut served: Answer = Box::pin(handle.act(query(1), &ticket("skill").of(Priority::High)));
    on_answer(&mut served, || panic!("on purpose, when served"));
    let waiting = handle.act(query(1), &ticket("skill"));
    gate.open();
    soon(waiting).unwrap();
    let done = handle.statistics();
    assert_eq!((done.late, done.served, done.reopened), (2, 3, 0));
}

#[test]
fn a_model_that_cannot_be_opened_says_why() {
    let missing = || Checkpoint::open("no such folder".as_ref()).map_err(ModelError::from);
    let error = Broker::start(move || Ok(Policy::new(&missing()?, Device::Cpu)?.into())).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)), "{error}");
    let error = Broker::start(|| panic!("while opening")).unwrap_err();
    assert!(error.to_string().contains("while opening"), "{error}");
}

#[test]
fn what_was_asked_is_answered_even_if_no_handle_is_left() {
    let handle = broker();
    let answers: Vec<_> = (0..4).map(|i| handle.act(query(i), &ticket("skill"))).collect();
    drop(handle);
    answers.into_iter().for_each(|answer| drop(wait(answer).unwrap()));
}

fn vlm(device: Device) -> Result<Vlm, ModelError> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm");
    Vlm::new(&VlmCheckpoint::open(&folder).unwrap(), device)
}

/// A broker of a model that acts and one that answers in words.
fn talking() -> ModelHandle {
    Broker::start(|| Ok(Model::new(policy(Device::Cpu)?, vlm(Device::Cpu)?))).unwrap()
}

fn question(text: &str) -> Question {
    Question { text: text.to_owned(), images: vec![image(7)] }
}

/// Asks, and keeps the model's thread busy in the middle of the answer, after its first words, until a message comes.
fn stopped_in_the_middle(handle: &ModelHandle, skill: &str) -> (Answering, mpsc::Sender<()>) {
    let gate = Gate::shut(handle);
    let mut asked = handle.ask(question("what is there?"), DECODING, &ticket(skill));
    let (open, opened) = mpsc::channel();
    let (shut, is_shut) = mpsc::channel();
    let opened = Mutex::new(opened);
    let waker = Waker::from(Arc::new(OnAnswer(move || {
        // Errors mean that the test is over.
        let _ = shut.send(());
        let _ = opened.lock().unwrap().recv();
    })));
    assert!(std::pin::pin!(asked.words()).poll(&mut Context::from_waker(&waker)).is_pending());
    gate.open();
    is_shut.recv().unwrap();
    (asked, open)
}

/// Long enough that something comes in between.
const DECODING: Decoding = Decoding { most_tokens: 150, sampling: None };

#[test]
fn words_come_one_by_one_and_make_the_answer_that_the_model_gives() {
    let mut alone = vlm(Device::Cpu).unwrap();
    let expected = alone.ask(&question("what is there?"), &DECODING).unwrap();
    let handle = talking();
    let mut asked = handle.ask(question("what is there?"), DECODING, &ticket("skill"));
    let mut pieces = Vec::new();
    while let Some(piece) = wait(asked.words()) {
        pieces.push(piece);
    }
    let whole = wait(asked.whole()).unwrap();
    assert_eq!(whole, expected);
    assert!(pieces.len() > 3 && expected.text.starts_with(pieces.concat().trim()), "{pieces:?} of {expected:?}");
    let boxes = wait(handle.locate("the cube", &image(7), &ticket("skill"))).unwrap();
    assert_eq!(boxes, alone.locate("the cube", &image(7)).unwrap());
    let vector = wait(handle.embed("a cube".to_owned(), vec![image(7)], &ticket("skill"))).unwrap();
    assert_eq!(vector, alone.embed("a cube", &[image(7)]).unwrap());
    assert_eq!((handle.statistics().images, handle.statistics().served), (1, 3));
}

#[test]
fn what_is_more_urgent_is_served_between_two_words_and_another_question_is_not() {
    let handle = talking();
    let (first, open) = stopped_in_the_middle(&handle, "asks");
    let begun = handle.statistics();
    let mut act: Answer = Box::pin(handle.act(query(1), &ticket("acts").of(Priority::High)));
    let (note, noted) = mpsc::channel();
    let asked = handle.clone();
    on_answer(&mut act, move || note.send(asked.statistics().tokens).unwrap());
    let urgent = handle.ask(question("and now?"), DECODING, &ticket("asks, too").within(Duration::from_secs(60)));
    let first = std::thread::spawn(move || wait(first.whole()));
    open.send(()).unwrap();
    assert_eq!(noted.recv_timeout(Duration::from_secs(60)).unwrap(), begun.tokens);
    wait(urgent.whole()).unwrap();
    let expected = vlm(Device::Cpu).unwrap().ask(&question("what is there?"), &DECODING).unwrap();
    assert_eq!(first.join().unwrap().unwrap(), expected);
}

#[test]
fn an_answer_that_nobody_waits_for_any_more_ends_in_the_middle() {
    let handle = talking();
    let (asked, open) = stopped_in_the_middle(&handle, "skill");
    let begun = handle.statistics();
    drop(asked);
    open.send(()).unwrap();
    wait(handle.act(query(1), &ticket("skill"))).unwrap();
    let done = handle.statistics();
    assert_eq!((done.tokens, done.cancelled, done.served), (begun.tokens, 1, begun.served + 1));
}

#[test]
fn a_model_is_asked_only_for_what_it_can_do() {
    let lacks = |error: ModelError| assert!(matches!(error, ModelError::Lacking { .. }), "{error}");
    lacks(wait(broker().ask(question("what is there?"), DECODING, &ticket("skill")).whole()).unwrap_err());
    lacks(wait(broker().embed("a cube".to_owned(), Vec::new(), &ticket("skill"))).unwrap_err());
    let words_only = Broker::start(|| Ok(vlm(Device::Cpu)?.into())).unwrap();
    lacks(wait(words_only.act(query(1), &ticket("skill"))).unwrap_err());
    assert!(
        talking().about().abilities.contains(&Ability::Act) && talking().about().abilities.contains(&Ability::Answer)
    );
}

/// Numbers that look random and repeat (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

#[test]
fn whatever_is_asked_and_withdrawn_nobody_waits_for_ever_and_the_counts_add_up() {
    for seed in 0..4 {
        let (mut random, handle) = (Random(seed), if seed % 2 == 0 { broker() } else { batching() });
        let priorities = [Priority::Low, Priority::Normal, Priority::High];
        let mut waiting: Vec<Answer> = Vec::new();
        let (mut answered, mut late, mut refused) = (0, 0, 0);
        for _ in 0..400 {
            match random.below(10) {
                0..6 => {
                    let mut ticket = ticket(["a", "b", "c"][random.below(3) as usize]);
                    ticket.priority = priorities[random.below(3) as usize];
                    if random.below(2) == 0 {
                        ticket = ticket.within(Duration::from_millis(random.below(60)));
                    }
                    let instruction = ["lift", "pick up the red cube"][random.below(2) as usize].to_owned();
                    waiting.push(Box::pin(handle.act(Query { instruction, ..query(random.below(9)) }, &ticket)));
                }
                6 | 7 if !waiting.is_empty() => drop(waiting.swap_remove(random.below(waiting.len() as u64) as usize)),
                8 => std::thread::sleep(Duration::from_millis(random.below(5))),
                _ => {}
            }
        }
        for answer in waiting {
            match wait(answer) {
                Ok(_) => answered += 1,
                Err(ModelError::Late { .. }) => late += 1,
                Err(ModelError::Quota { .. } | ModelError::Busy { .. }) => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        let s = handle.statistics();
        assert_eq!(s.asked, s.refused + s.late + s.cancelled + s.served, "seed {seed}: {s:?}");
        assert!(s.served >= answered && s.late >= late && s.refused >= refused && s.failed == 0, "seed {seed}: {s:?}");
    }
}

#[cfg(feature = "gpu")]
mod devices {
    use super::*;

    /// A broker whose device is lost so many times before it stays, and how often the model was opened. None: there is no
    /// adapter here; with `WAZA_REQUIRE_GPU=1` there has to be one.
    fn losing(times: usize) -> Option<(ModelHandle, Arc<AtomicUsize>)> {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let started = Broker::start(move || {
            let mut policy = policy(Device::Gpu)?;
            if count.fetch_add(1, Ordering::Relaxed) < times {
                policy.lose_device();
            }
            Ok(policy.into())
        });
        match started {
            Ok(handle) => Some((handle, opened)),
            Err(error) if std::env::var_os("WAZA_REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{error}"),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn a_lost_device_is_opened_again_and_whoever_asked_notices_nothing() {
        let Some((handle, opened)) = losing(1) else { return };
        let rows = wait(handle.act(query(1), &ticket("skill"))).unwrap().rows;
        let expected = policy(Device::Gpu).unwrap().act(&query(1)).unwrap().rows;
        assert_eq!(rows, expected);
        let done = handle.statistics();
        assert_eq!((opened.load(Ordering::Relaxed), done.reopened, done.retried, done.served), (2, 1, 1, 1));
    }

    #[test]
    fn a_device_that_hangs_is_given_up_and_opened_again() {
        let mut hang = true;
        let started = Broker::start(move || {
            let mut policy = policy(Device::Gpu)?;
            if std::mem::take(&mut hang) {
                policy.hang_device();
            }
            Ok(policy.into())
        });
        let Ok(handle) = started else { return };
        let rows = soon(handle.act(query(1), &ticket("skill"))).unwrap().rows;
        assert_eq!(rows, policy(Device::Gpu).unwrap().act(&query(1)).unwrap().rows);
        assert_eq!((handle.statistics().reopened, handle.statistics().retried), (1, 1));
    }

    #[test]
    fn a_question_that_a_lost_device_interrupts_is_answered_all_the_same() {
        let mut lose = true;
        let started = Broker::start(move || {
            let mut vlm = vlm(Device::Gpu)?;
            if std::mem::take(&mut lose) {
                vlm.lose_device();
            }
            Ok(vlm.into())
        });
        let Ok(handle) = started else { return };
        let answer = wait(handle.ask(question("what is there?"), DECODING, &ticket("skill")).whole()).unwrap();
        assert_eq!(answer, vlm(Device::Gpu).unwrap().ask(&question("what is there?"), &DECODING).unwrap());
        assert_eq!(handle.statistics().reopened, 1);
    }

    #[test]
    fn a_device_lost_twice_is_the_callers_error_and_the_next_request_is_served() {
        let Some((handle, opened)) = losing(2) else { return };
        let error = wait(handle.act(query(1), &ticket("skill"))).unwrap_err();
        assert!(error.to_string().contains("was lost"), "{error}");
        wait(handle.act(query(1), &ticket("skill"))).unwrap();
        let done = handle.statistics();
        assert_eq!((opened.load(Ordering::Relaxed), done.reopened, done.failed, done.served), (3, 2, 1, 1));
    }
}
