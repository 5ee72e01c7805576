//! The thread that owns the model.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::{mpsc as stream, oneshot};
use parking_lot::MutexGuard;

use super::queue::{Caller, Entry, Queue};
use super::{Shared, State};
use crate::error::ModelError;
use crate::executor::ExecutorError;
use crate::model::Model;
use crate::plan::Shape;
use crate::policy::{Actions, LARGEST_BATCH, Policy, Query};
use crate::vlm::{Answer, Decoding, Generation, Question, Step, Vlm};

/// What somebody asks for, and where the answer goes.
#[derive(Debug)]
pub(super) enum Job {
    Act {
        query: Arc<Query>,
        /// What it must have in common with others to run together with them, if it may.
        shape: Option<Shape>,
        answer: oneshot::Sender<Result<Actions, ModelError>>,
    },
    Ask {
        question: Arc<Question>,
        decoding: Decoding,
        pieces: stream::UnboundedSender<String>,
        /// Characters that were sent. They are not sent again if the answer is begun again.
        sent: usize,
        answer: oneshot::Sender<Result<Answer, ModelError>>,
    },
    Embed {
        question: Arc<Question>,
        answer: oneshot::Sender<Result<Vec<f32>, ModelError>>,
    },
}

/// Serves until nobody can ask any more.
pub(super) struct Server<F> {
    open: F,
    shared: Arc<Shared>,
    /// None: the device was lost, and the model is opened again for the next request.
    model: Option<Model>,
    /// The answer in the making.
    making: Option<Making>,
    /// How long the last chunk took that was made alone.
    alone: Duration,
    /// What models did that were lost with their devices.
    before: Encoded,
}

struct Making {
    /// The number of its request.
    id: u64,
    generation: Generation,
    /// Characters so far.
    said: usize,
}

#[derive(Clone, Copy, Default)]
struct Encoded {
    frames: usize,
    images: usize,
}

/// What is done next, and for whom. The requests stay in the queue meanwhile, where they may be withdrawn or late.
struct Turn {
    asked: Vec<Asked>,
    work: Work,
}

/// A request whose turn it is.
struct Asked {
    id: u64,
    caller: Caller,
}

enum Work {
    Act(Vec<Arc<Query>>),
    Embed(Arc<Question>),
    Begin(Arc<Question>, Decoding),
    Step,
}

/// How a turn ended for the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    None,
    Lost,
    /// Whoever closes the device waits for it.
    Hung,
}

impl Job {
    pub fn fail(self, error: ModelError) {
        wake(move || match self {
            // Whoever asked may have gone away in the meantime.
            Self::Act { answer, .. } => drop(answer.send(Err(error))),
            Self::Ask { answer, .. } => drop(answer.send(Err(error))),
            Self::Embed { answer, .. } => drop(answer.send(Err(error))),
        });
    }
}

impl<F: FnMut() -> Result<Model, ModelError>> Server<F> {
    pub fn new(open: F, model: Model, shared: Arc<Shared>) -> Self {
        let (alone, before) = (Duration::ZERO, Encoded::default());
        Self { open, shared, model: Some(model), making: None, alone, before }
    }

    pub fn serve(mut self) {
        while let Some(Turn { asked, work }) = self.next() {
            match work {
                Work::Act(queries) => self.act(&asked, &queries),
                Work::Embed(question) => self.embed(&asked, &question),
                Work::Begin(question, decoding) => self.begin(&asked, &question, &decoding),
                Work::Step => self.step(&asked),
            }
        }
    }

