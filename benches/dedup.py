"""Duplicates: `ddl tool dedup` and DuckDB's window over the same files.

    dedup.py --ddl target/release/ddl --dataset target/release/examples/dedup_dataset --work FOLDER
        [--images 1000000 10000000] [--near 16] [--rounds 3]

Both read the same Parquet files in the same run, one after another. A tenth of the images are equal to an earlier one.

- DuckDB: all but the first `row_number() OVER (PARTITION BY hashsum_original ORDER BY partition_id, server_name, uuid)`,
  written as CSV in whatever order; which image stays for them, it does not say;
- filter: `ddl tool dedup --stage filter`: the same images, with the one that stays, in order of partition and record, as
  CSV and Parquet;
- tool: all three stages, with a file of verdicts for each partition;
- near: all three stages with `--near`, for the smallest number of images; a twentieth are planted within 12 bits.
"""

import argparse
import os
import shutil
import sys

from measure import machine, run, table

DUCKDB = """
import duckdb, sys
root, target, temp = sys.argv[1:4]
duckdb.execute(f"SET temp_directory = '{temp}'")
duckdb.execute(f'''
COPY (
    SELECT uuid, source_id, server_name, partition_id FROM (
        SELECT *, row_number() OVER (PARTITION BY hashsum_original ORDER BY partition_id, server_name, uuid) AS place
        FROM (SELECT uuid, source_id, server_name, partition_id, hashsum_original
              FROM read_parquet('{root}/downloaded_images/*/*/successes.parquet', hive_partitioning = true,
                                hive_types = {{'server_name': VARCHAR, 'partition_id': INTEGER}}))
    ) WHERE place > 1
) TO '{target}' (FORMAT csv, HEADER)
''')
"""


def uuids(path):
    with open(path) as file:
        next(file)
        return {line.split(",", 1)[0] for line in file}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ddl", required=True)
    arguments.add_argument("--dataset", required=True)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--images", type=int, nargs="+", default=[1_000_000, 10_000_000])
    arguments.add_argument("--near", type=int, default=16, help="0 leaves it out")
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    work = os.path.abspath(args.work)
    os.makedirs(work, exist_ok=True)
    rows, walls = [], {}

    def measured(name, images, command):
        result = run(command)
        walls.setdefault((images, name), []).append(result.wall)
        rows.append([name, f"{images:,}", f"{result.wall:.1f}", f"{images / result.wall:,.0f}", f"{result.cpu:.1f}",
                     f"{result.peak_mib:,.0f}"])

    for images in args.images:
        root = f"{work}/{images}"
        if not os.path.exists(f"{root}/made"):
            shutil.rmtree(root, ignore_errors=True)
            run([os.path.abspath(args.dataset), root, str(images)])
            open(f"{root}/made", "w").close()
        tool = [os.path.abspath(args.ddl), "--no-progress", "-q", "--dataset", root, "tool", "dedup", "--reset", "filter"]
        for _ in range(args.rounds):
            duplicates = f"{work}/duplicates.csv"
            measured("DuckDB", images, [sys.executable, "-c", DUCKDB, root, duplicates, work])
            measured("filter", images, [*tool, "--stage", "filter"])
            found = uuids(f"{root}/tools/dedup/filter_table/filter.csv")
            if found != uuids(duplicates):
                sys.exit("the two do not agree")
        measured("tool", images, tool)
    if args.near:
        root, images = f"{work}/{min(args.images)}", min(args.images)
        measured("near", images, [os.path.abspath(args.ddl), "--no-progress", "-q", "--dataset", root, "tool", "dedup",
                                  "--reset", "filter", "--near", str(args.near)])
    print(f"Duplicates on {machine()}\n")
    table(["", "images", "wall s", "images/s", "CPU s", "peak MiB"], rows)
    for images in args.images:
        median = {name: sorted(walls[images, name])[args.rounds // 2] for name in ("DuckDB", "filter")}
        print(f"{images:,} images: filter takes {median['filter'] / median['DuckDB']:.2f} of DuckDB's time")


if __name__ == "__main__":
    main()
