//! SmolVLA as plans.
//!
//! Layer for layer what LeRobot 0.4 computes (`modeling_smolvla.py`, `smolvlm_with_expert.py`), less what cannot reach the
//! actions: padding, cameras that are masked out, the language model's layers after the last one that the expert attends
//! to, and everything in that one but its keys and values.

use super::collect::{Buffers, Collector, Linear, linear, matmul};
use super::decoder::{Decoder, Place, Rest, TextLayer};
use super::vision::{EncodePlan, Encoder};
use super::{Activation, KeyValue, Mask, Op, Operand, Plan, PlanError, View, Weight, WeightId};
use crate::architecture::{Architecture, Backbone, ExpertAttention};
use crate::tensors as names;

/// RoPE's base in the action path, whatever the VLM's configuration says (`apply_rope` in `smolvlm_with_expert.py`).
const ROPE_THETA: f32 = 10_000.0;

/// What the plans of one request, or of some requests at once, are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Requests that run together.
    pub requests: usize,
    /// Cameras of a request that are seen.
    pub cameras: usize,
    /// Cameras that the configuration lets be absent and that are: they leave only their special tokens, if any.
    pub empty_cameras: usize,
    /// Language tokens of a request, without padding.
    pub language_tokens: usize,
}

/// A SmolVLA network's weights, and its plans.
#[derive(Clone, Debug)]
pub struct Network {
    architecture: Architecture,
    weights: Vec<Weight>,
    encoder: Encoder,
    text: Decoder,
    expert: Decoder,
    ids: Ids,
}

/// Where each layer's weights stand in [`Network::weights`].
#[derive(Clone, Debug)]
struct Ids {
    state: Linear,
    sensors: Option<Linear>,
    text: Vec<TextLayer>,
    /// Of the last language layer that the expert attends to, only keys and values are wanted.
    last_text: (WeightId, WeightId),
    expert: Vec<ExpertLayer>,
    expert_norm: WeightId,
    action_in: Linear,
    mix_action: WeightId,
    mix_time: Linear,
    mix_out: Linear,
    action_out: Linear,
}

#[derive(Clone, Copy, Debug)]
struct ExpertLayer {
    norm: WeightId,
    project: Project,
    rest: Rest,
}

/// How an expert layer makes queries, keys and values.
#[derive(Clone, Copy, Debug)]
enum Project {
    /// All three of the actions.
    Joint { query_key_value: WeightId },
    /// Queries of the actions; keys and values of the language model's.
    Cross { query: WeightId, key: WeightId, value: WeightId },
}

/// Makes the keys and values that the expert attends to.
#[derive(Clone, Debug)]
pub struct PrefixPlan {
    /// What it does.
    pub plan: Plan,
    /// What the host writes for each request.
    pub requests: Vec<PrefixInputs>,
    /// `[prefix, 2 * kv width]` each: by request, then by language layer.
    pub caches: Vec<Vec<View>>,
}

/// What the host writes before a prefix runs.
#[derive(Clone, Debug)]
pub struct PrefixInputs {
    /// `[image tokens, width]` each, as [`EncodePlan::embeddings`] are.
    pub images: Vec<View>,
    /// `[1, width]` each: embeddings of the tokens around images, in order.
    pub specials: Vec<(View, SpecialToken)>,
    /// `[language_tokens, width]`: embeddings scaled by `sqrt(width)`.
    pub language: View,
    /// `[1, max_state_dim]`: normalised, padded with 0.
    pub state: View,
    /// `[tokens, samples / tokens * channels]`: a normalised window, where the model has sensors.
    pub sensors: Option<View>,
}

/// A token that stands beside an image in the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialToken {
    /// Opens and closes an image.
    FakeImage,
    /// Says that the whole image follows.
    GlobalImage,
}

/// Turns noise into actions.
#[derive(Clone, Debug)]
pub struct DenoisePlan {
    /// What it does.
    pub plan: Plan,
    /// As [`PrefixPlan::caches`].
    pub caches: Vec<Vec<View>>,
    /// `[chunk, max_action_dim]` of each request: noise before the run, normalised actions after it.
    pub actions: Vec<View>,
    /// `[requests * chunk, max_action_dim]` of each step: what the expert predicted.
    pub velocity: Vec<View>,
}

