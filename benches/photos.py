"""Makes a set of photos for the benchmarks: crops of the photographs in two of Debian's wallpaper packages.

    photos.py FOLDER [COUNT]

Each photo is a random crop (4:3, 1.2 to 4 megapixels before scaling), turned over or not, with other brightness
and contrast and a little sensor noise, as JPEG of quality 90. The same COUNT gives the same pictures. Packages are
fetched with apt-get and unpacked into FOLDER/source; nothing is installed.
"""

import glob
import os
import subprocess
import sys

import cv2
import numpy as np

PACKAGES = ["mate-backgrounds", "ukui-wallpapers"]
# Photographs only: the packages also hold drawings and gradients, which compress far better than photos do.
SOURCES = ["mate/nature/*.jpg", "*.jpg"]


def fetch(folder):
    os.makedirs(folder, exist_ok=True)
    for package in PACKAGES:
        if not glob.glob(f"{folder}/{package}_*.deb"):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg", "-x", glob.glob(f"{folder}/{package}_*.deb")[0], folder], check=True)
    return sorted(path for pattern in SOURCES for path in glob.glob(f"{folder}/usr/share/backgrounds/{pattern}"))


def make(folder, count=2000):
    """Makes what is missing; returns the paths."""
    paths = [f"{folder}/{n:05}.jpg" for n in range(count)]
    if all(os.path.exists(path) for path in paths):
        return paths
    sources = [cv2.imread(path) for path in fetch(f"{folder}/source")]
    for n, path in enumerate(paths):
        rng = np.random.default_rng(n)
        photo = sources[n % len(sources)]
        height, width = photo.shape[:2]
        side = rng.uniform(0.5, 1.0)
        h = int(min(height, width * 3 / 4) * side)
        w = int(h * 4 / 3)
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        out_w = int(rng.uniform(1400, 2300))
        photo = cv2.resize(photo[y : y + h, x : x + w], (out_w, out_w * 3 // 4), interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            photo = photo[:, ::-1]
        photo = photo.astype(np.float32) * rng.uniform(0.8, 1.15) + rng.uniform(-15, 15)
        photo += rng.normal(0, 2.5, photo.shape[:2] + (1,)).astype(np.float32)
        photo = np.clip(photo, 0, 255).astype(np.uint8)
        cv2.imwrite(f"{path}.tmp.jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 90])
        os.rename(f"{path}.tmp.jpg", path)
    return paths


if __name__ == "__main__":
    made = make(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    sizes = [os.path.getsize(path) for path in made]
    print(f"{len(made)} photos, {sum(sizes) / len(sizes) / 1024:.0f} KiB on average")
