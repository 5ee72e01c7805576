//! Writes an endless stream of demonstrations to standard output; `host/model/training/train.py` reads it.
//!
//! `demonstrations SEED SIDE CHUNK CAMERAS SHUFFLE TOUCH RELABELLED`, for example
//! `demonstrations 1 96 16 front,wrist 16384 0.5 0.65`.

use std::io::{BufWriter, stdout};

use waza_robot::Embodiment;
use waza_robot::sim::SceneSpec;
use waza_robot::sim::demonstrations::{Options, stream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seed, side, chunk, cameras, shuffle, touch, relabelled] = &arguments[..] else {
        return Err("usage: demonstrations SEED SIDE CHUNK CAMERAS SHUFFLE TOUCH RELABELLED".into());
    };
    let options = Options {
        seed: seed.parse()?,
        side: side.parse()?,
        chunk: chunk.parse()?,
        cameras: cameras.split(',').map(str::to_owned).collect(),
        shuffle: shuffle.parse()?,
        touch: touch.parse()?,
        relabelled: relabelled.parse()?,
    };
    stream(&Embodiment::so101(), &SceneSpec::tabletop(), &options, &mut BufWriter::new(stdout().lock()))?;
    Ok(())
}