impl Network {
    /// The network of an architecture.
    #[must_use]
    pub fn new(architecture: Architecture) -> Self {
        let a = &architecture;
        let mut c = Collector::default();
        let names = Backbone::SMOLVLA;
        let encoder = Encoder::new(&mut c, &a.vision, a.video, a.text.width, &names);
        let text = Decoder::new(&a.text, a.text.width, a.text.feed_forward, ROPE_THETA);
        let expert = Decoder::new(&a.text, a.expert.width, a.expert.feed_forward, ROPE_THETA);
        let (last, d) = (a.last_text_layer(), a.expert.width);
        let action_time = format!("{}.weight", names::ACTION_TIME_IN);
        let ids = Ids {
            state: c.linear(names::STATE, a.text.width, a.flow.max_state),
            sensors: a.sensors.as_ref().map(|s| c.linear(names::SENSORS, a.text.width, s.token_numbers())),
            text: (0..last).map(|i| TextLayer::new(&mut c, &names.text_layer(i), &text)).collect(),
            last_text: TextLayer::keys_and_values(&mut c, &names.text_layer(last), &text),
            expert: (a.expert.layers.iter().enumerate())
                .map(|(i, layer)| expert_layer(&mut c, &names::expert_layer(i), &expert, layer.attention))
                .collect(),
            expert_norm: c.vector(format!("{}.weight", names::EXPERT_NORM), d),
            action_in: c.linear(names::ACTION_IN, d, a.flow.max_action),
            mix_action: c.part(action_time.clone(), 0..d, 0..d),
            mix_time: Linear {
                weight: c.part(action_time, 0..d, d..2 * d),
                bias: c.vector(format!("{}.bias", names::ACTION_TIME_IN), d),
            },
            mix_out: c.linear(names::ACTION_TIME_OUT, d, d),
            action_out: c.linear(names::ACTION_OUT, a.flow.max_action, d),
        };
        Self { weights: c.0, encoder, text, expert, ids, architecture }
    }

    /// The dimensions that it was made of.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// All weights that its plans use, in the order of their [`WeightId`]s.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The plan that encodes `frames` frames of each of `cameras` cameras.
    ///
    /// # Errors
    /// If the plan breaks a rule that executors rely on, which is a defect of this crate.
    pub fn encode(&self, cameras: usize, frames: usize) -> Result<EncodePlan, PlanError> {
        self.encoder.plan(cameras, frames, (self.architecture.text.width as f32).sqrt(), &self.weights)
    }