    /// Waits for something to do. None: it will not come.
    fn next(&mut self) -> Option<Turn> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        loop {
            let late = state.take_late(Instant::now());
            if !late.is_empty() {
                MutexGuard::unlocked(&mut state, || fail_late(late));
            } else if state.queue.len() > 0 {
                break;
            } else if state.handles == 0 {
                return None;
            } else {
                shared.news.wait(&mut state);
            }
        }
        // Its request may have been withdrawn or late.
        self.making.take_if(|making| state.queue.get(making.id).is_none());
        let urgent = state.queue.most_urgent()?;
        let (ids, work) = match (&urgent.job, &self.making) {
            (Job::Act { .. }, _) => {
                let ids = self.goes_together(&mut state.queue, Instant::now());
                let query = |id: &u64| match &state.queue.get(*id)?.job {
                    Job::Act { query, .. } => Some(Arc::clone(query)),
                    Job::Ask { .. } | Job::Embed { .. } => None,
                };
                let queries = ids.iter().filter_map(query).collect();
                (ids, Work::Act(queries))
            }
            (Job::Embed { question, .. }, _) => (vec![urgent.id], Work::Embed(Arc::clone(question))),
            (Job::Ask { .. }, Some(making)) => (vec![making.id], Work::Step),
            (Job::Ask { question, decoding, .. }, None) => {
                (vec![urgent.id], Work::Begin(Arc::clone(question), *decoding))
            }
        };
        let begin = |id| state.queue.begin(id).map(|caller| Asked { id, caller });
        Some(Turn { asked: ids.into_iter().filter_map(begin).collect(), work })
    }

    /// The most urgent request, and those that run together with it.
    ///
    /// They are of the same shape, and all of them will be done before the earliest of their deadlines even if together
    /// they take as long as one after the other. What was hit by a failure of the device is tried alone.
    fn goes_together(&self, queue: &mut Queue<Job>, now: Instant) -> Vec<u64> {
        let batches = self.model.as_ref().and_then(|model| model.policy.as_ref()).is_some_and(Policy::batches);
        let shape_of = |entry: &Entry<Job>| match &entry.job {
            Job::Act { shape, .. } if batches && !entry.again => *shape,
            _ => None,
        };
        let Some(first) = queue.most_urgent() else { return Vec::new() };
        let (shape, mut earliest, mut together) = (shape_of(first), first.deadline(), vec![first.id]);
        if shape.is_none() {
            return together;
        }
        for entry in queue.by_deadline() {
            let done = now + self.alone * (together.len() as u32 + 1);
            if together.len() == LARGEST_BATCH || done > earliest.min(entry.deadline()) {
                break;
            }
            if entry.id != together[0] && shape_of(entry) == shape {
                earliest = earliest.min(entry.deadline());
                together.push(entry.id);
            }
        }
        together
    }

    fn act(&mut self, asked: &[Asked], queries: &[Arc<Query>]) {
        let start = Instant::now();
        let results = self.act_together(queries);
        let took = start.elapsed();
        if let [Ok(_)] = results[..] {
            self.alone = took;
        }
        let loss = self.lose_model(results.iter().filter_map(|result| result.as_ref().err()));
        let encoded = self.encoded();
        let mut state = self.shared.state.lock();
        state.statistics.runs += 1;
        let mut answers = Vec::with_capacity(asked.len());
        for (Asked { id, .. }, result) in asked.iter().zip(results) {
            // Alone the second time, because together they may have been too much.
            let again = loss != Loss::None || asked.len() > 1;
            if let Some((Job::Act { answer, .. }, result)) = state.conclude(*id, result, again) {
                answers.push((answer, result));
            }
        }
        state.turn_is_over(asked, took, encoded);
        drop(state);
        for (answer, result) in answers {
            wake(|| drop(answer.send(result)));
        }
    }

    /// One result for each query.
    fn act_together(&mut self, queries: &[Arc<Query>]) -> Vec<Result<Actions, ModelError>> {
        let together: Vec<&Query> = queries.iter().map(Arc::as_ref).collect();
        match on_model(|| Ok(self.policy()?.act_together(&together))) {
            Ok(results) => results,
            Err(ModelError::Panicked { cause }) => {
                queries.iter().map(|_| Err(ModelError::Panicked { cause: cause.clone() })).collect()
            }
            Err(error) => {
                // Errors cannot be copied; the first one carries the cause.
                let mut error = Some(error);
                queries.iter().map(|_| Err(error.take().unwrap_or(ModelError::Batch))).collect()
            }
        }
    }

    fn embed(&mut self, asked: &[Asked], question: &Question) {
        let start = Instant::now();
        let result = on_model(|| self.vlm()?.embed(&question.text, &question.images));
        if let Some((Job::Embed { answer, .. }, result)) = self.conclude(asked, start, result) {
            wake(|| drop(answer.send(result)));
        }
    }

    fn begin(&mut self, asked: &[Asked], question: &Question, decoding: &Decoding) {
        let start = Instant::now();
        match on_model(|| self.vlm()?.begin(question, decoding)) {
            Ok(generation) => {
                self.making = asked.first().map(|Asked { id, .. }| Making { id: *id, generation, said: 0 });
                let encoded = self.encoded();
                self.shared.state.lock().turn_is_over(asked, start.elapsed(), encoded);
            }
            Err(error) => self.answer(asked, start, Err(error)),
        }
    }

    /// One more token of the answer in the making.
    fn step(&mut self, asked: &[Asked]) {
        let start = Instant::now();
        let Some(mut making) = self.making.take() else { return };
        let result = on_model(|| self.vlm()?.step(&mut making.generation));
        let wrote = matches!(&result, Ok(Step::Text(_)) | Ok(Step::Done(Answer { ended: true, .. })));
        self.shared.state.lock().statistics.tokens += usize::from(wrote);
        match result {
            Ok(Step::Text(text)) => {
                self.say(asked, start, making.said, &text);
                making.said += text.chars().count();
                self.making = Some(making);
            }
            Ok(Step::Done(answer)) => self.answer(asked, start, Ok(answer)),
            Err(error) => {
                // If the device is lost, what lies on it goes with it.
                self.making = Some(making);
                self.answer(asked, start, Err(error));
            }
        }
    }

    /// Hands on what is new of a text that comes after so many characters.
    fn say(&self, asked: &[Asked], start: Instant, said: usize, text: &str) {
        let encoded = self.encoded();
        let mut state = self.shared.state.lock();
        let mut fresh = None;
        for Asked { id, .. } in asked {
            if let Some(Entry { job: Job::Ask { pieces, sent, .. }, .. }) = state.queue.get_mut(*id) {
                let known = sent.saturating_sub(said);
                *sent = (said + text.chars().count()).max(*sent);
                fresh = Some((pieces.clone(), text.chars().skip(known).collect::<String>()));
            }
        }
        state.turn_is_over(asked, start.elapsed(), encoded);
        drop(state);
        if let Some((pieces, fresh)) = fresh.filter(|(_, fresh)| !fresh.is_empty()) {
            // Whoever asked may want the whole answer only.
            wake(|| drop(pieces.unbounded_send(fresh)));
        }
    }

    /// An answer in words has come to its end.
    fn answer(&mut self, asked: &[Asked], start: Instant, result: Result<Answer, ModelError>) {
        if let Some((Job::Ask { answer, pieces, .. }, result)) = self.conclude(asked, start, result) {
            wake(|| {
                drop(pieces);
                drop(answer.send(result));
            });
        }
    }

    /// Ends the turn of one request. None: it waits once more, or nobody waits for it.
    fn conclude<T>(
        &mut self,
        asked: &[Asked],
        start: Instant,
        result: Result<T, ModelError>,
    ) -> Option<(Job, Result<T, ModelError>)> {
        let loss = self.lose_model(result.as_ref().err().into_iter());
        let encoded = self.encoded();
        let mut state = self.shared.state.lock();
        let concluded = asked.first().and_then(|Asked { id, .. }| state.conclude(*id, result, loss != Loss::None));
        state.turn_is_over(asked, start.elapsed(), encoded);
        concluded
    }

    fn policy(&mut self) -> Result<&mut Policy, ModelError> {
        let lacking = ModelError::Lacking { what: "act", hint: "Load a checkpoint of a policy" };
        self.model()?.policy.as_mut().ok_or(lacking)
    }

    fn vlm(&mut self) -> Result<&mut Vlm, ModelError> {
        let lacking = ModelError::Lacking { what: "answer in words", hint: "Load a checkpoint of a SmolVLM2 besides" };
        self.model()?.vlm.as_mut().ok_or(lacking)
    }

    fn model(&mut self) -> Result<&mut Model, ModelError> {
        if self.model.is_none() {
            self.model = Some((self.open)()?);
            self.shared.state.lock().statistics.reopened += 1;
        }
        self.model.as_mut().ok_or(ModelError::Stopped)
    }

    /// Gives the model up, with all that is on its device, if one of these errors says that it is of no use any more.
    fn lose_model<'a>(&mut self, errors: impl Iterator<Item = &'a ModelError>) -> Loss {
        let loss = errors.map(Loss::of).max().unwrap_or(Loss::None);
        if loss == Loss::None {
            return loss;
        }
        self.before = self.encoded();
        let lost = (self.making.take(), self.model.take());
        // A driver that has failed may well do so again.
        let close = move || drop(catch_unwind(AssertUnwindSafe(move || drop(lost))));
        if loss == Loss::Hung {
            // Without a thread it is closed, and waited for, here.
            let _ = thread::Builder::new().name("waza-closing".to_owned()).spawn(close);
        } else {
            close();
        }
        loss
    }

    fn encoded(&self) -> Encoded {
        let policy = self.model.as_ref().and_then(|model| model.policy.as_ref());
        let vlm = self.model.as_ref().and_then(|model| model.vlm.as_ref());
        Encoded {
            frames: self.before.frames + policy.map_or(0, |policy| policy.work().frames),
            images: self.before.images + vlm.map_or(0, Vlm::images_encoded),
        }
    }
}

