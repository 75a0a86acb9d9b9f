//! Sizes of what is stored.

use super::*;
use crate::imaging::raw_bytes_estimate;

fn stored_size(width: u32, height: u32, image_size: u32, encoding: ImageEncoding) -> (u32, u32) {
    let file = encoded(texture(width, height, 1), image::ImageFormat::Png);
    let image = run(&file, &options(image_size, encoding)).unwrap();
    assert_eq!(image.original_size, PixelSize { height, width });
    (image.resized_size.width, image.resized_size.height)
}

#[test]
fn never_up_and_never_to_nothing() {
    let auto = ImageEncoding::Auto;
    assert_eq!(stored_size(300, 200, 100, auto), (100, 66)); // 66.67, cut off
    assert_eq!(stored_size(200, 300, 100, auto), (66, 100));
    assert_eq!(stored_size(40, 30, 100, auto), (40, 30));
    assert_eq!(stored_size(40, 30, 100, ImageEncoding::Jpeg), (40, 30));
    assert_eq!(stored_size(3000, 2, 100, auto), (100, 1));
    assert_eq!(stored_size(300, 200, 100, ImageEncoding::Original), (300, 200));
    assert_eq!(stored_size(300, 200, 0, ImageEncoding::Raw), (300, 200));
}

#[test]
fn a_square_is_cut_out_of_the_middle_or_gets_a_white_border() {
    use super::super::ResizeMode::{Border, CenterCrop};
    let raw = |file: &[u8], resize_mode| {
        let options = ImagingOptions { resize_mode, ..options(60, ImageEncoding::Raw) };
        let image = run(file, &options).unwrap();
        assert_eq!(image.resized_size, PixelSize { height: 60, width: 60 });
        let bytes = image.image;
        move |x: usize, y: usize| {
            let at = 3 * (60 * y + x);
            Rgb([bytes[at + 2], bytes[at + 1], bytes[at]])
        }
    };
    let (red, green, blue, white) = ([250, 10, 10], [10, 250, 10], [10, 10, 250], [250; 3]);
    // Three times as wide as it is high; and the same stored on its side.
    let wide = jpeg(&quarters(540, 180));
    let on_its_side = with_exif(&jpeg(&image::imageops::rotate270(&quarters(540, 180))), &exif(6, b""));
    for file in [wide, on_its_side] {
        let cut = raw(&file, CenterCrop);
        for (x, y, expect) in [(10, 10, red), (50, 10, green), (10, 50, blue), (50, 50, white)] {
            assert_close(&cut(x, y), expect, "cut");
        }
        let bordered = raw(&file, Border);
        for (x, y, expect) in [(10, 25, red), (50, 25, green), (10, 35, blue)] {
            assert_close(&bordered(x, y), expect, "inside of the border");
        }
        for (x, y) in [(0, 0), (59, 19), (0, 40), (59, 59)] {
            assert_eq!(bordered(x, y), Rgb([255; 3]), "the border at {x}, {y}");
        }
    }
}

#[test]
fn small_images_are_enlarged_only_when_asked_for_and_within_limits() {
    let enlarge = |image_size, max_image_pixels| ImagingOptions {
        resize_only_if_bigger: false,
        max_image_pixels,
        ..options(image_size, ImageEncoding::Auto)
    };
    let file = encoded(quarters(40, 30), image::ImageFormat::Png);
    let image = run(&file, &enlarge(100, 10_000)).unwrap();
    assert_eq!(image.resized_size, PixelSize { height: 75, width: 100 });
    assert_eq!(super::super::inspect(&image.image).unwrap().size, image.resized_size);
    assert_eq!(cause(&file, &enlarge(200, 10_000)), FailureCause::TooManyPixels);
    let border = ImagingOptions { resize_mode: super::super::ResizeMode::Border, ..enlarge(101, 10_000) };
    assert_eq!(cause(&file, &border), FailureCause::TooManyPixels, "101 x 75 is within, 101 x 101 is not");
}

/// Only the raw pixels were counted, and not what became of them.
#[test]
fn raw_pixels_that_are_enlarged_are_counted_at_their_new_size() {
    let enlarged = ImagingOptions { resize_only_if_bigger: false, ..options(10_000, ImageEncoding::Raw) };
    let (pixels, size) = (vec![0; 2700], PixelSize { height: 30, width: 30 });
    assert!(raw_bytes_estimate(&pixels, size, &enlarged) > 300_000_000);
    assert!(raw_bytes_estimate(&pixels, size, &options(10, ImageEncoding::Raw)) < 4 << 20);
    assert_eq!(raw_bytes_estimate(&pixels[1..], size, &enlarged), 0, "it is refused");
}

#[test]
fn every_scaling_of_the_decoder_gives_the_same_size() {
    use super::super::JpegScaling::{Full, Once, Twice};
    // Odd sides: a decoder that scales rounds them up.
    let file = jpeg(&quarters(1001, 667));
    for jpeg_scaling in [Twice, Once, Full] {
        for image_size in [1000, 501, 500, 251, 97, 13, 1] {
            let options = ImagingOptions { image_size, jpeg_scaling, ..options(0, ImageEncoding::Raw) };
            let image = run(&file, &options).unwrap();
            let PixelSize { height, width } = image.resized_size;
            assert_eq!((width, height), (image_size, (image_size * 667 / 1001).max(1)));
            assert_eq!(image.image.len() as u32, 3 * width * height);
            if image_size > 90 {
                let top_left = &image.image[(height / 4 * width + width / 4) as usize * 3..][..3];
                assert_close(&Rgb([top_left[2], top_left[1], top_left[0]]), [250, 10, 10], "top left");
            }
        }
    }
}

#[test]
fn shrinking_averages_areas() {
    // A chessboard of single pixels is grey from afar; picking pixels would give black or white.
    let board = RgbImage::from_fn(400, 400, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
    let image = run(&encoded(board, image::ImageFormat::Png), &options(50, ImageEncoding::Raw)).unwrap();
    assert!(image.image.iter().all(|&value| value.abs_diff(128) < 6));
}
