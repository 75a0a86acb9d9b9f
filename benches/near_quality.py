"""Makes photos and what becomes of photos on the web, to judge the perceptual hash by.

    near_quality.py FOLDER

Then it runs the example near_quality, which hashes them as a download does and prints the tables of
docs/BENCHMARKS.md.

FOLDER/photos has distinct real photographs (and some paintings) from Debian packages, none of them a crop or a second
take of another; FOLDER/drawings has drawings and photographed objects that are cut out, on white; FOLDER/flat has
pictures without content; FOLDER/variants/NAME has each photo after one transformation. Packages are fetched with
apt-get and unpacked into FOLDER/source; nothing is installed. Needs Pillow 10.1 or later.
"""

import glob
import io
import os
import re
import subprocess
import sys

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

PACKAGES = [
    "gcompris-qt-data",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "opencv-doc",
    "plasma-workspace-wallpapers",
    "python3-skimage",
    "tuxpaint-stamps-default",
    "ukui-wallpapers",
]
# GCompris' bundles whose pictures are photographs or paintings, and the one with drawings.
PHOTO_BUNDLES = ["details", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals", "explore_world_music"]
DRAWING_BUNDLES = ["lang"]
OPENCV = """aero1 aloeL apple baboon basketball1 board box_in_scene building butterfly ela_original fruits graf1 home
left01 leuvenA messi5 orange rubberwhale1 smarties squirrel_cls stuff chicky_512 blox""".split()
SKIMAGE = "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field ihc motorcycle_left retina rocket".split()
PLASMA = "Autumn BytheWater ColdRipple EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am".split()
BACKGROUNDS = """Bridge_by Dragonfly Fossa Kleiber Painting-Colors Wine aitzgorri analogpattern friends life picosdeeuropa seeding
sunset""".split()
# Cut-outs of photographs, not of drawings.
STAMPS = ["animals", "food", "plants", "hobbies", "clothes"]

LONGEST_SIDE = 1024
QUALITY = 90


def fetch(folder):
    os.makedirs(folder, exist_ok=True)
    for package in PACKAGES:
        if not glob.glob(f"{folder}/{package}_*.deb"):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        if not os.path.exists(f"{folder}/{package}.unpacked"):
            subprocess.run(["dpkg", "-x", glob.glob(f"{folder}/{package}_*.deb")[0], folder], check=True)
            open(f"{folder}/{package}.unpacked", "w").close()


def in_bundle(path):
    """The pictures in a file of Qt's resource format, which stores them one after the other as they are."""
    data = open(path, "rb").read()
    for start in re.finditer(rb"RIFF....WEBP|\xff\xd8\xff[\xe0\xe1\xdb]", data, re.S):
        try:
            picture = Image.open(io.BytesIO(data[start.start() :]))
            picture.load()
        except OSError:
            continue
        if min(picture.size) >= 250:
            yield picture


def sources(folder):
    """Photos, then drawings: (set, picture)."""
    share = f"{folder}/usr/share"
    for name in PHOTO_BUNDLES:
        yield from (("photos", picture) for picture in in_bundle(f"{share}/gcompris-qt/rcc/{name}.rcc"))
    photos = [one(f"{share}/doc/opencv-doc/examples/data/{name}.*") for name in OPENCV]
    photos += [one(f"{folder}/usr/lib/python3/dist-packages/skimage/data/{name}.*") for name in SKIMAGE]
    photos += [one(f"{share}/wallpapers/{name}/contents/images/2560x1600.*") for name in PLASMA]
    photos += [one(f"{share}/backgrounds/{name}*") for name in BACKGROUNDS]
    photos += sorted(glob.glob(f"{share}/backgrounds/mate/nature/*.jpg"))
    yield from (("photos", Image.open(path)) for path in photos)
    for name in DRAWING_BUNDLES:
        yield from (("drawings", picture) for picture in in_bundle(f"{share}/gcompris-qt/rcc/{name}.rcc"))
    for name in STAMPS:
        for path in sorted(glob.glob(f"{share}/tuxpaint/stamps/{name}/**/*.png", recursive=True)):
            if "cartoon" not in path:
                yield "drawings", Image.open(path)


def one(pattern):
    return sorted(glob.glob(pattern))[0]


def opaque(picture):
    """On white, in RGB, at most LONGEST_SIDE."""
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    picture = white.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def scaled(factor):
    return lambda photo: photo.resize([round(side * factor) for side in photo.size], Image.Resampling.LANCZOS)


def cropped(share):
    """Cuts away this share of width and height, two thirds of it on the left and at the top."""

    def crop(photo):
        (width, height) = photo.size
        (left, top) = (round(width * share * 2 / 3), round(height * share * 2 / 3))
        return photo.crop((left, top, left + round(width * (1 - share)), top + round(height * (1 - share))))

    return crop


def bordered(share, colour):
    return lambda photo: ImageOps.expand(photo, round(max(photo.size) * share), colour)


def gamma(exponent):
    return lambda photo: photo.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def watermarked(photo):
    """A line of text across the lower right, a third of the width."""
    photo = photo.copy()
    (width, height) = photo.size
    font = ImageFont.load_default(size=width / 16)
    ImageDraw.Draw(photo).text((width * 0.97, height * 0.95), "© example.org", "white", font, "rs", stroke_width=1, stroke_fill="black")
    return photo


def rotated(degrees):
    """Turned, and cut to the largest upright rectangle of the same proportions without corners."""

    def rotate(photo):
        from math import cos, radians, sin

        (width, height) = photo.size
        angle = radians(degrees)
        scale = min(
            width / (width * cos(angle) + height * sin(angle)), height / (width * sin(angle) + height * cos(angle))
        )
        turned = photo.rotate(degrees, Image.Resampling.BICUBIC)
        (w, h) = (width * scale, height * scale)
        return turned.crop([round(edge) for edge in ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)])

    return rotate