impl State {
    /// Takes what is too late out of the queue.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Entry<Job>> {
        let late = self.queue.remove_late(now);
        self.statistics.late += late.len();
        late
    }

    /// Counts a result; what failed because of the device is tried `again`, once. None: it waits once more, or nobody waits
    /// for it any more.
    fn conclude<T>(
        &mut self,
        id: u64,
        result: Result<T, ModelError>,
        again: bool,
    ) -> Option<(Job, Result<T, ModelError>)> {
        let entry = self.queue.get_mut(id)?;
        if again && is_of_device(&result) && !entry.again {
            entry.again = true;
            self.statistics.retried += 1;
            return None;
        }
        *if result.is_ok() { &mut self.statistics.served } else { &mut self.statistics.failed } += 1;
        Some((self.queue.remove(id)?.job, result))
    }

    fn turn_is_over(&mut self, asked: &[Asked], took: Duration, Encoded { frames, images }: Encoded) {
        let each = took / asked.len().max(1) as u32;
        asked.iter().for_each(|Asked { id, caller }| self.queue.end(*id, caller, each));
        (self.statistics.frames, self.statistics.images) = (frames, images);
    }
}

impl Loss {
    fn of(error: &ModelError) -> Self {
        match error {
            ModelError::Executor(ExecutorError::Hung { .. }) => Self::Hung,
            // What it was about to do is half done.
            ModelError::Executor(ExecutorError::Lost { .. }) | ModelError::Panicked { .. } => Self::Lost,
            _ => Self::None,
        }
    }
}

/// Does what the model does; a panic in it is an error of the request, not the end of the thread.
pub(super) fn on_model<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    // Whoever gets `Panicked` gives the model up.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(ModelError::Panicked { cause: said(&*panic) }))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}

/// Wakes whoever waits. Their wakers run on this thread, and if one panics, that is nobody else's business.
fn wake(waiting: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(waiting));
}

pub(super) fn fail_late(late: Vec<Entry<Job>>) {
    for entry in late {
        let error = entry.late();
        entry.job.fail(error);
    }
}

/// Not an error of the request itself.
fn is_of_device<T>(result: &Result<T, ModelError>) -> bool {
    matches!(result, Err(ModelError::Executor(_) | ModelError::Batch))
}
