//! How a policy's numbers, rows and cameras come to be a robot's: from what is said, what the files say, and what must be
//! assumed, which is told.

use std::path::Path;

use serde::Deserialize;

use super::config::{Features, STATE_KEY, short};
use super::error::list;
use super::processors::Processors;
use super::{Card, read};
use crate::setup::{Conversion, Joint, RobotSide, Said, Setup, Unit, Units, is_rate};

/// How a policy fits a robot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fit {
    /// What its numbers are in, if that is said.
    pub units: Option<Units>,
    /// Without one its numbers stay as they are.
    pub conversion: Option<Conversion>,
    /// Actions of a chunk per second, if that is said.
    pub rate_hz: Option<f32>,
    /// What the robot calls each camera, in the configuration's order.
    pub cameras: Vec<String>,
    /// What keeps it from moving the robot, each with a way out.
    pub obstacles: Vec<String>,
    /// What was assumed or looks odd, each with what settles it.
    pub warnings: Vec<String>,
}

impl Fit {
    pub fn new(folder: &Path, setup: &Setup, card: Option<&Card>, features: &Features, with: &Processors) -> Self {
        let of_card = card.map(Card::said).unwrap_or_default();
        let said = setup.said.clone().or(of_card);
        let mut fit = Self::default();
        fit.find_cameras(&said, features, with, setup.robot.as_ref());
        fit.find_rate(folder, &said, setup.robot.as_ref());
        fit.find_units(&said, card, features, with, setup.robot.as_ref());
        fit.warn_of_constants(features, with, setup.robot.as_ref());
        fit
    }

    /// Finds the robot's camera for each of the policy's.
    fn find_cameras(&mut self, said: &Said, features: &Features, with: &Processors, robot: Option<&RobotSide>) {
        let here = robot.map_or(&[][..], |robot| robot.cameras.as_slice());
        self.cameras = features.cameras.iter().map(|key| camera(key, said, with, here)).collect();
        for (name, camera) in &said.cameras {
            if !features.cameras.iter().any(|key| key == name || short(key) == name) {
                let known = list(features.cameras.iter().map(|key| short(key)));
                self.obstacles.push(format!("it looks through no camera `{name}`, but through {known}"));
            } else if robot.is_some() && !here.contains(camera) {
                let here = list(here.iter());
                self.obstacles.push(format!("its camera `{name}` is to be `{camera}`, the robot has {here}"));
            } else if self.cameras.iter().filter(|it| *it == camera).count() > 1 {
                self.obstacles.push(format!("two of its cameras are to be `{camera}`, give each one of its own"));
            }
        }
        let keys = features.cameras.iter().zip(&self.cameras);
        let absent: Vec<&str> =
            keys.filter(|(_, camera)| robot.is_some() && !here.contains(camera)).map(|(key, _)| short(key)).collect();
        // Where none is there, that alone keeps it from running.
        if !absent.is_empty() && absent.len() < self.cameras.len() {
            self.warnings.push(format!(
                "the robot has no camera for its {}, and it is asked without: `--camera {}=CAMERA` names one",
                list(absent.iter()),
                absent[0]
            ));
        }
    }

    /// Finds how fast its rows are to be played.
    fn find_rate(&mut self, folder: &Path, said: &Said, robot: Option<&RobotSide>) {
        match said.rate_hz() {
            Ok(rate) => self.rate_hz = rate.or_else(|| trained_rate(folder)),
            Err(problem) => self.obstacles.push(problem),
        }
        if self.rate_hz.is_none() {
            let here = robot.map_or_else(String::new, |robot| format!(", {} a second", robot.rate_hz));
            self.warnings.push(format!(
                "how fast its actions follow each other is said nowhere, and the robot's own rate is assumed{here}; LeRobot's \
                 data mostly has 30: `--rate-hz`, or `action_rate_hz` in waza.json or the site's file, sets it"
            ));
        }
    }

    /// Finds what its numbers are in, and looks whether they can be that.
    fn find_units(
        &mut self,
        said: &Said,
        card: Option<&Card>,
        features: &Features,
        with: &Processors,
        robot: Option<&RobotSide>,
    ) {
        self.units.clone_from(&said.units);
        let Some(robot) = robot else { return };
        let known: Vec<(usize, (f32, f32))> =
            [&with.state, &with.action].into_iter().flat_map(|it| it.spreads().enumerate()).collect();
        if let Some(units) = &said.units {
            if let Units::Each(each) = units
                && each.len() != features.action_size
            {
                let (found, size) = (each.len(), features.action_size);
                self.obstacles.push(format!("{found} units are named, and its actions have {size} numbers"));
            }
            let conversion = Conversion::new(units, &robot.joints);
            if let Some((joint, odd)) = odd(&known, &conversion, &robot.joints) {
                let units = spelled(units);
                self.obstacles.push(format!("its numbers are no {units}: {} {odd}; name others", joint.name));
            }
            self.conversion = Some(conversion);
            return;
        }
        let fits = |unit| odd(&known, &Conversion::new(&Units::All(unit), &robot.joints), &robot.joints);
        let Some((joint, odd)) = fits(Unit::Rad) else {
            // A card that names the robot says its units, too.
            if card.and_then(|card| card.embodiment.as_ref()) != Some(&robot.name) {
                self.warnings.push(
                    "what its numbers are in is said nowhere, and rad are assumed; LeRobot's arms mostly have degrees: \
                     `--units`, or `units` in waza.json or the site's file, sets it"
                        .to_owned(),
                );
            }
            return;
        };
        // The gripper of either is 0 to 100, and a turn of 360 degrees is close to a travel of 200 for most joints: which
        // of the two they are, the numbers do not tell.
        let guess = [Unit::Degrees, Unit::SignedPercent, Unit::Percent].into_iter().find(|unit| fits(*unit).is_none());
        let what = match guess {
            Some(Unit::Degrees) => {
                "these look like degrees: say `--units degrees` (the gripper 0 to 100), or `--units signed-percent` if they are \
                 -100 to 100 of each joint's travel"
            }
            Some(Unit::SignedPercent) => {
                "these look like -100 to 100 of each joint's travel: say `--units signed-percent` (the gripper 0 to 100)"
            }
            Some(_) => "these look like 0 to 100 of each joint's travel: say `--units percent`",
            None => "nor does any one unit fit them: name each joint's with `--units rad,degrees,...`",
        };
        self.obstacles.push(format!(
            "its numbers are no rad: {} {odd}; {what}, or `units` in waza.json or the site's file",
            joint.name
        ));
    }

