//! All that one device holds.

use crate::about::{Ability, About};
use crate::policy::Policy;
use crate::vlm::Vlm;

/// What a broker serves: a policy that acts, a model that answers in words, or both.
pub struct Model {
    /// Acts.
    pub policy: Option<Policy>,
    /// Answers in words.
    pub vlm: Option<Vlm>,
    about: About,
}

impl Model {
    /// Both: it is the policy, and can do what the other one can besides.
    pub fn new(policy: Policy, vlm: Vlm) -> Self {
        let mut about = policy.about().clone();
        let more: Vec<Ability> =
            vlm.about().abilities.iter().copied().filter(|it| !about.abilities.contains(it)).collect();
        about.abilities.extend(more);
        Self { policy: Some(policy), vlm: Some(vlm), about }
    }

    /// What it is, needs and can do.
    pub fn about(&self) -> &About {
        &self.about
    }
}

impl From<Policy> for Model {
    fn from(policy: Policy) -> Self {
        Self { about: policy.about().clone(), policy: Some(policy), vlm: None }
    }
}

impl From<Vlm> for Model {
    fn from(vlm: Vlm) -> Self {
        Self { about: vlm.about().clone(), policy: None, vlm: Some(vlm) }
    }
}
