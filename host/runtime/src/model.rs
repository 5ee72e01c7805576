//! What the runtime asks of a foundation model.

use std::pin::Pin;

use waza_model::{About, Actions, Decoding, Detection, Image, ModelError, ModelHandle, Query, Question, Ticket};
use waza_package::Ability;
use waza_robot::Embodiment;

use crate::contract::{Refusal, model};

/// An answer of the model, when it is there. Dropping it withdraws the request if it has not begun.
pub type Answer<T = Actions> = Pin<Box<dyn Future<Output = Result<T, ModelError>> + Send>>;

/// A foundation model, as skills ask it through the host.
pub trait Model: Send + Sync + 'static {
    /// What it is, needs and can do.
    fn about(&self) -> &About;

    /// What to do next. The request is made when this returns; the future only waits.
    fn act(&self, query: Query, ticket: &Ticket) -> Answer;

    /// An answer in words.
    fn ask(&self, question: Question, ticket: &Ticket) -> Answer<waza_model::Answer> {
        let _ = (question, ticket);
        lacking("answer")
    }

    /// Boxes around what is named, best first.
    fn locate(&self, what: &str, image: &Image, ticket: &Ticket) -> Answer<Vec<Detection>> {
        let _ = (what, image, ticket);
        lacking("locate")
    }

    /// A vector for comparing.
    fn embed(&self, text: String, images: Vec<Image>, ticket: &Ticket) -> Answer<Vec<f32>> {
        let _ = (text, images, ticket);
        lacking("embed")
    }
}

fn lacking<T>(what: &'static str) -> Answer<T>
where
    T: Send + 'static,
{
    Box::pin(async move { Err(ModelError::Lacking { what, hint: "Choose another model" }) })
}

impl Model for ModelHandle {
    fn about(&self) -> &About {
        self.about()
    }

    fn act(&self, query: Query, ticket: &Ticket) -> Answer {
        Box::pin(self.act(query, ticket))
    }

    fn ask(&self, question: Question, ticket: &Ticket) -> Answer<waza_model::Answer> {
        Box::pin(self.ask(question, Decoding::default(), ticket).whole())
    }

    fn locate(&self, what: &str, image: &Image, ticket: &Ticket) -> Answer<Vec<Detection>> {
        Box::pin(self.locate(what, image, ticket))
    }

    fn embed(&self, text: String, images: Vec<Image>, ticket: &Ticket) -> Answer<Vec<f32>> {
        Box::pin(self.embed(text, images, ticket))
    }
}

/// What a model can do.
pub(crate) fn abilities(model: &About) -> impl Iterator<Item = Ability> + '_ {
    model.abilities.iter().map(|ability| match ability {
        waza_model::Ability::Act => Ability::Act,
        waza_model::Ability::Answer => Ability::Answer,
        waza_model::Ability::Locate => Ability::Locate,
        waza_model::Ability::Embed => Ability::Embed,
        waza_model::Ability::Video => Ability::Video,
        waza_model::Ability::Sensors => Ability::Sensors,
    })
}

/// As the contract says it.
pub(crate) fn flag(ability: Ability) -> model::Abilities {
    match ability {
        Ability::Act => model::Abilities::ACT,
        Ability::Answer => model::Abilities::ANSWER,
        Ability::Locate => model::Abilities::LOCATE,
        Ability::Embed => model::Abilities::EMBED,
        Ability::Video => model::Abilities::VIDEO,
        Ability::Sensors => model::Abilities::SENSORS,
    }
}

/// Refuses a call that the model lacks the ability for.
pub(crate) fn demand(ability: Ability, model: &About) -> Result<(), Refusal> {
    if abilities(model).any(|it| it == ability) {
        return Ok(());
    }
    let able: Vec<_> = abilities(model).map(Ability::name).collect();
    Err(Refusal::Unavailable(format!("{} cannot {ability}; it can {}", model.name, able.join(", "))))
}

/// What keeps a model from moving a robot, each with both sides or a way out. Empty: it fits.
pub fn misfits(model: &About, robot: &Embodiment) -> Vec<String> {
    let joints = robot.joints.len();
    if !abilities(model).any(|it| it == Ability::Act) {
        // It moves nothing.
        return Vec::new();
    }
    let mut wrong = model.obstacles.clone();
    if let Some(made_for) = model.embodiment.as_ref().filter(|it| **it != robot.name) {
        wrong.push(format!("it was trained for {made_for}"));
    }
    if model.state_size != joints {
        wrong.push(format!("its state has {} numbers, the robot has {joints} joints", model.state_size));
    }
    if model.action_size != joints {
        wrong.push(format!("its actions have {} numbers, the robot has {joints} joints", model.action_size));
    }
    let cameras: Vec<_> = robot.cameras.iter().map(|it| it.name.as_str()).collect();
    if !model.cameras.iter().any(|it| cameras.contains(&it.as_str())) {
        let (seen, here) = (model.cameras.join(", "), cameras.join(", "));
        wrong.push(format!("it sees {seen}, the robot has {here}: say which is which with `--camera MODEL=ROBOT`"));
    }
    let channels: usize = robot.sensors.iter().map(|it| it.channels.len()).sum();
    if let Some(sensors) = model.sensors.filter(|it| it.channels != channels) {
        wrong.push(format!("it looks at {} sensor channels, the robot has {channels}", sensors.channels));
    }
    wrong
}

/// What a skill is told when the model does not answer.
pub(crate) fn refusal(error: &ModelError) -> Refusal {
    let what = error.to_string();
    match error {
        ModelError::Instruction(_)
        | ModelError::Frames { .. }
        | ModelError::Images { .. }
        | ModelError::Prompt { .. } => Refusal::Invalid(what),
        ModelError::Busy { .. } | ModelError::Quota { .. } | ModelError::Late { .. } => Refusal::Exhausted(what),
        ModelError::Stopped | ModelError::Lacking { .. } => Refusal::Unavailable(what),
        _ => Refusal::Failed(what),
    }
}
