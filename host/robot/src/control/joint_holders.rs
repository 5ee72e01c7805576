//! Whoever drives joints, by a play or tick by tick: what the safety filter did meanwhile, what ends it, who is told.

use std::sync::Arc;

use crate::control::answer::{Answer, Spent};
use crate::control::fence::{Fence, Fences};
use crate::control::play::{Ended, PlayReport};
use crate::embodiment::Within;
use crate::error::RobotError;
use crate::safety::{Act, Intervention, Record, Response, Rule};

/// Joints that somebody asks for, and what held when they did. Made on their thread.
pub(crate) struct Claim {
    pub joints: Vec<usize>,
    /// The fences' counts of the joints: what is asked before a fence is raised around them never moves them after it.
    counts: Vec<u64>,
    /// The state of the host stop: what is asked before a stop never begins after it.
    pub stops: u64,
    /// Room for the report.
    interventions: Vec<Intervention>,
}

impl Claim {
    /// Authorised by a fence, or at this moment.
    ///
    /// # Errors
    /// The joint that the fence is not around.
    pub fn new(joints: Vec<usize>, fences: &Arc<Fences>, under: Option<&Fence>, stops: u64) -> Result<Self, usize> {
        let counts = fences.counts(&joints, under)?;
        Ok(Self { joints, counts, stops, interventions: Vec::with_capacity(Rule::ALL.len()) })
    }

    /// Whether a fence was raised around any of the joints since.
    pub fn is_revoked(&self, fences: &Fences) -> bool {
        fences.raised_since(&self.joints, &self.counts)
    }
}

/// What a driver does with its joints.
pub(crate) trait Task {
    fn claim(&self) -> &Claim;

    /// Where its report is written.
    fn claim_mut(&mut self) -> &mut Claim;

    /// What its asker is to free.
    fn spent(self) -> Spent;

    /// Its joints.
    fn joints(&self) -> &[usize] {
        &self.claim().joints
    }

    /// Stricter limits than the robot's, if it has some.
    fn within(&self) -> Option<&Arc<Within>>;

    fn drives(&self, joint: usize) -> bool {
        self.joints().contains(&joint)
    }

    fn drives_any(&self, joints: &[usize]) -> bool {
        joints.iter().any(|&joint| self.drives(joint))
    }
}

/// A driver that is over, and whom to tell.
pub(crate) struct Over {
    pub answer: Answer<PlayReport>,
    pub report: Result<PlayReport, RobotError>,
    pub spent: Spent,
}

pub(crate) struct JointHolder<T> {
    pub task: T,
    pub record: Record,
    /// The safety filter holds its joints because of what they feel.
    refused: bool,
    answer: Answer<PlayReport>,
}

impl<T: Task> JointHolder<T> {
    pub fn new(task: T, answer: Answer<PlayReport>) -> Self {
        Self { task, record: Record::default(), refused: false, answer }
    }

    pub fn end(mut self, ended: Ended) -> Over {
        let mut interventions = std::mem::take(&mut self.task.claim_mut().interventions);
        self.record.write(&mut interventions);
        Over { answer: self.answer, report: Ok(PlayReport { ended, interventions }), spent: self.task.spent() }
    }
}

/// JointHolders of one kind, no two of which drive one joint.
pub(crate) struct JointHolders<T>(Vec<JointHolder<T>>);

impl<T: Task> JointHolders<T> {
    /// With room for as many as there can be.
    pub fn of(joints: usize) -> Self {
        Self(Vec::with_capacity(joints))
    }

    /// Nothing that drives any of its joints is left.
    pub fn add(&mut self, driver: JointHolder<T>) {
        self.0.push(driver);
    }

    pub fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|driver| &driver.task)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut JointHolder<T>> {
        self.0.iter_mut()
    }

    /// Which of them drives a joint.
    pub fn of_joint(&self, joint: usize) -> Option<&T> {
        self.iter().find(|task| task.drives(joint))
    }

    /// The stricter limits of those that have some, and the joints that each drives.
    pub fn limits(&self) -> impl Iterator<Item = (&[usize], &Arc<Within>)> {
        self.iter().filter_map(|task| Some((task.joints(), task.within()?)))
    }

    /// Keeps what the safety filter did for those that it concerns.
    pub fn note(&mut self, act: Act, tick: u64) {
        for driver in &mut self.0 {
            if act.joint.is_none_or(|joint| driver.task.drives(joint)) {
                driver.record.note(act, tick);
                driver.refused |= act.response == Response::Hold && act.rule.ends_plays();
            }
        }
    }

    /// Ends those that press on where they may not.
    pub fn end_refused(&mut self, over: &mut Vec<Over>) {
        self.end_those(Ended::Held, over, |driver| driver.refused);
    }

    /// Ends those around whose joints a fence was raised since they were asked for.
    pub fn revoke(&mut self, fences: &Fences, over: &mut Vec<Over>) {
        self.end(Ended::Held, over, |task| task.claim().is_revoked(fences));
    }

    /// Ends those that drive any of `joints`, because these are told to hold.
    pub fn hold(&mut self, joints: &[usize], over: &mut Vec<Over>) {
        self.end(Ended::Held, over, |task| task.drives_any(joints));
    }

    /// Ends those of which somebody else takes any of `joints`.
    pub fn supersede(&mut self, joints: &[usize], over: &mut Vec<Over>) {
        self.end(Ended::Superseded, over, |task| task.drives_any(joints));
    }

    /// Ends all because of `act`.
    pub fn interrupt(&mut self, act: Act, tick: u64, over: &mut Vec<Over>) {
        self.note(act, tick);
        self.end(Ended::Held, over, |_| true);
    }

    /// Ends all because of the host stop.
    pub fn stop(&mut self, over: &mut Vec<Over>) {
        self.end(Ended::Stopped, over, |_| true);
    }

    /// Ends all without a report; the caller says why.
    pub fn abandon(&mut self) -> impl Iterator<Item = (Answer<PlayReport>, Spent)> + '_ {
        self.0.drain(..).map(|driver| (driver.answer, driver.task.spent()))
    }

    pub fn end(&mut self, ended: Ended, over: &mut Vec<Over>, which: impl Fn(&T) -> bool) {
        self.end_those(ended, over, |driver| which(&driver.task));
    }

    fn end_those(&mut self, ended: Ended, over: &mut Vec<Over>, which: impl Fn(&JointHolder<T>) -> bool) {
        over.extend(self.0.extract_if(.., |driver| which(driver)).map(|driver| driver.end(ended)));
    }
}
