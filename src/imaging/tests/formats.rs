//! Each format in, each encoding out.

use image::{GrayImage, Rgba, RgbaImage};

use super::super::{inspect, process_raw, verify_image, verify_raw};
use super::*;
use crate::model::{HashAlgorithm, ImageFormat};

#[test]
fn every_format_is_shrunk_to_a_jpeg() {
    for (name, file) in one_of_each() {
        let header = inspect(&file).unwrap();
        let image = run(&file, &options(30, ImageEncoding::Auto)).unwrap();
        let expect = if header.is_upright() { (20, 30) } else { (30, 20) };
        assert_eq!((image.resized_size.height, image.resized_size.width), expect, "{name}");
        assert_eq!(image.original_size, header.size, "{name}");
        assert_eq!(image.image_format, ImageFormat::Jpeg, "{name}");
        let stored = inspect(&image.image).unwrap();
        assert_eq!((stored.size, stored.is_upright()), (image.resized_size, true), "{name}");
        assert_eq!(image.hashsum_original, HashAlgorithm::Blake3.digest(&file), "{name}");
        assert_eq!(image.hashsum_resized, HashAlgorithm::Blake3.digest(&image.image), "{name}");
        assert!(image.perceptual_hash.is_some(), "{name}");
        verify_image(&image.image, &ImagingOptions::default()).unwrap();
    }
}

#[test]
fn one_colour_is_blank_in_every_format() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let plain = RgbImage::from_pixel(33, 20, Rgb([200, 30, 77]));
    let mut spotted = plain.clone();
    spotted.put_pixel(32, 19, Rgb([0, 255, 0]));
    let size = PixelSize { height: 20, width: 33 };
    let options = ImagingOptions::default();
    for format in [Bmp, Gif, Jpeg, Png, Tiff, WebP] {
        for (picture, is_blank) in [(&plain, true), (&spotted, false)] {
            let seen = verify_image(&encoded(picture.clone(), format), &options).unwrap();
            assert_eq!((seen.size, seen.is_blank), (size, is_blank), "{format:?}");
        }
    }
    assert!(verify_raw(plain.as_raw(), size, &options).unwrap().is_blank);
    assert!(!verify_raw(spotted.as_raw(), size, &options).unwrap().is_blank);
    let short = verify_raw(&plain.as_raw()[3..], size, &options).unwrap_err();
    assert_eq!(short.cause, FailureCause::TruncatedImage);
    let nothing = verify_raw(b"", PixelSize { height: 0, width: 7 }, &options).unwrap_err();
    assert_eq!(nothing.cause, FailureCause::TruncatedImage);
}

#[test]
fn received_bytes_are_kept_when_nothing_is_to_be_done() {
    for (name, file) in one_of_each() {
        let body = Bytes::from(file);
        for options in [
            options(0, ImageEncoding::Auto),
            options(90, ImageEncoding::Auto),
            options(30, ImageEncoding::Original),
        ] {
            let image = process(&body, &options).unwrap();
            assert_eq!(image.image.as_ptr(), body.as_ptr(), "{name}: a clone of the handle, no copy");
            assert_eq!(image.image.len(), body.len(), "{name}");
            assert_eq!(image.resized_size, image.original_size, "{name}");
            assert_eq!(image.hashsum_resized, image.hashsum_original, "{name}");
            assert_eq!(image.perceptual_hash, None, "{name}");
        }
    }
}

#[test]
fn an_encoding_is_satisfied_by_its_own_format() {
    let check = |file: &[u8], encoding, expect_format, expect_kept| {
        let image = run(file, &options(0, encoding)).unwrap();
        assert_eq!((image.image_format, image.image == file), (expect_format, expect_kept), "{encoding:?}");
    };
    let picture = texture(40, 30, 1);
    let (jpg, png, webp) = (
        jpeg(&picture),
        encoded(picture.clone(), image::ImageFormat::Png),
        encoded(picture.clone(), image::ImageFormat::WebP),
    );
    check(&jpg, ImageEncoding::Jpeg, ImageFormat::Jpeg, true);
    check(&with_exif(&jpg, &exif(1, b"")), ImageEncoding::Jpeg, ImageFormat::Jpeg, true);
    check(&with_exif(&jpg, &exif(3, b"")), ImageEncoding::Jpeg, ImageFormat::Jpeg, false);
    check(&png, ImageEncoding::Jpeg, ImageFormat::Jpeg, false);
    check(&png, ImageEncoding::Png, ImageFormat::Png, true);
    check(&jpg, ImageEncoding::Png, ImageFormat::Png, false);
    check(&webp, ImageEncoding::Webp, ImageFormat::Webp, true);
    check(&jpg, ImageEncoding::Webp, ImageFormat::Webp, false);
}

