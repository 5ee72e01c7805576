//! What is said of a policy besides its files, on the command line and under `[model]` in the site's file.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use waza_model::setup::Joint;
use waza_model::{RobotSide, Said, Setup, Units};
use waza_robot::{Embodiment, Tightening};

use crate::fault::{BadInput, OrBadInput};

/// How a policy fits the robot, where its files do not say.
#[derive(Debug, Args)]
pub struct SaidOptions {
    /// What the policy's states and actions are in: rad, degrees or signed-percent (LeRobot's arms, the gripper in percent),
    /// percent of each joint's travel, or one for each joint with commas between.
    #[arg(long)]
    units: Option<Units>,
    /// What the robot calls a camera of the policy's; one for each that is called otherwise.
    #[arg(long = "camera", value_name = "MODEL=ROBOT", value_parser = pair)]
    cameras: Vec<(String, String)>,
    /// Rows of the policy's chunks per second.
    #[arg(long, value_name = "HZ")]
    rate_hz: Option<f32>,
    /// Which data set's statistics it normalises by, where its files have those of several.
    #[arg(long, value_name = "NAME")]
    statistics: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((model, robot)) if !model.is_empty() && !robot.is_empty() => Ok((model.into(), robot.into())),
        _ => Err("write MODEL=ROBOT, for example camera1=front".into()),
    }
}

impl SaidOptions {
    /// For the bundled robot: what is said here, and then what the site's file says.
    pub fn setup(&self, site: Option<&Path>) -> Result<Setup> {
        let said = Said {
            units: self.units.clone(),
            action_rate_hz: self.rate_hz,
            cameras: self.cameras.iter().cloned().collect(),
            statistics: self.statistics.clone(),
        };
        Ok(Setup { robot: Some(robot_side(&Embodiment::so101())), said: said.or(of_site(site)?) })
    }
}

/// With the robot's own limits: percents are of what a joint can do, not of what a site lets it.
fn robot_side(robot: &Embodiment) -> RobotSide {
    let joint = |joint: &waza_robot::embodiment::Joint| Joint { name: joint.name.clone(), travel_rad: joint.position };
    RobotSide {
        name: robot.name.clone(),
        joints: robot.joints.iter().map(joint).collect(),
        cameras: robot.cameras.iter().map(|camera| camera.name.clone()).collect(),
        rate_hz: robot.action.rate_hz,
    }
}

/// What the site's file says of the policy; its limits are read elsewhere.
fn of_site(site: Option<&Path>) -> Result<Said> {
    /// All but this is limits.
    #[derive(Deserialize)]
    struct Site {
        #[serde(default)]
        model: Said,
    }
    let Some(path) = site else { return Ok(Said::default()) };
    let text = Tightening::text(path).or_bad_input()?;
    let site: Site = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let what = error.message().replace('\n', " ");
        BadInput::caused_by(anyhow::anyhow!("{}: line {line}: {what}", path.display()))
    })?;
    Ok(site.model)
}