    /// Tells of what the network will see nothing of.
    fn warn_of_constants(&mut self, features: &Features, with: &Processors, robot: Option<&RobotSide>) {
        let name = |index: usize| match robot.and_then(|robot| robot.joints.get(index)) {
            Some(joint) => joint.name.clone(),
            None => format!("number {index}"),
        };
        let constant: Vec<usize> = with.state.constant().collect();
        if !constant.is_empty() {
            let names = list(constant.iter().map(|index| name(*index)));
            self.warnings.push(format!(
                "in the training data the position of {names} never changed (a deviation of 0): it counts as 0 for the policy, \
                 which cannot know where it is"
            ));
        }
        let still: Vec<usize> = with.action.constant().filter(|index| !constant.contains(index)).collect();
        if !still.is_empty() {
            let names = list(still.iter().map(|index| name(*index)));
            self.warnings.push(format!("in the training data the action of {names} never changed, so it never will"));
        }
        if with.sensors.as_ref().is_some_and(|sensors| sensors.constant().next().is_some()) {
            self.warnings.push("a sensor channel never changed in the training data: it counts as 0".to_owned());
        }
        if with.state_lacks_statistics {
            let size = features.state_size;
            self.warnings.push(format!(
                "the chosen statistics have none of `{STATE_KEY}`: its {size} numbers go to the network as they are, which is what \
                 LeRobot does"
            ));
        }
    }
}

fn spelled(units: &Units) -> String {
    match units {
        Units::All(unit) => unit.to_string(),
        Units::Each(each) => list(each.iter()),
    }
}

/// What the robot calls a camera: as it is said; or else what the preprocessor renames to it, of several the first one that
/// the robot has; or else as the policy does.
fn camera(key: &String, said: &Said, with: &Processors, here: &[String]) -> String {
    if let Some((_, camera)) = said.cameras.iter().find(|(name, _)| *name == key || *name == short(key)) {
        return camera.clone();
    }
    let sources = || with.renames.iter().filter(|(_, to)| *to == key).map(|(from, _)| short(from));
    let found = sources().find(|source| here.iter().any(|camera| camera == source)).or_else(|| sources().next());
    found.unwrap_or(short(key)).to_owned()
}

/// The first joint that cannot have moved so, and how.
fn odd<'a>(known: &[(usize, (f32, f32))], conversion: &Conversion, joints: &'a [Joint]) -> Option<(&'a Joint, String)> {
    known.iter().find_map(|(index, spread)| {
        let joint = joints.get(*index)?;
        let (mean, deviation) = conversion.spread(*index, *spread);
        let [low, high] = joint.travel_rad;
        let width = high - low;
        // What stays within its travel deviates by half of that at most, and has its mean there. As much again is left to
        // an arm whose zero is another.
        let fits = (low - width / 2.0..=high + width / 2.0).contains(&mean) && deviation <= width;
        (!fits).then(|| {
            let travel = format!("a travel of {low:.1} to {high:.1} rad");
            (joint, format!("would be at {mean:.1} on average, give or take {deviation:.1}, in {travel}"))
        })
    })
}

/// Frames a second of the environment or the data that it was trained in, if the training run's own file says so.
fn trained_rate(folder: &Path) -> Option<f32> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Training {
        fps: Option<f32>,
        env: Option<Rate>,
        dataset: Option<Rate>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Rate {
        fps: Option<f32>,
    }
    // It describes a run and not the policy: whatever is wrong with it, the rate is only not said.
    let bytes = read(&folder.join("train_config.json"), "").ok()?;
    let training: Training = serde_json::from_slice(&bytes).ok()?;
    let of = |rate: Option<Rate>| rate.and_then(|rate| rate.fps);
    training.fps.or(of(training.dataset)).or(of(training.env)).filter(|rate| is_rate(*rate))
}

impl Card {
    /// What it says of how the policy is used.
    fn said(&self) -> Said {
        Said {
            units: self.units.clone(),
            action_rate_hz: self.action_rate_hz,
            cameras: self.cameras.clone(),
            statistics: self.statistics.clone(),
        }
    }
}
