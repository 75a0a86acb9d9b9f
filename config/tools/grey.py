"""Says which images are stored without colour, by their headers: `grey.yaml` runs it on each partition.

Needs pyarrow. Nothing is decoded: PNG says in its first bytes whether it has colour, JPEG how many components it has.
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

# Start of frame, of all kinds (ITU-T T.81, table B.1), but for DHT, JPG and DAC between them.
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_grey(image: bytes) -> bool:
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        # Greyscale, without or with transparency.
        return image[25] in (0, 4)
    at = 2
    while at + 9 < len(image) and image[at] == 0xFF:
        marker = image[at + 1]
        if marker in FRAMES:
            return image[at + 9] == 1
        # A segment, or a byte that fills up.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(image[at + 2 : at + 4], "big")
    return False


def main(folder: str, selected: str, output: str) -> None:
    chosen = set(pq.read_table(selected, columns=["record"])["record"].to_pylist())
    grey = []
    for file in pq.ParquetDataset(folder).files:
        # A few images at a time: a partition may not fit into memory.
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16, columns=["uuid", "record", "image"]):
            for row in batch.to_pylist():
                if row["record"] in chosen and is_grey(row["image"]):
                    grey.append({"uuid": row["uuid"], "record": row["record"], "verdict": "remove"})
    schema = pa.schema([("uuid", pa.string()), ("record", pa.int32()), ("verdict", pa.string())])
    pq.write_table(pa.Table.from_pylist(grey, schema), f"{output}/verdicts.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
