//! Cut, crafted and damaged files.

use proptest::prelude::*;

use super::super::{decode_bytes_estimate, inspect};
use super::*;

#[test]
fn cut_files_are_refused_whatever_is_done_with_them() {
    for (name, file) in one_of_each() {
        for parts in 1..10 {
            let cut = &file[..file.len() * parts / 10];
            for options in [options(0, ImageEncoding::Auto), options(30, ImageEncoding::Auto)] {
                assert_eq!(cause(cut, &options), FailureCause::TruncatedImage, "{name}, {parts} tenths");
            }
        }
        // A TIFF may end with values that nobody needs.
        if name.starts_with("tiff") {
            continue;
        }
        let last_byte = &file[..file.len() - 1];
        assert_eq!(
            cause(last_byte, &options(0, ImageEncoding::Auto)),
            FailureCause::TruncatedImage,
            "{name}"
        );
    }
}

#[test]
fn a_thumbnails_end_is_not_the_images_end() {
    let thumbnail = jpeg(&texture(160, 120, 2));
    let file = with_exif(&jpeg(&texture(640, 480, 1)), &exif(1, &thumbnail));
    assert!(run(&file, &options(0, ImageEncoding::Auto)).is_ok());
    for len in [file.len() / 2, thumbnail.len() + 60, file.len() - 2] {
        assert_eq!(cause(&file[..len], &options(0, ImageEncoding::Auto)), FailureCause::TruncatedImage);
    }
}

#[test]
fn claims_of_enormous_size_are_refused_by_the_header() {
    let check = |name: &str, file: &[u8]| {
        for options in [options(0, ImageEncoding::Auto), options(100, ImageEncoding::Auto)] {
            assert_eq!(cause(file, &options), FailureCause::TooManyPixels, "{name}");
        }
    };
    let picture = texture(16, 16, 1);
    let mut png = encoded(picture.clone(), image::ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    check("png of 30,000 x 30,000", &png);

    let mut gif = encoded(DynamicImage::ImageRgb8(picture.clone()).to_rgba8(), image::ImageFormat::Gif);
    let frame = gif.iter().position(|&byte| byte == 0x2C).unwrap();
    let small_screen = gif.clone();
    gif[6..10].fill(0xFF);
    check("gif screen", &gif);
    gif = small_screen;
    assert_eq!(gif[frame + 5..frame + 9], [16, 0, 16, 0], "this is the frame");
    gif[frame + 5..frame + 9].fill(0xFF);
    check("gif frame beyond its screen", &gif);

    let webp = b"RIFF\x1E\0\0\0WEBPVP8X\x0A\0\0\0\0\0\0\0\xFF\xFF\x00\xFF\xFF\x00VP8L\0\0\0\0";
    check("webp canvas", webp);

    let mut tiff = encoded(picture.clone(), image::ImageFormat::Tiff);
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    for entry in [directory + 2, directory + 14] {
        tiff[entry + 2..entry + 12].copy_from_slice(&[4, 0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F]);
    }
    check("tiff", &tiff);

    let mut bmp = encoded(picture.clone(), image::ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0]);
    check("bmp", &bmp);

    let mut jpg = jpeg(&picture);
    let frame = jpg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpg[frame + 5..frame + 9].fill(0xFF);
    check("jpeg", &jpg);
}

