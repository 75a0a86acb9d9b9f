"""Makes images as the web makes them of photographs, for the tests of tools.

    make.py FOLDER COUNT

FOLDER/list.csv names them (uuid,url), FOLDER/images holds them. The photographs come from two Debian packages, which
apt-get fetches into FOLDER/source; nothing is installed. The same COUNT gives the same images. Needs Pillow.
"""

import glob
import io
import multiprocessing
import os
import random
import subprocess
import sys
import uuid

from PIL import Image, ImageOps

PACKAGES = ["mate-backgrounds", "python3-skimage"]
SKIMAGE = "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field ihc motorcycle_left retina rocket"
SERVERS = 7
LONGEST_SIDE = 900
BLANK = 40
PLACEHOLDER = 24


def fetch(folder):
    os.makedirs(folder, exist_ok=True)
    for package in PACKAGES:
        if not glob.glob(f"{folder}/{package}_*.deb"):
            download = ["apt-get", "download", package]
            if subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
                # Without lists of packages there is nothing to download.
                subprocess.run(["apt-get", "update"], check=True, capture_output=True)
                subprocess.run(download, cwd=folder, check=True, capture_output=True)
        subprocess.run(["dpkg", "-x", glob.glob(f"{folder}/{package}_*.deb")[0], folder], check=True)
    nature = glob.glob(f"{folder}/usr/share/backgrounds/mate/nature/*.jpg")
    data = f"{folder}/usr/lib/python3/dist-packages/skimage/data"
    return sorted(nature) + [path for name in SKIMAGE.split() for path in glob.glob(f"{data}/{name}.*")]


def kind(n):
    """What image n is; what is not planted is a derivative of photo n."""
    if n < BLANK:
        return "blank"
    if n < BLANK + PLACEHOLDER:
        return "placeholder"
    return {3: "copy", 7: "grey", 11: "small"}.get(n % 20, "derivative")


def encoded(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def derive(n):
    rng = random.Random(n)
    photo = photos[n % len(photos)]
    width, height = photo.size
    part = rng.uniform(0.4, 1.0)
    w, h = int(width * part), int(height * part)
    x, y = rng.randint(0, width - w), rng.randint(0, height - h)
    picture = photo.crop((x, y, x + w, y + h))
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    side = rng.randint(40, 90) if kind(n) == "small" else rng.randint(150, 320)
    picture.thumbnail((side, side))
    if kind(n) == "grey":
        picture = picture.convert("L")
    format = rng.choices(["JPEG", "PNG", "WEBP"], [8, 1, 1])[0]
    return encoded(picture, format, quality=rng.randint(60, 95))


def bytes_of(n):
    if kind(n) == "blank":
        return encoded(Image.new("RGB", (64 + n, 120), (6 * n, 90, 200 - n)), "PNG")
    if kind(n) == "placeholder":
        return encoded(photos[0].resize((120, 90)), "JPEG")
    return derive(n - 1 if kind(n) == "copy" else n)


def write(n):
    with open(f"{sys.argv[1]}/images/{n}", "wb") as file:
        file.write(bytes_of(n))


def main(folder, count):
    os.makedirs(f"{folder}/images", exist_ok=True)
    with multiprocessing.Pool() as pool:
        pool.map(write, range(count), chunksize=50)
    rows = []
    for n in range(count):
        # The placeholder comes from one server; a copy from another than what it is a copy of.
        server = 1 if kind(n) == "placeholder" else n % SERVERS
        rows.append(f"{uuid.uuid5(uuid.NAMESPACE_URL, str(n))},http://s{server}.example/{n}")
    # In no order that means anything.
    random.Random(count).shuffle(rows)
    with open(f"{folder}/list.csv", "w") as file:
        file.write("uuid,url\n" + "\n".join(rows) + "\n")


photos = []
if __name__ == "__main__":
    for path in fetch(f"{sys.argv[1]}/source"):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        photos.append(picture)
    assert len(photos) >= 25, f"only {len(photos)} photos"
    main(sys.argv[1], int(sys.argv[2]))
