//! How well the perceptual hash finds what becomes of photos on the web, and what else it finds.
//!
//! `near_quality FOLDER [LIST]` hashes what `benches/near_quality.py FOLDER` has made and prints the tables of
//! `docs/BENCHMARKS.md`. With LIST it also prints the nearest LIST pairs of photos, to be looked at.

use std::fs;
use std::path::{Path, PathBuf};

use ddl::imaging::{ImagingOptions, PerceptualHashMode, process};
use ddl::model::PerceptualHash;
use ddl::near::is_flat;

/// Up to these distances matches are counted.
const DISTANCES: [u32; 10] = [0, 4, 8, 10, 12, 16, 20, 24, 32, 40];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("FOLDER [LIST]")?);
    let list: usize = arguments.next().map_or(Ok(0), |list| list.parse())?;
    let photos = hashes(&folder.join("photos"))?;
    let drawings = hashes(&folder.join("drawings"))?;
    let order = fs::read_to_string(folder.join("variants/order.txt"))?;

    println!("\n| transformation | median distance | {} |", row(DISTANCES.map(|d| format!("≤ {d}"))));
    println!("|---|---|{}", "---|".repeat(DISTANCES.len()));
    let (mut right, mut wrong) = ([0; DISTANCES.len()], [0; DISTANCES.len()]);
    for name in order.lines() {
        let variants = hashes(&folder.join("variants").join(name))?;
        let mut distances: Vec<u32> = Vec::new();
        for (place, (_, variant)) in variants.iter().enumerate() {
            for (other, (_, photo)) in photos.iter().enumerate() {
                let distance = distance(variant, photo);
                if other == place {
                    distances.push(distance);
                }
                count(if other == place { &mut right } else { &mut wrong }, distance);
            }
        }
        distances.sort_unstable();
        let recall = DISTANCES.map(|d| {
            let found = distances.iter().filter(|&&distance| distance <= d).count();
            format!("{:.3}", found as f64 / distances.len() as f64)
        });
        println!("| {name} | {} | {} |", distances[distances.len() / 2], row(recall));
    }
    let precision: Vec<String> =
        right.iter().zip(wrong).map(|(&right, wrong)| format!("{}/{}", wrong, right + wrong)).collect();
    println!("| *wrong of all matches* | | {} |", precision.join(" | "));

    println!(
        "\n| pairs of different pictures | pairs | mean | deviation | least | {} |",
        row(DISTANCES.map(|d| format!("≤ {d}")))
    );
    println!("|---|---|---|---|---|{}", "---|".repeat(DISTANCES.len()));
    for (name, set) in [("photos", &photos), ("drawings and cut-outs on white", &drawings)] {
        let mut pairs = pairs(set);
        pairs.sort_unstable();
        let counts =
            DISTANCES.map(|d| pairs.iter().take_while(|&&(distance, ..)| distance <= d).count().to_string());
        let sum = |power| pairs.iter().map(|&(distance, ..)| f64::from(distance).powi(power)).sum::<f64>();
        let mean = sum(1) / pairs.len() as f64;
        let deviation = (sum(2) / pairs.len() as f64 - mean * mean).sqrt();
        println!(
            "| {} {name} | {} | {mean:.0} | {deviation:.1} | {} | {} |",
            set.len(),
            pairs.len(),
            pairs[0].0,
            row(counts)
        );
        for &(distance, one, other) in pairs.iter().take(list) {
            println!("{distance} {} {}", set[one].0.display(), set[other].0.display());
        }
    }

    println!("\n| picture without content | bits set | flat | hash |\n|---|---|---|---|");
    for (path, hash) in hashes(&folder.join("flat"))? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("| {name} | {} | {} | `{hex}` |", distance(&hash, &[0; 32]), is_flat(&hash));
    }
    for (name, set) in [("photos", &photos), ("drawings and cut-outs", &drawings)] {
        let bits_set = set.iter().map(|(_, hash)| distance(hash, &[0; 32]));
        println!("{name}: {:?} to {:?} bits set", bits_set.clone().min(), bits_set.max());
    }
    Ok(())
}

fn row(cells: [String; DISTANCES.len()]) -> String {
    cells.join(" | ")
}

fn count(counts: &mut [u32; DISTANCES.len()], distance: u32) {
    for (count, d) in counts.iter_mut().zip(DISTANCES) {
        *count += u32::from(distance <= d);
    }
}

fn pairs(set: &[(PathBuf, PerceptualHash)]) -> Vec<(u32, usize, usize)> {
    let places = || 0..set.len();
    places()
        .flat_map(|one| (one + 1..set.len()).map(move |other| (one, other)))
        .map(|(one, other)| (distance(&set[one].1, &set[other].1), one, other))
        .collect()
}

fn distance(one: &PerceptualHash, other: &PerceptualHash) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

/// The hashes of all pictures in a folder, by name.
fn hashes(folder: &Path) -> Result<Vec<(PathBuf, PerceptualHash)>, Box<dyn std::error::Error>> {
    let options = ImagingOptions { perceptual_hash: PerceptualHashMode::Always, ..ImagingOptions::default() };
    let mut paths =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let hashed = paths.into_iter().map(|path| {
        let image = process(&fs::read(&path)?.into(), &options)?;
        let hash = image.perceptual_hash.ok_or("hashes are always made")?;
        Ok((path, hash))
    });
    hashed.collect()
}