    /// The plan that reads what is seen, said and felt.
    ///
    /// # Errors
    /// As [`Network::encode`].
    pub fn prefix(&self, shape: Shape) -> Result<PrefixPlan, PlanError> {
        let (a, ids) = (&self.architecture, &self.ids);
        let layout = Prefix::new(a, shape);
        let (rows, requests) = (layout.rows, shape.requests);
        let mut b = Buffers::default();
        let embeddings = b.add("prefix embeddings", requests * rows, a.text.width);
        let states = b.add("states", requests, a.flow.max_state);
        let windows = a.sensors.as_ref().map(|s| b.add("sensor windows", requests * s.tokens, s.token_numbers()));
        let hidden = b.add("prefix hidden", requests * rows, a.text.width);
        let query = b.add("prefix queries", requests * rows, a.text.query_width());
        let scratch = self.text.scratch(&mut b, requests * rows);
        let caches: Vec<View> = (0..=a.last_text_layer())
            .map(|_| b.add("keys and values", requests * rows, 2 * a.text.kv_width()))
            .collect();

        let mut ops = Vec::new();
        let mut inputs = Vec::with_capacity(requests);
        for request in 0..requests {
            let embeddings = embeddings.rows(request * rows..(request + 1) * rows);
            let state = states.rows(request..request + 1);
            ops.push(linear(state, ids.state, embeddings.rows(rows - 1..rows)));
            let sensors = windows.zip(ids.sensors).map(|(windows, weights)| {
                let tokens = windows.rows / requests;
                let window = windows.rows(request * tokens..(request + 1) * tokens);
                ops.push(linear(window, weights, embeddings.rows(layout.sensors..layout.sensors + tokens)));
                window
            });
            let image = |&row: &usize| embeddings.rows(row..row + a.vision.tokens());
            inputs.push(PrefixInputs {
                images: layout.images.iter().map(image).collect(),
                specials: layout.specials.iter().map(|&(row, token)| (embeddings.rows(row..row + 1), token)).collect(),
                language: embeddings.rows(layout.language..layout.sensors),
                state,
                sensors,
            });
        }
        // Images and words see each other; sensors and the state see what stands before them, and only the likes of them
        // see them.
        let mask = Mask { open: layout.sensors, offset: 0 };
        let place = Place { batch: requests, first: 0, positions: rows };
        let mut stream = embeddings;
        for (layer, &cache) in ids.text.iter().zip(&caches) {
            ops.extend(self.text.text_layer(layer, &scratch, query, (stream, hidden), (cache, cache), mask, place));
            stream = hidden;
        }
        if let Some(&cache) = caches.last() {
            ops.extend(self.text.keys_values(ids.last_text, &scratch, stream, cache, place));
        }
        Ok(PrefixPlan {
            plan: b.plan("prefix", ops, &self.weights)?,
            requests: inputs,
            caches: by_request(&caches, shape),
        })
    }

    /// The plan that makes actions.
    ///
    /// # Errors
    /// As [`Network::encode`].
    pub fn denoise(&self, shape: Shape) -> Result<DenoisePlan, PlanError> {
        let (a, ids) = (&self.architecture, &self.ids);
        let (flow, d, requests) = (&a.flow, a.expert.width, shape.requests);
        let prefix_rows = Prefix::new(a, shape).rows;
        let (rows, kv, q) = (requests * flow.chunk, a.text.kv_width(), a.text.query_width());
        let mut b = Buffers::default();
        let caches: Vec<View> =
            (0..=a.last_text_layer()).map(|_| b.add("keys and values", requests * prefix_rows, 2 * kv)).collect();
        let actions = b.add("actions", rows, flow.max_action);
        let velocity = b.add("velocity", flow.steps * rows, flow.max_action);
        let times = b.constant("time embeddings", d, flow.time_embeddings(d));
        let time = b.add("time, mixed", flow.steps, d);
        let hidden = b.add("expert hidden", rows, d);
        let mixed_in = b.add("expert mixed in", rows, d);
        let projected = b.add("queries, keys and values", rows, q + 2 * kv);
        let scratch = self.expert.scratch(&mut b, rows);
        let query = projected.columns(0..q);

        // What every step uses and none changes: time embeddings, and keys and values of cross-attention.
        let mut ops = vec![linear(times, ids.mix_time, time)];
        let mut crosses = Vec::with_capacity(ids.expert.len());
        for (layer, weights) in a.expert.layers.iter().zip(&ids.expert) {
            let source = KeyValue::halves(caches[layer.text_layer]);
            crosses.push(match weights.project {
                Project::Joint { .. } => source,
                Project::Cross { key, value, .. } => {
                    let cross = KeyValue::halves(b.add("cross keys and values", requests * prefix_rows, 2 * kv));
                    ops.extend([matmul(source.key, key, cross.key), matmul(source.value, value, cross.value)]);
                    cross
                }
            });
        }

        for step in 0..flow.steps {
            ops.extend([
                linear(actions, ids.action_in, scratch.normed),
                Op::Gemm {
                    input: scratch.normed,
                    weight: ids.mix_action,
                    scale: 1.0,
                    bias: Some(Operand::View(time.rows(step..step + 1))),
                    activation: Activation::Silu,
                    residual: None,
                    output: mixed_in,
                },
                linear(mixed_in, ids.mix_out, hidden),
            ]);
            for (layer, &prefix) in ids.expert.iter().zip(&crosses) {
                ops.push(self.expert.norm(hidden, layer.norm, scratch.normed));
                let (mask, past, own) = match layer.project {
                    Project::Joint { query_key_value } => {
                        ops.push(matmul(scratch.normed, query_key_value, projected));
                        let place = Place { batch: requests, first: prefix_rows, positions: prefix_rows + flow.chunk };
                        ops.push(self.expert.rope(projected.columns(0..q + kv), place));
                        let own = KeyValue::halves(projected.columns(q..q + 2 * kv));
                        (Mask { open: prefix_rows, offset: prefix_rows }, Some(prefix), own)
                    }
                    Project::Cross { query: weight, .. } => {
                        ops.push(matmul(scratch.normed, weight, query));
                        let place = Place { batch: requests, first: 0, positions: flow.chunk };
                        ops.push(self.expert.rope(query, place));
                        (Mask { open: prefix_rows, offset: 0 }, None, prefix)
                    }
                };
                ops.push(self.expert.attention(requests, mask, query, past, own, scratch.mixed));
                ops.extend(self.expert.finish(layer.rest, &scratch, hidden, hidden));
            }
            let predicted = velocity.rows(step * rows..(step + 1) * rows);
            ops.push(self.expert.norm(hidden, ids.expert_norm, scratch.normed));
            ops.push(linear(scratch.normed, ids.action_out, predicted));
            ops.push(Op::Axpy { scale: (-1.0 / flow.steps as f64) as f32, input: predicted, output: actions });
        }
        Ok(DenoisePlan {
            plan: b.plan("denoise", ops, &self.weights)?,
            caches: by_request(&caches, shape),
            actions: (0..requests).map(|r| actions.rows(r * flow.chunk..(r + 1) * flow.chunk)).collect(),
            velocity: (0..flow.steps).map(|step| velocity.rows(step * rows..(step + 1) * rows)).collect(),
        })
    }
}

