//! `waza model ask`: a question about pictures, answered in words.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use waza_model::{AnyCheckpoint, Decoding, Device, Question, Sampling, Step, Vlm};

use crate::fault::{OrBadInput, bad_input, model_fault};
use crate::picture::read_png;
use crate::progress;
use crate::say::print;

#[derive(Debug, Args)]
pub struct Ask {
    /// The folder of a SmolVLM2, or of a policy whose VLM's folder holds its weights.
    folder: PathBuf,
    /// The question.
    question: String,
    /// A PNG file that it is about; several are looked at in order.
    #[arg(long = "image")]
    images: Vec<PathBuf>,
    /// What runs the model: auto, cpu or gpu.
    #[arg(long, default_value_t)]
    device: Device,
    /// The answer ends here if it has not ended by itself.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=8192))]
    most_tokens: u32,
    /// Draw words at random: above 0, and the higher, the wilder. If left out, the likeliest words are taken.
    #[arg(long)]
    temperature: Option<f32>,
    /// Of words drawn at random, only the likeliest that have together this probability.
    #[arg(long, default_value_t = 0.9, requires = "temperature")]
    top_p: f32,
    /// Equal seeds draw equal words.
    #[arg(long, default_value_t = 0, requires = "temperature")]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Ask {
    pub fn run(self) -> Result<()> {
        let images = self.images.iter().map(|path| read_png(path)).collect::<Result<_>>()?;
        let checkpoint = match AnyCheckpoint::open(&self.folder).or_bad_input()? {
            AnyCheckpoint::Vlm(checkpoint) => Some(*checkpoint),
            AnyCheckpoint::Policy(policy) => policy.vlm().or_bad_input()?,
        };
        let Some(checkpoint) = checkpoint else {
            let cause = "this policy comes without the weights of its vision-language model, which would answer";
            let way_out = "put the VLM's model.safetensors into the folder that config.json names, or give that folder";
            return Err(bad_input(cause, self.folder.display(), way_out));
        };
        let sampling = self.temperature.map(|temperature| Sampling { temperature, top_p: self.top_p, seed: self.seed });
        let decoding = Decoding { most_tokens: self.most_tokens as usize, sampling };
        let spinner = progress::spinner("loading the model");
        let mut vlm = Vlm::new(&checkpoint, self.device).map_err(model_fault)?;
        spinner.set_message("reading the question");
        let question = Question { text: self.question, images };
        let mut generation = vlm.begin(&question, &decoding).map_err(model_fault)?;
        spinner.finish_and_clear();
        // People see words as they come; a pipe gets the answer as it is in the end.
        let streams = !self.json && stdout().is_terminal();
        let answer = loop {
            match vlm.step(&mut generation).map_err(model_fault)? {
                Step::Done(answer) => break answer,
                Step::Text(piece) if streams => {
                    print(format_args!("{piece}"))?;
                }
                Step::Text(_) => {}
            }
        };
        if self.json {
            let (text, confidence) = (&answer.text, answer.confidence);
            say!(
                "{}",
                json!({ "text": text, "confidence": confidence, "tokens": answer.tokens, "ended": answer.ended })
            )?;
        } else if streams {
            say!("")?;
        } else {
            say!("{}", answer.text)?;
        }
        Ok(())
    }
}
