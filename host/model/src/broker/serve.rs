//! The thread that owns the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::{mpsc as stream, oneshot};

use super::queue::{Entry, Queue};
use super::{Shared, State};
use crate::error::ModelError;
use crate::executor::ExecutorError;
use crate::image::Image;
use crate::model::Model;
use crate::plan::Shape;
use crate::policy::{Actions, LARGEST_BATCH, Policy, Query};
use crate::vlm::{Answer, Decoding, Generation, Question, Step, Vlm};

/// What somebody asks for, and where the answer goes.
#[derive(Debug)]
pub(super) enum Job {
    Act {
        query: Box<Query>,
        /// What it must have in common with others to run together with them, once that is known.
        shape: Option<Shape>,
        answer: oneshot::Sender<Result<Actions, ModelError>>,
    },
    Ask {
        question: Question,
        decoding: Decoding,
        pieces: stream::UnboundedSender<String>,
        /// Characters that were sent. They are not sent again if the answer is begun again.
        sent: usize,
        answer: oneshot::Sender<Result<Answer, ModelError>>,
    },
    Embed {
        text: String,
        images: Vec<Image>,
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
    /// The number of its request, which stays in the queue meanwhile.
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

/// What is done next.
enum Turn {
    Late(Vec<Entry<Job>>),
    Act(Vec<Entry<Job>>),
    Embed(Entry<Job>),
    Begin { id: u64, skill: Arc<str>, question: Question, decoding: Decoding },
    Step { id: u64, skill: Arc<str> },
}

impl Job {
    fn fail(self, error: ModelError) {
        // Whoever asked may have gone away in the meantime.
        match self {
            Self::Act { answer, .. } => drop(answer.send(Err(error))),
            Self::Ask { answer, .. } => drop(answer.send(Err(error))),
            Self::Embed { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl<F: FnMut() -> Result<Model, ModelError>> Server<F> {
    pub fn new(open: F, model: Model, shared: Arc<Shared>) -> Self {
        let (alone, before) = (Duration::ZERO, Encoded::default());
        Self { open, shared, model: Some(model), making: None, alone, before }
    }

    pub fn serve(mut self) {
        while let Some(turn) = self.next() {
            match turn {
                Turn::Late(late) => drop_late(late),
                Turn::Act(entries) => self.act(entries),
                Turn::Embed(entry) => self.embed(entry),
                Turn::Begin { id, skill, question, decoding } => self.begin(id, &skill, &question, &decoding),
                Turn::Step { id, skill } => self.step(id, &skill),
            }
        }
    }

    /// Waits for something to do. None: it will not come.
    fn next(&mut self) -> Option<Turn> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        while state.queue.len() == 0 {
            if state.handles == 0 {
                return None;
            }
            state = shared.wait(state);
        }
        let now = Instant::now();
        let late = state.queue.remove_late(now);
        if !late.is_empty() {
            state.statistics.late += late.len();
            return Some(Turn::Late(late));
        }
        // Its request may have been withdrawn or late.
        self.making.take_if(|making| state.queue.get_mut(making.id).is_none());
        let urgent = state.queue.most_urgent()?;
        let skill = urgent.skill();
        let turn = match (&urgent.job, &self.making) {
            (Job::Act { .. }, _) => {
                let together = self.goes_together(&mut state.queue, now);
                let entries: Vec<_> = together.into_iter().filter_map(|id| state.queue.remove(id)).collect();
                entries.iter().for_each(|entry| state.queue.begin(&entry.skill()));
                return Some(Turn::Act(entries));
            }
            (Job::Embed { .. }, _) => {
                let id = urgent.id;
                Turn::Embed(state.queue.remove(id)?)
            }
            (Job::Ask { .. }, Some(Making { id, .. })) => {
                Turn::Step { id: *id, skill: state.queue.get_mut(*id)?.skill() }
            }
            (Job::Ask { question, decoding, .. }, None) => Turn::Begin {
                id: urgent.id,
                skill: Arc::clone(&skill),
                question: question.clone(),
                decoding: *decoding,
            },
        };
        match &turn {
            Turn::Step { skill, .. } => state.queue.begin(skill),
            _ => state.queue.begin(&skill),
        }
        Some(turn)
    }

    /// The most urgent request, and those that run together with it.
    ///
    /// They are of the same shape, and all of them will be done before the earliest of their deadlines even if together
    /// they take as long as one after the other. What was hit by a failure of the device is tried alone.
    fn goes_together(&self, queue: &mut Queue<Job>, now: Instant) -> Vec<u64> {
        let policy = self.model.as_ref().and_then(|model| model.policy.as_ref()).filter(|policy| policy.batches());
        let shape_of = |entry: &mut Entry<Job>| match &mut entry.job {
            Job::Act { query, shape, .. } if !entry.again => {
                *shape = shape.or_else(|| policy.and_then(|policy| policy.shape_of(query).ok()));
                *shape
            }
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

    fn act(&mut self, entries: Vec<Entry<Job>>) {
        let start = Instant::now();
        let skills: Vec<Arc<str>> = entries.iter().map(Entry::skill).collect();
        let queries: Vec<&Query> = entries.iter().filter_map(|entry| entry.job.query()).collect();
        let mut results = self.act_together(&queries);
        let took = start.elapsed();
        let batch = entries.len();
        if batch == 1 {
            self.alone = took;
        }
        let lost = results.iter().any(is_lost);
        if lost {
            self.lose_model();
        }
        let encoded = self.encoded();
        let mut state = self.shared.lock();
        skills.iter().for_each(|skill| state.queue.charge(skill, took / batch as u32));
        state.statistics.runs += 1;
        state.note(encoded);
        let mut answers = Vec::with_capacity(batch);
        for (entry, result) in entries.into_iter().zip(results.drain(..)) {
            // Alone the second time, because together they may have been too much.
            let again = lost || (batch > 1 && is_of_device(&result));
            match state.conclude(entry, result, again) {
                Some((Job::Act { answer, .. }, result)) => answers.push((answer, result)),
                _ => continue,
            }
        }
        drop(state);
        for (answer, result) in answers {
            let _ = answer.send(result);
        }
    }

    fn act_together(&mut self, queries: &[&Query]) -> Vec<Result<Actions, ModelError>> {
        match self.policy() {
            Ok(policy) => policy.act_together(queries),
            Err(error) => {
                // Errors cannot be copied; the first one carries the cause.
                let mut error = Some(error);
                queries.iter().map(|_| Err(error.take().unwrap_or(ModelError::Batch))).collect()
            }
        }
    }

    fn embed(&mut self, entry: Entry<Job>) {
        let start = Instant::now();
        let Job::Embed { text, images, .. } = &entry.job else { return };
        let result = self.vlm().and_then(|vlm| vlm.embed(text, images));
        let skill = entry.skill();
        let (mut state, lost) = self.turn_is_over(&skill, start, &result);
        let concluded = state.conclude(entry, result, lost);
        drop(state);
        if let Some((Job::Embed { answer, .. }, result)) = concluded {
            let _ = answer.send(result);
        }
    }

    fn begin(&mut self, id: u64, skill: &Arc<str>, question: &Question, decoding: &Decoding) {
        let start = Instant::now();
        let result = match self.vlm().and_then(|vlm| vlm.begin(question, decoding)) {
            Ok(generation) => {
                self.making = Some(Making { id, generation, said: 0 });
                Ok(Step::Text(String::new()))
            }
            Err(error) => Err(error),
        };
        self.went_on(id, skill, start, result);
    }

    fn step(&mut self, id: u64, skill: &Arc<str>) {
        let start = Instant::now();
        let Some(mut making) = self.making.take() else { return };
        let result = self.vlm().and_then(|vlm| vlm.step(&mut making.generation));
        if matches!(result, Ok(Step::Text(_))) {
            self.making = Some(making);
        }
        let wrote = matches!(&result, Ok(Step::Text(_)) | Ok(Step::Done(Answer { ended: true, .. })));
        self.shared.lock().statistics.tokens += usize::from(wrote);
        self.went_on(id, skill, start, result);
    }

    /// An answer has come one step further, or to its end.
    fn went_on(&mut self, id: u64, skill: &Arc<str>, start: Instant, result: Result<Step, ModelError>) {
        let said = self.making.as_ref().map_or(0, |making| making.said);
        let (mut state, lost) = self.turn_is_over(skill, start, &result);
        let result = match result {
            Ok(Step::Text(text)) => {
                let Some(Entry { job: Job::Ask { pieces, sent, .. }, .. }) = state.queue.get_mut(id) else { return };
                let (pieces, known) = (pieces.clone(), sent.saturating_sub(said));
                let fresh: String = text.chars().skip(known).collect();
                let said = said + text.chars().count();
                *sent = said.max(*sent);
                drop(state);
                if let Some(making) = &mut self.making {
                    making.said = said;
                }
                if !fresh.is_empty() {
                    // Whoever asked may want the whole answer only.
                    let _ = pieces.unbounded_send(fresh);
                }
                return;
            }
            Ok(Step::Done(answer)) => Ok(answer),
            Err(error) => Err(error),
        };
        // It may have been withdrawn meanwhile.
        let Some(entry) = state.queue.remove(id) else { return };
        let concluded = state.conclude(entry, result, lost);
        drop(state);
        if let Some((Job::Ask { answer, pieces, .. }, result)) = concluded {
            drop(pieces);
            let _ = answer.send(result);
        }
    }

    fn turn_is_over<T>(
        &mut self,
        skill: &Arc<str>,
        start: Instant,
        result: &Result<T, ModelError>,
    ) -> (std::sync::MutexGuard<'_, State>, bool) {
        let lost = is_lost(result);
        if lost {
            self.lose_model();
        }
        let encoded = self.encoded();
        let mut state = self.shared.lock();
        state.queue.charge(skill, start.elapsed());
        state.note(encoded);
        (state, lost)
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
            self.shared.lock().statistics.reopened += 1;
        }
        self.model.as_mut().ok_or(ModelError::Stopped)
    }

    /// The device is gone, with all that was on it.
    fn lose_model(&mut self) {
        self.before = self.encoded();
        self.making = None;
        self.model = None;
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
    fn note(&mut self, Encoded { frames, images }: Encoded) {
        (self.statistics.frames, self.statistics.images) = (frames, images);
    }

    /// Counts a result; what failed because of the device is tried `again`, once. None: it waits once more.
    fn conclude<T>(
        &mut self,
        mut entry: Entry<Job>,
        result: Result<T, ModelError>,
        again: bool,
    ) -> Option<(Job, Result<T, ModelError>)> {
        if again && is_of_device(&result) && !entry.again {
            entry.again = true;
            self.statistics.retried += 1;
            self.queue.put_back(entry);
            return None;
        }
        *if result.is_ok() { &mut self.statistics.served } else { &mut self.statistics.failed } += 1;
        Some((entry.job, result))
    }
}

impl Job {
    fn query(&self) -> Option<&Query> {
        match self {
            Self::Act { query, .. } => Some(query),
            Self::Ask { .. } | Self::Embed { .. } => None,
        }
    }
}

fn drop_late(late: Vec<Entry<Job>>) {
    for entry in late {
        let error = entry.late();
        entry.job.fail(error);
    }
}

fn is_lost<T>(result: &Result<T, ModelError>) -> bool {
    matches!(result, Err(ModelError::Executor(ExecutorError::Lost { .. })))
}

/// Not an error of the request itself.
fn is_of_device<T>(result: &Result<T, ModelError>) -> bool {
    matches!(result, Err(ModelError::Executor(_) | ModelError::Batch))
}
