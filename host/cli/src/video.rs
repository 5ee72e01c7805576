//! Pictures in, an mp4 file's bytes out: H.264 in its constrained baseline profile, which every browser and player takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muxide::api::{Muxer, MuxerBuilder, VideoCodec};
use rusty_h264_common::YuvFrame;
use rusty_h264_encoder::{Encoder, EncoderConfig, Preset};
use waza_robot::Image;

/// Constant quantiser: no visible artefacts on flat colours, a few hundred kB a minute.
const QP: u8 = 24;

/// A video that grows by one picture at a time, in memory.
pub struct Video {
    encoder: Encoder,
    muxer: Muxer<Vec<u8>>,
    size: [u32; 2],
    rate_hz: f64,
    frames: u32,
}

impl Video {
    /// An empty video. Sides are multiples of 16, the size of a macroblock.
    pub fn new(width: u32, height: u32, rate_hz: f64) -> Result<Self> {
        ensure!(
            width.is_multiple_of(16) && height.is_multiple_of(16),
            "a video of {width}x{height} pixels: sides are multiples of 16"
        );
        let mut config = EncoderConfig::baseline(width as usize, height as usize);
        config.preset = Preset::Balanced;
        config.qp = QP;
        config.gop_size = (2.0 * rate_hz).ceil() as u32;
        config.framerate = rate_hz as f32;
        let encoder = Encoder::new(config).context("starting the video encoder")?;
        let muxer = MuxerBuilder::new(Vec::new())
            .video(VideoCodec::H264, width, height, rate_hz)
            .with_fast_start(true)
            .build()
            .context("starting the video file")?;
        Ok(Self { encoder, muxer, size: [width, height], rate_hz, frames: 0 })
    }

    /// Adds a picture, which is shown for one period.
    pub fn push(&mut self, picture: &Image) -> Result<()> {
        let Self { size: [width, height], .. } = *self;
        ensure!([picture.width, picture.height] == self.size, "a picture of another size than the video's");
        let bytes = self.encoder.try_encode(&yuv_from_rgb(picture)).context("encoding a picture")?;
        ensure!(!bytes.is_empty(), "the encoder kept a {width}x{height} picture back");
        let shown = f64::from(self.frames) / self.rate_hz;
        self.muxer.write_video(shown, &bytes, has_keyframe(&bytes)).context("adding a picture to the video file")?;
        self.frames += 1;
        Ok(())
    }

    /// How long it plays.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.frames) / self.rate_hz)
    }

    /// The file's bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.muxer.finish_in_place().context("finishing the video file")?;
        Ok(self.muxer.into_writer())
    }
}

/// Whether an Annex B access unit holds a picture that decodes by itself: a NAL unit of type 5.
fn has_keyframe(access_unit: &[u8]) -> bool {
    access_unit.windows(4).any(|bytes| bytes[..3] == [0, 0, 1] && bytes[3] & 0x1f == 5)
}

/// ITU-R BT.601, limited range, each 2x2 block's chroma averaged: what players assume of a video that says nothing else.
fn yuv_from_rgb(picture: &Image) -> YuvFrame {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let pixel = |x: usize, y: usize| {
        let at = (y * width + x) * 3;
        [0, 1, 2].map(|channel| i32::from(picture.rgb[at + channel]))
    };
    let mut yuv = YuvFrame::black(width, height);
    for y in 0..height {
        for x in 0..width {
            let [r, g, b] = pixel(x, y);
            yuv.y[y * width + x] = (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8;
        }
    }
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            let block = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| pixel(2 * x + dx, 2 * y + dy));
            let [r, g, b] = [0, 1, 2].map(|channel| block.iter().map(|rgb| rgb[channel]).sum::<i32>() / 4);
            yuv.u[y * (width / 2) + x] = (((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128) as u8;
            yuv.v[y * (width / 2) + x] = (((112 * r - 94 * g - 18 * b + 128) >> 8) + 128) as u8;
        }
    }
    yuv
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of the first box of that kind on a path of nested boxes.
    fn find<'a>(mut bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
        let (kind, rest) = path.split_first()?;
        while bytes.len() >= 8 {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            let payload = bytes.get(8..length)?;
            if &bytes[4..8] == *kind {
                return if rest.is_empty() { Some(payload) } else { find(payload, rest) };
            }
            bytes = &bytes[length..];
        }
        None
    }

    fn word(payload: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
    }

    fn square(at: u32) -> Image {
        let inside = |x: u32, y: u32| (at..at + 16).contains(&x) && (8..24).contains(&y);
        let colour = |x, y| if inside(x, y) { [220, 30, 30] } else { [90, 120, 90] };
        let rgb: Vec<u8> = (0..48).flat_map(|y| (0..64).flat_map(move |x| colour(x, y))).collect();
        Image { width: 64, height: 48, rgb: rgb.into() }
    }

    #[test]
    fn a_file_holds_every_picture_for_its_period_and_starts_with_what_a_player_needs_first() {
        let mut video = Video::new(64, 48, 10.0).unwrap();
        for at in 0..25 {
            video.push(&square(at)).unwrap();
        }
        assert_eq!(video.duration(), Duration::from_millis(2500));
        let file = video.finish().unwrap();

        let position = |kind: &[u8]| file.windows(4).position(|bytes| bytes == kind).unwrap();
        assert!(position(b"moov") < position(b"mdat"), "a browser must not wait for the whole file");
        let header = find(&file, &[b"moov", b"trak", b"mdia", b"mdhd"]).unwrap();
        let seconds = f64::from(word(header, 16)) / f64::from(word(header, 12));
        assert!((seconds - 2.5).abs() < 0.01, "{seconds}");
        let sizes = find(&file, &[b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz"]).unwrap();
        assert_eq!(word(sizes, 8), 25);
        let keyframes = find(&file, &[b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stss"]).unwrap();
        assert_eq!([word(keyframes, 4), word(keyframes, 8), word(keyframes, 12)], [2, 1, 21]);
    }

    #[test]
    fn primary_colours_land_on_their_bt601_values() {
        let flat = |rgb: [u8; 3]| {
            let yuv = yuv_from_rgb(&Image { width: 2, height: 2, rgb: rgb.repeat(4).into() });
            [yuv.y[0], yuv.u[0], yuv.v[0]]
        };
        assert_eq!(flat([255, 255, 255]), [235, 128, 128]);
        assert_eq!(flat([0, 0, 0]), [16, 128, 128]);
        assert_eq!(flat([255, 0, 0]), [82, 90, 240]);
        assert_eq!(flat([0, 0, 255]), [41, 240, 110]);
    }

    #[test]
    fn a_picture_of_another_size_is_refused() {
        assert!(Video::new(64, 50, 10.0).is_err());
        assert!(Video::new(64, 64, 10.0).unwrap().push(&square(0)).is_err());
    }
}