/// Three times the pixels of 4294967295 x 4294967295 are more than 64 bits hold: the estimate panicked on it in
/// builds that check for overflow, outside of what catches panics, and a run ended.
#[test]
fn the_largest_claims_have_no_estimate_and_overflow_nothing() {
    let picture = texture(16, 16, 1);
    let mut png = encoded(picture.clone(), image::ImageFormat::Png);
    png[16..24].fill(0xFF);
    let mut tiff = encoded(picture, image::ImageFormat::Tiff);
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    for entry in [directory + 2, directory + 14] {
        tiff[entry + 2..entry + 12].copy_from_slice(&[4, 0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    for file in [png, tiff] {
        assert_eq!(inspect(&file).unwrap().size, PixelSize { height: u32::MAX, width: u32::MAX });
        for encoding in [ImageEncoding::Jpeg, ImageEncoding::Png, ImageEncoding::Webp, ImageEncoding::Raw] {
            for image_size in [0, 1, u32::MAX - 1] {
                let options = options(image_size, encoding);
                assert_eq!(decode_bytes_estimate(&file, &options), 0, "it is refused by its header");
                assert_eq!(cause(&file, &options), FailureCause::TooManyPixels);
                let boundless = ImagingOptions { max_image_pixels: u64::MAX, ..options };
                let estimate = decode_bytes_estimate(&file, &boundless);
                assert!(matches!(estimate, 0 | u64::MAX), "kept, or too much for 64 bits: {estimate}");
            }
        }
    }
}

#[test]
fn contradictions_and_oddities_have_their_cause() {
    let picture = texture(16, 16, 1);
    let auto = options(0, ImageEncoding::Auto);
    let mut jpg = jpeg(&picture);
    let frame = jpg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let mut arithmetic = jpg.clone();
    arithmetic[frame + 1] = 0xC9;
    assert_eq!(cause(&arithmetic, &auto), FailureCause::UnsupportedFormat);
    let mut deep = jpg.clone();
    deep[frame + 4] = 12;
    assert_eq!(cause(&deep, &auto), FailureCause::UnsupportedFormat);
    jpg[frame + 5..frame + 9].fill(0);
    assert_eq!(cause(&jpg, &auto), FailureCause::BadImage);

    // The canvas says 16 x 16, the bitstream something else.
    let webp = encoded(picture.clone(), image::ImageFormat::WebP);
    let mut crafted = b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0\0\0\0\0\x08\0\0\x08\0\0".to_vec();
    crafted.extend_from_slice(&webp[12..]);
    let riff_len = crafted.len() as u32 - 8;
    crafted[4..8].copy_from_slice(&riff_len.to_le_bytes());
    assert_eq!(cause(&crafted, &auto), FailureCause::BadImage);

    assert_eq!(cause(b"", &auto), FailureCause::EmptyBody);
    assert_eq!(cause(b"<!doctype html><title>gone</title>", &auto), FailureCause::NotAnImage);

    // A strip of 100 million pixels is within `max_image_pixels`, and resizing it took 6 GB.
    let strip = encoded(RgbImage::new(70_000, 1), image::ImageFormat::Png);
    assert_eq!(cause(&strip, &auto), FailureCause::TooManyPixels);
    let wide = encoded(RgbImage::new(20_000, 1), image::ImageFormat::Png);
    assert_eq!(cause(&wide, &options(0, ImageEncoding::Webp)), FailureCause::EncodeError);
}

#[test]
fn a_panic_is_an_error_of_the_image() {
    let error =
        super::super::pipeline::catch_panic::<()>(|| panic!("index {} out of bounds", 7)).unwrap_err();
    assert_eq!(error.cause, FailureCause::DecoderPanic);
    assert!(error.message.contains("index 7 out of bounds"), "{error}");
}

/// Whatever comes in: no panic passes, what is accepted keeps its promises, and what is refused has
/// a cause of this room.
fn check_any(file: &[u8]) {
    // Small limits, so that damaged sizes cost the test no time.
    let base = ImagingOptions { max_image_pixels: 40_000, ..ImagingOptions::default() };
    for (image_size, image_encoding) in
        [(0, ImageEncoding::Auto), (25, ImageEncoding::Auto), (0, ImageEncoding::Raw)]
    {
        let options = ImagingOptions { image_size, image_encoding, ..base.clone() };
        match run(file, &options) {
            Ok(image) => {
                assert!(image.original_size.pixels() <= base.max_image_pixels);
                assert!(image.resized_size.pixels() > 0);
                assert!(image_size == 0 || image.resized_size.longest_side() <= image_size);
                let header = inspect(file).unwrap();
                assert_eq!(header.size, image.original_size);
                // 40,000 pixels of 64 bytes and some fixed tables: no crafted header asks for more.
                assert!(decode_bytes_estimate(file, &options) < 16 << 20);
                if image_encoding == ImageEncoding::Raw {
                    assert_eq!(image.image.len() as u64, 3 * image.resized_size.pixels());
                }
            }
            Err(error) => {
                assert!((32..48).contains(&(error.cause as u8)), "{error:?}");
                assert!(!error.message.is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_survived(
        which in 0..15_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        head_edits in prop::collection::vec((0..64_usize, any::<u8>()), 0..3),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = one_of_each().swap_remove(which).1;
        for (index, value) in edits {
            let len = file.len();
            file[index.index(len)] = value;
        }
        for (at, value) in head_edits {
            if let Some(byte) = file.get_mut(at) { *byte = value }
        }
        if let Some(keep) = keep {
            file.truncate(keep.index(file.len()));
        }
        check_any(&file);
    }

    #[test]
    fn random_bytes_are_survived(
        magic in prop::sample::select(vec![
            &b""[..], b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR", b"GIF89a", b"RIFF\xFF\0\0\0WEBPVP8 ",
            b"RIFF\xFF\0\0\0WEBPVP8X", b"II\x2A\0\x08\0\0\0", b"MM\0\x2A\0\0\0\x08", b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        check_any(&[magic, &rest[..]].concat());
    }
}