#[test]
fn lossless_encodings_lose_nothing() {
    let picture = texture(61, 47, 3);
    let file = encoded(picture.clone(), image::ImageFormat::Bmp);
    for encoding in [ImageEncoding::Png, ImageEncoding::Webp] {
        let image = run(&file, &options(0, encoding)).unwrap();
        assert!(pixels(&image.image) == picture, "{encoding:?}");
    }
    let raw = run(&file, &options(0, ImageEncoding::Raw)).unwrap();
    assert_eq!(raw.image_format, ImageFormat::Raw);
    let bgr: Vec<u8> = picture.pixels().flat_map(|&Rgb([r, g, b])| [b, g, r]).collect();
    assert!(raw.image == bgr, "height x width x 3, blue first, nothing else");
    assert_eq!(raw.hashsum_resized, HashAlgorithm::Blake3.digest(&bgr));
}

#[test]
fn stored_raw_pixels_are_resized_again() {
    let file = encoded(texture(60, 40, 3), image::ImageFormat::Png);
    let once = run(&file, &options(0, ImageEncoding::Raw)).unwrap();
    let raw = options(30, ImageEncoding::Raw);
    let twice = process_raw(&once.image, once.resized_size, &raw).unwrap();
    let direct = run(&file, &raw).unwrap();
    assert!(twice.image == direct.image);
    assert_eq!(twice.perceptual_hash, direct.perceptual_hash);
    let kept = process_raw(&twice.image, twice.resized_size, &raw).unwrap();
    assert_eq!(kept.image.as_ptr(), twice.image.as_ptr());
    let wrong = PixelSize { height: 21, width: 30 };
    assert_eq!(process_raw(&twice.image, wrong, &raw).unwrap_err().cause, FailureCause::TruncatedImage);
}

#[test]
fn colours_come_out_right() {
    let picture = quarters(64, 64);
    let dynamic = DynamicImage::ImageRgb8(picture.clone());
    let files = [
        ("jpeg", jpeg(&picture)),
        ("png of 16 bits", encoded(dynamic.to_rgb16(), image::ImageFormat::Png)),
        ("webp", encoded(picture.clone(), image::ImageFormat::WebP)),
        ("gif", encoded(dynamic.to_rgba8(), image::ImageFormat::Gif)),
        ("tiff", encoded(dynamic.to_rgb16(), image::ImageFormat::Tiff)),
        ("bmp", encoded(picture.clone(), image::ImageFormat::Bmp)),
    ];
    for (name, file) in files {
        let got = pixels(&file);
        for (x, y) in [(16, 16), (48, 16), (16, 48), (48, 48)] {
            assert_close(got.get_pixel(x, y), picture.get_pixel(x, y).0, name);
        }
    }
}

#[test]
fn grey_and_cmyk_become_rgb() {
    let grey = GrayImage::from_pixel(32, 32, image::Luma([77]));
    assert_close(
        pixels(&encoded(grey.clone(), image::ImageFormat::Png)).get_pixel(5, 5),
        [77; 3],
        "grey png",
    );
    let file = jpeg_of(grey.as_raw(), 32, 32, ColorType::Luma, false);
    assert_close(pixels(&file).get_pixel(5, 5), [77; 3], "grey jpeg");
    for color in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        // Full cyan, half black: half of (0, 255, 255).
        let ink: Vec<u8> = [255, 0, 0, 128].repeat(32 * 32);
        assert_close(pixels(&jpeg_of(&ink, 32, 32, color, false)).get_pixel(5, 5), [0, 127, 127], "cmyk");
    }
}

#[test]
fn transparency_is_laid_on_white() {
    let half_red = RgbaImage::from_pixel(16, 16, Rgba([255, 0, 0, 128]));
    for format in [image::ImageFormat::Png, image::ImageFormat::WebP, image::ImageFormat::Tiff] {
        assert_close(pixels(&encoded(half_red.clone(), format)).get_pixel(3, 3), [255, 127, 127], "half red");
    }
    let clear = RgbaImage::from_pixel(16, 16, Rgba([9, 9, 9, 0]));
    assert_close(pixels(&encoded(clear, image::ImageFormat::Gif)).get_pixel(3, 3), [255; 3], "clear gif");
}

#[test]
fn harmless_disorder_is_accepted_by_both_builds() {
    let picture = quarters(64, 48);
    let file = jpeg(&picture);
    let with_zeros = [&file[..], &[0; 4096]].concat();
    let mut before_end = file.clone();
    before_end.splice(file.len() - 2..file.len() - 2, [0; 7]);
    let between_segments = [&file[..20], &[0x11; 9], &file[20..]].concat();
    assert_eq!(file[20], 0xFF, "JFIF ends here");
    for (name, file) in
        [("zeros behind", with_zeros), ("zeros before the end", before_end), ("between", between_segments)]
    {
        for options in [options(0, ImageEncoding::Auto), options(32, ImageEncoding::Auto)] {
            run(&file, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_close(pixels(&file).get_pixel(5, 5), [250, 10, 10], name);
    }
}
