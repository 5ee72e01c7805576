//! Observations as messages that people's tools draw.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use waza_robot::{Embodiment, Image, Observation};

/// A topic of which there is one message an observation.
pub(crate) struct Topic {
    pub name: String,
    pub schema: &'static str,
    pub shape: Value,
}

/// Of the joints, of every sensor, of every camera: in this order.
pub(crate) fn topics(robot: &Embodiment) -> Vec<Topic> {
    let numbers = || json!({ "type": "array", "items": { "type": "number" } });
    let words = || json!({ "type": "array", "items": { "type": "string" } });
    let shape = |properties: Value| json!({ "type": "object", "properties": properties });
    let instant = json!({
        "type": "object", "title": "time", "properties": { "sec": { "type": "integer" }, "nsec": { "type": "integer" } },
    });
    let joints = Topic {
        name: crate::JOINTS.into(),
        schema: "waza.Joints",
        shape: shape(json!({
            "observation": { "type": "integer" }, "names": words(), "positions": numbers(), "velocities": numbers(),
            "efforts": numbers(),
        })),
    };
    let sensors = robot.sensors.iter().map(|sensor| Topic {
        name: format!("/sensors/{}", sensor.name),
        schema: "waza.Window",
        shape: shape(json!({
            "channels": words(), "unit": { "type": "string" }, "first_ns": { "type": "integer" },
            "rate_hz": { "type": "number" }, "newest": numbers(), "values": numbers(),
        })),
    });
    let cameras = robot.cameras.iter().map(|camera| Topic {
        name: format!("/cameras/{}", camera.name),
        schema: "foxglove.CompressedImage",
        shape: shape(json!({
            "timestamp": instant, "frame_id": { "type": "string" },
            "data": { "type": "string", "contentEncoding": "base64" }, "format": { "type": "string" },
        })),
    });
    std::iter::once(joints).chain(sensors).chain(cameras).collect()
}

/// One message a topic, none where a sensor is silent or a camera has lost its frame. Draws the frames.
pub(crate) fn messages(robot: &Embodiment, number: u32, seen: &Observation) -> Vec<Option<Vec<u8>>> {
    let names: Vec<_> = robot.joints.iter().map(|joint| &joint.name).collect();
    let joints = json!({
        "observation": number, "names": names, "positions": seen.joints.positions,
        "velocities": seen.joints.velocities, "efforts": seen.joints.efforts,
    });
    let sensors = robot.sensors.iter().enumerate().map(|(index, sensor)| {
        seen.windows.get(index).map(|window| {
            let newest = window.values.len().saturating_sub(window.channels);
            json!({
                "channels": sensor.channels, "unit": sensor.unit, "first_ns": window.first_ns,
                "rate_hz": window.rate_hz, "newest": window.values[newest..], "values": window.values,
            })
        })
    });
    let cameras = robot.cameras.iter().enumerate().map(|(index, camera)| {
        let png = png(seen.frames.get(index)?.image().ok()?)?;
        Some(json!({
            "timestamp": { "sec": seen.taken_ns / 1_000_000_000, "nsec": seen.taken_ns % 1_000_000_000 },
            "frame_id": camera.name, "data": BASE64_STANDARD.encode(png), "format": "png",
        }))
    });
    let all = std::iter::once(Some(joints)).chain(sensors).chain(cameras);
    all.map(|message| message.map(|message| message.to_string().into_bytes())).collect()
}

/// About how many bytes an observation keeps in memory once its frames are drawn.
pub(crate) fn weight(robot: &Embodiment, seen: &Observation) -> usize {
    let pixels: usize = robot.cameras.iter().map(|camera| camera.width as usize * camera.height as usize * 3).sum();
    let samples: usize = seen.windows.iter().map(|window| window.values.len() * 4).sum();
    pixels + samples + seen.joints.positions.len() * 12 + 256
}

/// None for an image whose bytes do not fit its sides.
fn png(image: &Image) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width, image.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().ok()?.write_image_data(&image.rgb).ok()?;
    Some(bytes)
}
