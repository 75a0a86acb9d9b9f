//! Pictures from a seed: a toned ground, hills, a few organic shapes, sometimes a specimen label.
//!
//! Nothing is drawn larger than [`MAX_SIDE`] pixels; larger pictures are scaled up afterwards, so drawing
//! costs a few milliseconds at most, also in an unoptimised build. Sensor noise is added after scaling (see `photos`), since
//! it is what makes files grow as photos do.

use std::f32::consts::TAU;

use image::RgbImage;

use super::random::Dice;

/// Longest side of a drawing before it is scaled.
const MAX_SIDE: u16 = 192;

type Colour = [f32; 3];

/// Draws the picture of `seed` in the proportions of `width` and `height`, at that size or smaller.
pub(super) fn draw(seed: u64, width: u16, height: u16) -> RgbImage {
    let scale = (f32::from(MAX_SIDE) / f32::from(width.max(height).max(1))).min(1.0);
    let [width, height] = [width, height].map(|side| ((f32::from(side) * scale) as u32).max(1));
    let mut dice = Dice::new(seed);
    let mut canvas = RgbImage::new(width, height);
    let ground = Ground::roll(&mut dice);
    let texture = Noise::roll(&mut dice, 24);
    ground.paint(&mut canvas, &texture);
    if dice.below(3) == 0 {
        paint_hills(&mut canvas, &mut dice, &texture);
    }
    for _ in 0..=dice.below(4) {
        Shape::roll(&mut dice).paint(&mut canvas, &texture);
    }
    if dice.below(3) == 0 {
        paint_label(&mut canvas, &mut dice);
    }
    canvas
}

/// Smooth noise in `0.0..1.0` over the unit square.
struct Noise {
    cells: usize,
    values: Vec<f32>,
}

impl Noise {
    fn roll(dice: &mut Dice, cells: usize) -> Self {
        Self { cells, values: (0..(cells + 1) * (cells + 1)).map(|_| dice.unit()).collect() }
    }

    fn at(&self, u: f32, v: f32) -> f32 {
        let place = |t: f32| {
            let t = t.clamp(0.0, 0.9999) * self.cells as f32;
            // Not `fract`: without SSE 4.1 it is a call, and this is the innermost loop.
            let rest = t - (t as u32) as f32;
            (t as usize, rest * rest * (3.0 - 2.0 * rest))
        };
        let ((column, across), (row, down)) = (place(u), place(v));
        let corner = row * (self.cells + 1) + column;
        let above = blend(self.values[corner], self.values[corner + 1], across);
        let below = blend(self.values[corner + self.cells + 1], self.values[corner + self.cells + 2], across);
        blend(above, below, down)
    }
}

/// A gradient between two colours, made uneven by coarse noise.
struct Ground {
    from: Colour,
    to: Colour,
    direction: [f32; 2],
    clouds: Noise,
    uneven: f32,
    rough: f32,
}

impl Ground {
    fn roll(dice: &mut Dice) -> Self {
        let hue = dice.unit();
        let angle = dice.unit() * TAU;
        let [light, dark] = [dice.between(0.35, 1.0), dice.between(0.05, 0.8)];
        let saturation = dice.between(0.05, 0.7);
        Self {
            from: colour(hue, saturation, light),
            to: colour(hue + dice.between(-0.2, 0.2), saturation, dark),
            direction: [angle.cos(), angle.sin()],
            clouds: Noise::roll(dice, 3),
            uneven: dice.between(0.2, 0.9),
            rough: dice.between(0.02, 0.12),
        }
    }

    fn paint(&self, canvas: &mut RgbImage, texture: &Noise) {
        each_pixel(canvas, WHOLE, |u, v, pixel| {
            let along = (u - 0.5) * self.direction[0] + (v - 0.5) * self.direction[1] + 0.5;
            let tone = along + self.uneven * (self.clouds.at(u, v) - 0.5);
            let shade = 1.0 + self.rough * (texture.at(u, v) - 0.5);
            *pixel = to_rgb(mix_colours(self.from, self.to, tone.clamp(0.0, 1.0)), shade);
        });
    }
}

/// Two or three ridges, the nearer the darker.
fn paint_hills(canvas: &mut RgbImage, dice: &mut Dice, texture: &Noise) {
    let hue = dice.unit();
    let num_ridges = 2 + dice.below(2);
    for ridge in 0..num_ridges {
        let near = ridge as f32 / num_ridges as f32;
        let profile = Noise::roll(dice, 5);
        let (horizon, relief) = (0.4 + 0.45 * near, dice.between(0.1, 0.35));
        let tint = colour(hue + 0.05 * near, 0.3 + 0.4 * near, 0.7 - 0.5 * near);
        let top = horizon - relief;
        each_pixel(canvas, [0.0, top, 1.0, 1.0], |u, v, pixel| {
            if v > horizon + relief * (profile.at(u, 0.5) - 0.5) {
                *pixel = to_rgb(tint, 0.8 + 0.4 * texture.at(v, u));
            }
        });
    }
}

/// A closed outline in polar form: leaves, petals, shells and beetles are all radius over angle.
struct Shape {
    centre: [f32; 2],
    /// Half axes in units of the picture's shorter side.
    axes: [f32; 2],
    turn: f32,
    lobes: [(f32, f32, f32); 2],
    inner: Colour,
    outer: Colour,
    spots: f32,
}

