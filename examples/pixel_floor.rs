//! The bare pixel loop: what resizing costs without a network, a hash, a file or a catalog.
//!
//! `pixel_floor FOLDER SIDE ROUNDS` decodes, shrinks and encodes every JPEG of a folder in memory on one thread, with
//! the libraries and settings that the downloader uses, called directly, and prints one line: images and CPU seconds.
//! `benches/peers.py` sets the downloader against the sum of this and of curl.

use std::fs;
use std::hint::black_box;

use fast_image_resize::images::{Image as Pixels, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use rustix::time::{ClockId, clock_gettime};
use turbojpeg::{Compressor, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, side, rounds] = &arguments[..] else { return Err("FOLDER SIDE ROUNDS".into()) };
    let (side, rounds): (usize, usize) = (side.parse()?, rounds.parse()?);
    let mut bodies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            bodies.push(fs::read(path)?);
        }
    }
    let mut floor = Floor::new()?;
    let before = cpu_seconds();
    for _ in 0..rounds {
        for body in &bodies {
            black_box(floor.thumbnail(body, side)?);
        }
    }
    println!("{} {:.3}", rounds * bodies.len(), cpu_seconds() - before);
    Ok(())
}

/// Everything that can be kept from one image to the next.
struct Floor {
    decompressor: Decompressor,
    compressor: Compressor,
    resizer: Resizer,
    decoded: Vec<u8>,
}

impl Floor {
    fn new() -> Result<Self, turbojpeg::Error> {
        let mut compressor = Compressor::new()?;
        compressor.set_quality(95)?;
        compressor.set_subsamp(Subsamp::Sub2x2)?;
        let (decompressor, resizer) = (Decompressor::new()?, Resizer::new());
        Ok(Self { decompressor, compressor, resizer, decoded: Vec::new() })
    }

    fn thumbnail(&mut self, body: &[u8], side: usize) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let header = self.decompressor.read_header(body)?;
        let longest = header.width.max(header.height);
        // The smallest scale that still has twice the target, as the downloader's default has it.
        let eighths = (1..=8).find(|eighths| longest * eighths / 8 >= 2 * side).unwrap_or(8);
        let scaling = ScalingFactor::new(eighths, 8);
        self.decompressor.set_scaling_factor(scaling)?;
        let (width, height) = (scaling.scale(header.width), scaling.scale(header.height));
        self.decoded.resize(3 * width * height, 0);
        let pixels = &mut self.decoded[..];
        self.decompressor
            .decompress(body, Image { pixels, width, pitch: 3 * width, height, format: PixelFormat::RGB })?;
        let shrink = |length: usize| u32::try_from((length * side / longest).max(1));
        let mut small = Pixels::new(shrink(header.width)?, shrink(header.height)?, PixelType::U8x3);
        let source =
            ImageRef::new(u32::try_from(width)?, u32::try_from(height)?, &self.decoded, PixelType::U8x3)?;
        let lanczos = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        self.resizer.resize(&source, &mut small, &lanczos)?;
        let (width, height) = (small.width() as usize, small.height() as usize);
        let pixels = small.buffer();
        Ok(self.compressor.compress_to_vec(Image {
            pixels,
            width,
            pitch: 3 * width,
            height,
            format: PixelFormat::RGB,
        })?)
    }
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
