//! Perceptual hashes.

use super::super::PerceptualHashMode;
use super::*;
use crate::model::PerceptualHash;

fn hash_of(file: &[u8], image_size: u32) -> PerceptualHash {
    let options = ImagingOptions {
        image_size,
        perceptual_hash: PerceptualHashMode::Always,
        ..ImagingOptions::default()
    };
    run(file, &options).unwrap().perceptual_hash.unwrap()
}

fn distance(a: PerceptualHash, b: PerceptualHash) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

#[test]
fn modes() {
    let file = jpeg(&texture(90, 60, 1));
    let has_hash = |image_size, perceptual_hash| {
        let options = ImagingOptions { image_size, perceptual_hash, ..ImagingOptions::default() };
        run(&file, &options).unwrap().perceptual_hash.is_some()
    };
    assert!(!has_hash(0, PerceptualHashMode::Auto));
    assert!(has_hash(30, PerceptualHashMode::Auto));
    assert!(has_hash(0, PerceptualHashMode::Always));
    assert!(!has_hash(30, PerceptualHashMode::Never));
}

#[test]
fn near_pictures_are_near_and_others_far() {
    let picture = texture(640, 480, 1);
    let file = jpeg(&picture);
    let whole = hash_of(&encoded(picture.clone(), image::ImageFormat::Png), 0);
    for image_size in [0, 512, 200, 100] {
        let near = distance(whole, hash_of(&file, image_size));
        assert!(near <= 16, "{near} bits differ at {image_size}");
    }
    let mut brighter = picture;
    brighter
        .pixels_mut()
        .for_each(|pixel| pixel.0.iter_mut().for_each(|value| *value = value.saturating_add(12)));
    assert!(distance(whole, hash_of(&jpeg(&brighter), 0)) <= 32);
    for seed in 2..6 {
        let far = distance(whole, hash_of(&jpeg(&texture(640, 480, seed)), 0));
        assert!(far >= 64, "only {far} bits differ from picture {seed}");
    }
}

#[test]
fn the_hash_is_balanced_and_stable() {
    let file = encoded(texture(64, 64, 1), image::ImageFormat::Png);
    let hash = hash_of(&file, 0);
    // Half of the frequencies lie at or above their median.
    assert_eq!(distance(hash, [0; 32]), 128);
    // A change here makes hashes of old and new datasets incomparable: it needs a note to users.
    let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, "3b0b9f0083c816594330d6d19cff618bdcd1443adc74f8b84c7db1d9eca2cb17");
}
