//! PNG files to images.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Result;
use waza_model::Image;

use crate::fault::bad_input;

const WAY_OUT: &str = "give a PNG file of 8 or 16 bits a channel";
/// Bytes that decoding may take: an image of 8192 x 8192 pixels in four channels.
const MOST_BYTES: usize = 256 << 20;

/// The colours of a PNG file; transparency is dropped.
pub fn read_png(path: &Path) -> Result<Image> {
    let refuse = |cause: String| bad_input(cause, path.display(), WAY_OUT);
    let file = File::open(path).map_err(|error| refuse(format!("cannot read the picture ({error})")))?;
    let limits = png::Limits { bytes: MOST_BYTES };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| refuse(format!("no PNG file ({error})")))?;
    let size = reader.output_buffer_size().filter(|size| *size <= MOST_BYTES);
    let Some(size) = size else { return Err(refuse("the picture is too large".into())) };
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(|error| refuse(format!("a broken PNG file ({error})")))?;
    let channels = frame.color_type.samples();
    let pixels = bytes[..frame.buffer_size()].chunks_exact(channels);
    let rgb = pixels.flat_map(|pixel| if channels < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] });
    Image::new(frame.width, frame.height, rgb.collect()).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, colour: png::ColorType, bytes: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), 2, 1);
        encoder.set_color(colour);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    #[test]
    fn grey_coloured_and_transparent_pictures_become_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        let cases: [(png::ColorType, &[u8], [u8; 6]); 4] = [
            (png::ColorType::Grayscale, &[5, 9], [5, 5, 5, 9, 9, 9]),
            (png::ColorType::GrayscaleAlpha, &[5, 0, 9, 1], [5, 5, 5, 9, 9, 9]),
            (png::ColorType::Rgb, &[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
            (png::ColorType::Rgba, &[1, 2, 3, 0, 4, 5, 6, 0], [1, 2, 3, 4, 5, 6]),
        ];
        for (colour, bytes, rgb) in cases {
            write(&path, colour, bytes);
            assert_eq!(read_png(&path).unwrap().rgb(), rgb);
        }
    }

    #[test]
    fn what_is_no_picture_is_named_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        for bytes in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read_png(&path).unwrap_err());
            assert!(error.contains("picture.png") && error.contains(WAY_OUT), "{error}");
        }
    }
}
