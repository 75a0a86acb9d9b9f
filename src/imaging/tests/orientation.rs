//! EXIF orientation: reported, and baked in when pixels are written.

use super::super::inspect;
use super::*;

const RED: [u8; 3] = [250, 10, 10];
const GREEN: [u8; 3] = [10, 250, 10];
const BLUE: [u8; 3] = [10, 10, 250];
const WHITE: [u8; 3] = [250, 250, 250];

/// For each EXIF value: the colours as shown (top left, top right, bottom left, bottom right) of a
/// picture stored as red, green, blue, white.
const SHOWN: [[[u8; 3]; 4]; 8] = [
    [RED, GREEN, BLUE, WHITE],
    [GREEN, RED, WHITE, BLUE],
    [WHITE, BLUE, GREEN, RED],
    [BLUE, WHITE, RED, GREEN],
    [RED, BLUE, GREEN, WHITE],
    [BLUE, RED, WHITE, GREEN],
    [WHITE, GREEN, BLUE, RED],
    [GREEN, WHITE, RED, BLUE],
];

#[test]
fn pixels_are_turned_as_shown() {
    let file = jpeg(&quarters(120, 80));
    for value in 1..=8 {
        let turned = with_exif(&file, &exif(value, b""));
        for (image_size, long, short) in [(0, 120, 80), (60, 60, 40)] {
            let image = run(&turned, &options(image_size, ImageEncoding::Raw)).unwrap();
            let (width, height) = if value < 5 { (long, short) } else { (short, long) };
            assert_eq!(image.resized_size, PixelSize { height, width }, "orientation {value}");
            let at = |x: u32, y: u32| {
                let pixel = &image.image[3 * (y * width + x) as usize..][..3];
                Rgb([pixel[2], pixel[1], pixel[0]])
            };
            let (left, right, top, bottom) = (width / 4, width * 3 / 4, height / 4, height * 3 / 4);
            let corners = [at(left, top), at(right, top), at(left, bottom), at(right, bottom)];
            for (got, expect) in corners.iter().zip(SHOWN[usize::from(value) - 1]) {
                assert_close(got, expect, &format!("orientation {value}"));
            }
        }
    }
}

#[test]
fn the_perceptual_hash_is_of_the_upright_picture() {
    let picture = texture(160, 120, 4);
    let upright = encoded(picture.clone(), image::ImageFormat::Tiff);
    let always = ImagingOptions {
        perceptual_hash: super::super::PerceptualHashMode::Always,
        ..ImagingOptions::default()
    };
    let expect = run(&upright, &always).unwrap().perceptual_hash.unwrap();
    // Stored turned to the left, to be shown turned to the right.
    let stored = image::imageops::rotate270(&picture);
    let turned = run(&with_exif(&jpeg(&stored), &exif(6, b"")), &always).unwrap();
    let distance: u32 =
        expect.iter().zip(turned.perceptual_hash.unwrap()).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert!(distance < 16, "{distance} bits differ");
}

#[test]
fn kept_bytes_report_the_size_as_shown() {
    let check = |name: &str, file: &[u8]| {
        let header = inspect(file).unwrap();
        assert_eq!(header.size, PixelSize { height: 90, width: 60 }, "{name}");
        assert!(!header.is_upright(), "{name}");
        let image = run(file, &options(0, ImageEncoding::Auto)).unwrap();
        assert_eq!((image.resized_size, image.image == file), (header.size, true), "{name}");
        // Baked in: what is written needs no turning.
        let png = run(file, &options(0, ImageEncoding::Png)).unwrap();
        assert_eq!(inspect(&png.image).unwrap().size, header.size, "{name}");
    };
    let picture = texture(90, 60, 1);
    let plain = jpeg(&picture);
    check("jpeg", &with_exif(&plain, &exif(6, b"")));
    // Other APP1 segments (XMP) come before or after.
    check(
        "jpeg with xmp",
        &with_segment(&with_exif(&plain, &exif(8, b"")), 0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    );

    let block = exif(6, b"");
    let png = encoded(picture.clone(), image::ImageFormat::Png);
    let mut chunk = (block.len() as u32).to_be_bytes().to_vec();
    let content = [b"eXIf", &block[..]].concat();
    chunk.extend_from_slice(&content);
    chunk.extend_from_slice(&crc32(&content).to_be_bytes());
    check("png", &[&png[..33], &chunk, &png[33..]].concat());

    let webp = encoded(picture.clone(), image::ImageFormat::WebP);
    let mut extended = b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0\x08\0\0\0".to_vec();
    extended.extend_from_slice(&[89, 0, 0, 59, 0, 0]);
    extended.extend_from_slice(&webp[12..]);
    extended.extend_from_slice(b"EXIF");
    extended.extend_from_slice(&(block.len() as u32).to_le_bytes());
    extended.extend_from_slice(&block);
    let riff_len = extended.len() as u32 - 8;
    extended[4..8].copy_from_slice(&riff_len.to_le_bytes());
    check("webp", &extended);

    let mut tiff = encoded(picture, image::ImageFormat::Tiff);
    // An orientation in the place of a tag that nobody needs (282, the horizontal resolution).
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes([tiff[directory], tiff[directory + 1]]));
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| tiff[at..at + 2] == [26, 1]).unwrap();
    tiff[entry..entry + 12].copy_from_slice(&[18, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0]);
    check("tiff", &tiff);
}

#[test]
fn broken_exif_is_upright() {
    let plain = jpeg(&texture(90, 60, 1));
    for block in [
        &b"MM\0\x2A"[..],
        b"II\x2A\0\xFF\xFF\xFF\xFF",
        b"",
        &exif(9, b""),
        &exif(0, b""),
        &exif(6, b"")[..12],
    ] {
        let header = inspect(&with_exif(&plain, block)).unwrap();
        assert!(header.is_upright(), "{}", block.escape_ascii());
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}