# Name, what is done, quality of the JPEG it is saved as.
VARIANTS = [(f"JPEG quality {quality}", lambda photo: photo, quality) for quality in (95, 75, 50, 30)] + [
    (name, change, QUALITY)
    for (name, change) in [
        ("size x 2", scaled(2)),
        ("size x 0.5", scaled(0.5)),
        ("size x 0.25", scaled(0.25)),
        ("width x 0.9", lambda photo: photo.resize((round(photo.width * 0.9), photo.height), Image.Resampling.LANCZOS)),
        ("crop 1 %", cropped(0.01)),
        ("crop 2 %", cropped(0.02)),
        ("crop 5 %", cropped(0.05)),
        ("crop 10 %", cropped(0.10)),
        ("border 1 %, black", bordered(0.01, "black")),
        ("border 2 %, white", bordered(0.02, "white")),
        ("border 5 %, black", bordered(0.05, "black")),
        ("brightness x 0.8", lambda photo: ImageEnhance.Brightness(photo).enhance(0.8)),
        ("brightness x 1.2", lambda photo: ImageEnhance.Brightness(photo).enhance(1.2)),
        ("contrast x 0.7", lambda photo: ImageEnhance.Contrast(photo).enhance(0.7)),
        ("gamma 0.7", gamma(0.7)),
        ("gamma 1.4", gamma(1.4)),
        ("blur 1 px", lambda photo: photo.filter(ImageFilter.GaussianBlur(1))),
        ("blur 4 px", lambda photo: photo.filter(ImageFilter.GaussianBlur(4))),
        ("sharpened", lambda photo: photo.filter(ImageFilter.UnsharpMask(2, 150, 3))),
        ("watermark", watermarked),
        ("grey", ImageOps.grayscale),
        ("colours x 1.6", lambda photo: ImageEnhance.Color(photo).enhance(1.6)),
        ("turned by 1°", rotated(1)),
        ("turned by 3°", rotated(3)),
        ("turned by 90°", lambda photo: photo.transpose(Image.Transpose.ROTATE_90)),
        ("mirrored", ImageOps.mirror),
    ]
]


def flat():
    """Pictures without content: (name, picture, quality or None for PNG)."""
    size = (640, 480)
    for colour in ("white", "black", "#808080", "#3070b0", "#f0f0e8"):
        yield f"one colour {colour}", Image.new("RGB", size, colour), None
        yield f"one colour {colour}, JPEG 75", Image.new("RGB", size, colour), 75
    noise = Image.effect_noise(size, 4)
    yield "grey, noise of 4 levels", noise, None
    yield "grey, noise of 4 levels, JPEG 75", noise, 75
    across = Image.linear_gradient("L").resize(size)
    yield "gradient downwards", across, None
    yield "gradient downwards, JPEG 75", across, 75
    yield "gradient sideways", Image.linear_gradient("L").rotate(90).resize(size), None
    yield "gradient from the centre", Image.radial_gradient("L").resize(size), None
    faint = across.point([120 + round(value / 16) for value in range(256)])
    yield "faint gradient", faint, None
    yield "faint gradient, JPEG 75", faint, 75
    halves = Image.new("RGB", size, "white")
    ImageDraw.Draw(halves).rectangle((0, 240, 640, 480), "black")
    yield "upper half white", halves, None
    left = Image.new("RGB", size, "white")
    ImageDraw.Draw(left).rectangle((0, 0, 200, 480), "#202020")
    yield "left third dark", left, None
    frame = Image.new("RGB", size, "white")
    ImageDraw.Draw(frame).rectangle((8, 8, 631, 471), None, "black", 2)
    yield "white with a frame", frame, None
    dot = Image.new("RGB", size, "white")
    ImageDraw.Draw(dot).ellipse((310, 230, 330, 250), "black")
    yield "white with a dot in the middle", dot, None
    dot = Image.new("RGB", size, "white")
    ImageDraw.Draw(dot).ellipse((400, 100, 420, 120), "black")
    yield "white with a dot elsewhere", dot, None
    yield "white with a dot elsewhere, JPEG 75", dot, 75
    for words in ("No image available", "404"):
        text = Image.new("RGB", size, "#eeeeee")
        ImageDraw.Draw(text).text((320, 240), words, "#888888", ImageFont.load_default(size=48), "mm")
        yield f"text: {words}", text, 85


def main(folder):
    fetch(f"{folder}/source")
    numbers = {}
    for kind, picture in sources(f"{folder}/source"):
        number = numbers[kind] = numbers.get(kind, -1) + 1
        path = f"{folder}/{kind}/{number:04}.jpg"
        picture = opaque(picture)
        save(picture, path, 95)
        if kind == "photos":
            for name, change, quality in VARIANTS:
                save(change(picture), f"{folder}/variants/{name}/{number:04}.jpg", quality)
    for name, picture, quality in flat():
        save(picture, f"{folder}/flat/{name}.{'jpg' if quality else 'png'}", quality)
    with open(f"{folder}/variants/order.txt", "w") as file:
        file.writelines(f"{name}\n" for name, _, _ in VARIANTS)
    example = ["cargo", "run", "--release", "--locked", "--features", "turbojpeg", "--example", "near_quality"]
    subprocess.run([*example, "--", os.path.abspath(folder)], cwd=os.path.dirname(__file__) or ".", check=True)


def save(picture, path, quality):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if quality:
        picture.save(path, quality=quality)
    else:
        picture.save(path)


if __name__ == "__main__":
    main(sys.argv[1])
