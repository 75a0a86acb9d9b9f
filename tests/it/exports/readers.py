"""Reads exports with the libraries that people train with, and compares them with what ddl says of the dataset."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tarfile

import duckdb
import mlcroissant
import pyarrow.parquet as pq
import webdataset
from datasets import Image, load_dataset
from PIL import Image as PillowImage

expected = {row["uuid"]: row for row in csv.DictReader(open("expected.csv"))}


def check(uuid, image, label=...):
    """The bytes are the dataset's, and so is the label."""
    row = expected[uuid]
    assert hashlib.md5(image).hexdigest() == row["hashsum_resized"], uuid
    if label is not ...:
        assert (label or "") == row["label"], (uuid, label)


def sha256(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


SIZE = tuple(map(int, os.environ["PICTURE_SIZE"].split("x")))


def croissant(folder, record_set, num_records, image, version):
    path = f"{folder}/croissant.json"
    subprocess.run([sys.executable, "-m", "mlcroissant.scripts.validate", "--jsonld", path], check=True)
    document = json.load(open(path))
    assert document["conformsTo"] == f"http://mlcommons.org/croissant/{version}"
    for file in document["distribution"]:
        if "sha256" in file:
            assert sha256(f"{folder}/{file['contentUrl']}") == file["sha256"], file
    dataset = mlcroissant.Dataset(jsonld=path)
    assert not dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.report()
    records = list(dataset.records(record_set))
    assert len(records) == num_records, (len(records), num_records)
    for record in records:
        assert record[f"{record_set}/{image}"].size == SIZE, record
    return records


def of_webdataset(folder):
    classes = {row["label"]: int(row["class"]) for row in csv.DictReader(open(f"{folder}/labels.csv"))}
    names = sorted(name for name in os.listdir(folder) if name.endswith(".tar"))
    assert names == [f"birds-{number:06}.tar" for number in range(len(names))] and len(names) > 3
    seen = {}
    for sample in webdataset.WebDataset([f"{folder}/{name}" for name in names], shardshuffle=False):
        facts = json.loads(sample["json"])
        assert sample["__key__"] == facts["key"] and "." not in facts["key"]
        check(facts["uuid"], sample["jpg"], facts["label"])
        assert sample["txt"].decode() == (facts["title"] or "")
        assert facts["kingdom"] == "Plantae"
        assert int(sample["cls"]) == classes.get(facts["label"], -1)
        seen[facts["uuid"]] = facts["key"]
    assert seen.keys() == expected.keys() and len(set(seen.values())) == len(seen)
    pictures = webdataset.WebDataset(f"{folder}/{names[0]}", shardshuffle=False).decode("pil").to_tuple("jpg", "json")
    assert all(picture.size == SIZE for picture, _ in pictures)
    index = json.load(open(f"{folder}/index.json"))
    assert [shard["url"] for shard in index["shardlist"]] == names
    for shard in index["shardlist"]:
        path, stem = f"{folder}/{shard['url']}", shard["url"][:-4]
        statistics = json.load(open(f"{folder}/{stem}.json"))
        assert shard["nsamples"] == statistics["num_images"] <= 20
        assert shard["filesize"] == statistics["bytes"] == os.path.getsize(path) <= 300_000
        assert shard["sha256"] == statistics["sha256"] == sha256(path)
        head, *lines = open(f"{folder}/{stem}.idx").read().splitlines()
        assert head == f"v1.2 {shard['nsamples']}" and len(lines) == shard["nsamples"]
        data, archive = open(path, "rb").read(), tarfile.open(path)
        for line in lines:
            words = line.split(" ")
            for extension, offset, size, name in zip(*[iter(words)] * 4):
                member = archive.getmember(name)
                assert name.endswith("." + extension) and member.offset_data == int(offset), line
                assert archive.extractfile(member).read() == data[int(offset) :][: int(size)]
    dataset = load_dataset(folder, split="train")
    assert {facts["uuid"] for facts in dataset["json"]} == expected.keys()
    records = croissant(folder, "samples", len(expected), "image", "1.1")
    assert {text(record["samples/key"]) for record in records} == set(seen.values())


def of_imagefolder(folder):
    # As torchvision.datasets.ImageFolder: classes are folders, in order of their names.
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    labels = {row["folder"]: row for row in csv.DictReader(open(f"{folder}/labels.csv"))}
    assert classes == sorted(labels)
    files = {f"{name}/{file}" for name in classes for file in os.listdir(f"{folder}/{name}")}
    assert len(files) == len(expected)
    for path in files:
        PillowImage.open(f"{folder}/{path}").load()
    rows = list(csv.DictReader(open(f"{folder}/metadata.csv")))
    assert {row["file_name"] for row in rows} == files
    for row in rows:
        check(row["uuid"], open(f"{folder}/{row['file_name']}", "rb").read(), row["label"])
        assert labels[os.path.dirname(row["file_name"])]["label"] == row["label"]
    for dataset in [load_dataset("imagefolder", data_dir=folder), load_dataset(folder)]:
        assert list(dataset) == ["train"] and set(dataset["train"]["uuid"]) == expected.keys()
        assert isinstance(dataset["train"].features["image"], Image)
        for row in dataset["train"].cast_column("image", Image(decode=False)):
            image = row["image"]["bytes"] or open(row["image"]["path"], "rb").read()
            check(row["uuid"], image, row["label"])
    records = croissant(folder, "images", len(expected), "image", "1.0")
    by_uuid = {text(record["images/uuid"]): record for record in records}
    assert by_uuid.keys() == expected.keys()
    assert all(text(record["images/label"]) == expected[uuid]["label"] for uuid, record in by_uuid.items())


def text(value):
    return value.decode() if isinstance(value, bytes) else value or ""


def of_parquet(folder):
    splits = load_dataset(folder)
    assert list(splits) == ["train", "validation", "test"]
    uuids = [set(split["uuid"]) for split in splits.values()]
    assert sum(map(len, uuids)) == len(expected) and set().union(*uuids) == expected.keys()
    assert len(uuids[0]) > len(uuids[1]) > 0 and len(uuids[2]) > 0
    for split in splits.values():
        assert isinstance(split.features["image"], Image)
        assert split[0]["image"].size == SIZE
        for row in split.cast_column("image", Image(decode=False)):
            check(row["uuid"], row["image"]["bytes"], row["label"])
            assert row["image"]["path"].endswith(".jpg")
    names = sorted(os.listdir(f"{folder}/data"))
    for name in names:
        file = pq.ParquetFile(f"{folder}/data/{name}")
        assert b"huggingface" in file.schema_arrow.metadata
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        assert all(group.num_rows == 100 for group in groups[:-1]) and groups[-1].num_rows <= 100
        assert all(group.column(at).has_offset_index for group in groups for at in range(group.num_columns))
    db = duckdb.connect()
    rows = db.execute(f"SELECT uuid, image.bytes, label, kingdom FROM '{folder}/data/*.parquet'").fetchall()
    for uuid, image, label, kingdom in rows:
        check(uuid, image, label)
        assert kingdom == "Plantae"
    assert len(rows) == len(expected)
    records = croissant(folder, "images", len(expected), "image", "1.1")
    assert {text(record["images/split"]) for record in records} == {"train", "validation", "test"}


def of_dataset(folder):
    croissant(folder, "images", len(expected), "image", "1.1")


for argument in sys.argv[1:]:
    kind, _, folder = argument.partition("=")
    globals()[f"of_{kind}"](folder)
    print(kind, "ok")