/// Each request's rows of each view.
fn by_request(views: &[View], shape: Shape) -> Vec<Vec<View>> {
    let of = |request: usize, view: &View| {
        let rows = view.rows / shape.requests;
        view.rows(request * rows..(request + 1) * rows)
    };
    (0..shape.requests).map(|request| views.iter().map(|view| of(request, view)).collect()).collect()
}

fn expert_layer(c: &mut Collector, module: &str, decoder: &Decoder, attention: ExpertAttention) -> ExpertLayer {
    let (q, kv, d) = (decoder.query_width, decoder.heads.key * decoder.heads.dim, decoder.width);
    let name = |part: &str| format!("{module}.{part}.weight");
    let [query, key, value] = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
    ExpertLayer {
        norm: c.vector(name("input_layernorm"), d),
        project: match attention {
            ExpertAttention::Joint => {
                Project::Joint { query_key_value: c.stack(vec![query, key, value], q + 2 * kv, d) }
            }
            ExpertAttention::Cross => Project::Cross {
                query: c.matrix(query, q, d),
                key: c.matrix(key, kv, kv),
                value: c.matrix(value, kv, kv),
            },
        },
        rest: decoder.rest(c, module),
    }
}

/// Where things stand in one request's prefix, by row; sensors and then the state come last.
struct Prefix {
    images: Vec<usize>,
    specials: Vec<(usize, SpecialToken)>,
    language: usize,
    sensors: usize,
    rows: usize,
}

impl Prefix {
    fn new(a: &Architecture, shape: Shape) -> Self {
        let (mut images, mut specials, mut row) = (Vec::new(), Vec::new(), 0);
        for image in 0..shape.cameras + shape.empty_cameras {
            if a.image_special_tokens {
                specials.extend([(row, SpecialToken::FakeImage), (row + 1, SpecialToken::GlobalImage)]);
                row += 2;
            }
            if image < shape.cameras {
                images.push(row);
                row += a.vision.tokens();
            }
            if a.image_special_tokens {
                specials.push((row, SpecialToken::FakeImage));
                row += 1;
            }
        }
        let sensors = row + shape.language_tokens;
        let rows = sensors + a.sensors.as_ref().map_or(0, |sensors| sensors.tokens) + 1;
        Self { images, specials, language: row, sensors, rows }
    }
}