impl Shape {
    fn roll(dice: &mut Dice) -> Self {
        let hue = dice.unit();
        let mut lobe = |reach: f32| (dice.below(9) as f32, dice.between(0.0, reach), dice.unit() * TAU);
        let lobes = [lobe(0.35), lobe(0.15)];
        let size = dice.between(0.1, 0.45);
        Self {
            centre: [dice.between(0.15, 0.85), dice.between(0.15, 0.85)],
            axes: [size, size * dice.between(0.35, 1.0)],
            turn: dice.unit() * TAU,
            lobes,
            inner: colour(hue, dice.between(0.3, 0.9), dice.between(0.4, 1.0)),
            outer: colour(hue + dice.between(-0.1, 0.1), dice.between(0.3, 0.9), dice.between(0.1, 0.6)),
            spots: dice.between(0.0, 0.8),
        }
    }

    fn radius(&self, angle: f32) -> f32 {
        self.lobes.iter().map(|(count, reach, phase)| reach * (count * angle + phase).cos()).sum::<f32>()
            + 1.0
    }

    fn paint(&self, canvas: &mut RgbImage, texture: &Noise) {
        let [width, height] = [canvas.width() as f32, canvas.height() as f32];
        let unit = width.min(height);
        let (sin, cos) = self.turn.sin_cos();
        // The lobes add at most a half to the longer half axis.
        let reach = 1.5 * self.axes[0] * unit;
        let ([u, v], across, down) = (self.centre, reach / width, reach / height);
        each_pixel(canvas, [u - across, v - down, u + across, v + down], |u, v, pixel| {
            let (dx, dy) = ((u - self.centre[0]) * width, (v - self.centre[1]) * height);
            let x = (dx * cos + dy * sin) / (self.axes[0] * unit);
            let y = (dy * cos - dx * sin) / (self.axes[1] * unit);
            let distance = (x * x + y * y).sqrt();
            if distance >= 1.5 {
                return;
            }
            let depth = distance / self.radius(y.atan2(x));
            if depth < 1.0 {
                let pattern = 1.0 - self.spots * (texture.at(x * 0.5 + 0.5, y * 0.5 + 0.5) - 0.3);
                *pixel = to_rgb(mix_colours(self.inner, self.outer, depth * depth), pattern);
            }
        });
    }
}

/// A paper label with lines of writing, as on a specimen sheet: hard edges for the encoders.
fn paint_label(canvas: &mut RgbImage, dice: &mut Dice) {
    let (left, top) = (dice.between(0.02, 0.6), dice.between(0.05, 0.75));
    let num_lines = 3.0 + dice.below(3) as f32;
    each_pixel(canvas, [left, top, left + 0.34, top + 0.2], |u, v, pixel| {
        let (x, y) = ((u - left) / 0.34, (v - top) / 0.2);
        let line = y * num_lines;
        let written = line.fract() > 0.6 && x > 0.06 && x < 0.6 + 0.3 * (line.floor() * 1.7).sin().abs();
        *pixel = if written { [52, 47, 44] } else { [238, 233, 219] };
    });
}

/// The unit square: left, top, right, bottom.
const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];

/// Calls `paint` with the place in the unit square of each pixel whose centre lies in `area`.
fn each_pixel(canvas: &mut RgbImage, area: [f32; 4], mut paint: impl FnMut(f32, f32, &mut [u8; 3])) {
    let (width, height) = (canvas.width() as usize, canvas.height() as usize);
    // `as` turns what is negative into 0.
    let range = |from: f32, to: f32, side: usize| {
        let place = |edge: f32| ((edge * side as f32 + 0.5) as usize).min(side);
        place(from)..place(to)
    };
    let (columns, rows) = (range(area[0], area[2], width), range(area[1], area[3], height));
    for y in rows {
        let v = (y as f32 + 0.5) / height as f32;
        let samples: &mut [u8] = canvas.as_mut();
        let line = &mut samples[3 * (y * width + columns.start)..3 * (y * width + columns.end)];
        for (x, pixel) in columns.clone().zip(line.as_chunks_mut().0) {
            paint((x as f32 + 0.5) / width as f32, v, pixel);
        }
    }
}

fn blend(from: f32, to: f32, part: f32) -> f32 {
    from + (to - from) * part
}

fn mix_colours(from: Colour, to: Colour, part: f32) -> Colour {
    std::array::from_fn(|channel| blend(from[channel], to[channel], part))
}

fn to_rgb(colour: Colour, shade: f32) -> [u8; 3] {
    // `as` saturates, so a shade above 1 ends at white.
    colour.map(|part| (part * shade * 255.0) as u8)
}

/// Hue (any number; one turn is 1), saturation and value to red, green, blue.
fn colour(hue: f32, saturation: f32, value: f32) -> Colour {
    std::array::from_fn(|channel| {
        let turn = (hue + 1.0 - channel as f32 / 3.0).rem_euclid(1.0) * 6.0;
        let pure = ((turn - 3.0).abs() - 1.0).clamp(0.0, 1.0);
        value * blend(1.0, pure, saturation)
    })
}
