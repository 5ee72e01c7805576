//! `waza sim`: look into the simulator.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use waza_robot::sim::{SceneSpec, Simulator};
use waza_robot::{Embodiment, Image};

use crate::fault::bad_input;
use crate::output::write_file;

#[derive(Debug, Subcommand)]
pub enum Sim {
    /// Draw the scene of a seed as one of the robot's cameras sees it.
    #[command(after_help = "Example:\n  waza sim render --seed 7 --out scene.png")]
    Render(Render),
}

#[derive(Debug, Args)]
pub struct Render {
    /// Decides what lies where on the table.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The camera.
    #[arg(long, default_value = "front")]
    camera: String,
    /// Pixels.
    #[arg(long, default_value_t = 640, value_parser = clap::value_parser!(u32).range(1..=4096))]
    width: u32,
    /// Pixels.
    #[arg(long, default_value_t = 640, value_parser = clap::value_parser!(u32).range(1..=4096))]
    height: u32,
    /// The PNG file to write.
    #[arg(long)]
    out: PathBuf,
}

impl Sim {
    pub fn run(self) -> Result<()> {
        let Self::Render(render) = self;
        let embodiment = Arc::new(Embodiment::so101());
        let simulator = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), render.seed);
        let picture = simulator.picture(&render.camera, render.width, render.height).ok_or_else(|| {
            let cameras: Vec<_> = embodiment.cameras.iter().map(|camera| camera.name.as_str()).collect();
            let way_out = format!("choose one of {}", cameras.join(", "));
            bad_input("the robot has no such camera", format!("--camera {}", render.camera), way_out)
        })?;
        let bytes = png(&picture).context("encoding the picture")?;
        write_file(&render.out, &bytes).map_err(|error| {
            bad_input(
                error,
                format!("--out {}", render.out.display()),
                "choose a folder that exists and can be written",
            )
        })?;
        say!("{}", render.out.display())?;
        Ok(())
    }
}

fn png(picture: &Image) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&picture.rgb)?;
    Ok(bytes)
}
