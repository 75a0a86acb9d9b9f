"""Works out for itself what the tools should have said of a dataset, and compares: judge.py DATASET.

Size and copies by DuckDB's SQL, pixels by Pillow, near-duplicates by comparing all pairs. Prints how many images each
tool has removed.
"""

import glob
import hashlib
import io
import sys

import duckdb
import pyarrow.parquet as pq
from PIL import Image, ImageChops, ImageStat

NEAR = 16
RESIZED = 128

root = sys.argv[1]
successes = f"read_parquet('{root}/downloaded_images/*/*/successes.parquet')"


def sql(query):
    return duckdb.sql(query).fetchall()


def removed(tool):
    """What a tool removes, and for which image."""
    return dict(sql(f"select uuid, witness from read_parquet('{root}/tools/{tool}/*/*/verdicts.parquet') where verdict = 'remove'"))


def uuids(query):
    return {row[0] for row in sql(query)}


def agree(tool, expected):
    found = set(removed(tool))
    assert found == expected, f"{tool}: {len(found)} removed instead of {len(expected)}; {list(found ^ expected)[:3]}"
    assert expected, f"{tool}: there was nothing to find"
    print(tool, len(expected))


def as_jpeg(picture):
    """With half the chroma, as ddl writes it: of some photos that alone makes eight levels."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling="4:2:0")
    return Image.open(file).convert("RGB")


def saturation(picture):
    picture = picture.convert("RGB")
    picture.thumbnail((64, 64), Image.Resampling.LANCZOS)
    most = [max(pixel) for pixel in picture.get_flattened_data()]
    least = [min(pixel) for pixel in picture.get_flattened_data()]
    return sum((m - l) / m if m else 0 for m, l in zip(most, least)) / len(most)


rows = []
for path in glob.glob(f"{root}/downloaded_images/*/*/successes.parquet"):
    columns = ["uuid", "image", "hashsum_original", "perceptual_hash", "image_format", "original_size"]
    place = {name: path.split(f"{name}=")[1].split("/")[0] for name in ("server_name", "partition_id")}
    place["partition_id"] = int(place["partition_id"])
    rows += [row | place for row in pq.ParquetFile(path).read(columns).to_pylist()]

blank, grey, dull, perhaps_dull = set(), set(), set(), set()
for row in rows:
    assert hashlib.md5(row["image"]).hexdigest() == row["hashsum_original"]
    picture = Image.open(io.BytesIO(row["image"]))
    picture.load()
    assert list(reversed(picture.size)) == row["original_size"]
    if all(low == high for low, high in (band.getextrema() for band in picture.split())):
        blank.add(row["uuid"])
    if row["image_format"] in ("jpeg", "png") and picture.mode in ("L", "LA"):
        grey.add(row["uuid"])
    # Filters differ a little: between these it may be either.
    mean = saturation(picture)
    if mean < 0.07:
        dull.add(row["uuid"])
    if mean < 0.09:
        perhaps_dull.add(row["uuid"])

agree("size", uuids(f"select uuid from {successes} where least(original_size[1], original_size[2]) < 100"))
agree("verify", blank)
agree("placeholder", uuids(f"""
    select uuid from {successes} where (server_name, hashsum_original) in
        (select (server_name, hashsum_original) from {successes} group by all having count(*) >= 10)"""))
agree("grey", grey)
found = set(removed("dull"))
assert dull and dull <= found <= perhaps_dull, (len(dull), len(found), len(perhaps_dull))
print("dull", len(found))

# Of copies the first stays; of what stays, in the same order, whatever is not near to one that stayed before.
first, kept, gone = {}, {}, {}
for row in sorted(rows, key=lambda row: (row["partition_id"], row["server_name"], row["uuid"])):
    uuid, bits = row["uuid"], int.from_bytes(row["perceptual_hash"])
    if row["hashsum_original"] in first:
        gone[uuid] = "exact"
        continue
    first[row["hashsum_original"]] = uuid
    if not 32 < bits.bit_count() < 224:
        continue
    if any((bits ^ other).bit_count() <= NEAR for other in kept.values()):
        gone[uuid] = "near"
    else:
        kept[uuid] = bits
assert list(gone.values()).count("near") > 100 and list(gone.values()).count("exact") > 100
agree("dedup", set(gone))
# A copy goes for the first of its kind, which may itself go for one that is near; what is near, for one that stays.
near = [witness for uuid, witness in removed("dedup").items() if gone[uuid] == "near"]
assert set(near) <= set(kept), "what a near image goes for is gone itself"

resized = 0
for path in glob.glob(f"{root}/tools/resize/*/*/successes.parquet"):
    for row in pq.ParquetFile(path).read(["uuid", "image", "resized_size", "hashsum_resized"]).to_pylist():
        picture = Image.open(io.BytesIO(row["image"]))
        assert hashlib.md5(row["image"]).hexdigest() == row["hashsum_resized"]
        assert list(reversed(picture.size)) == row["resized_size"] and max(picture.size) <= RESIZED
        resized += 1
        if resized % 20 == 0:
            original = Image.open(io.BytesIO(next(r["image"] for r in rows if r["uuid"] == row["uuid"]))).convert("RGB")
            expect = original
            if original.size != picture.size:
                expect = as_jpeg(original.resize(picture.size, Image.Resampling.LANCZOS))
            apart = ImageStat.Stat(ImageChops.difference(picture.convert("RGB"), expect)).mean
            assert max(apart) < 2.5, f"{row['uuid']}: {apart} levels on average from Pillow's"
assert resized == len(rows), (resized, len(rows))
print("resize", resized)
