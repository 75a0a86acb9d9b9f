"""Ingest: a GBIF-like list of many rows into partitions by server, with ddl, DuckDB and Spark.

    ingest.py --ddl target/release/ddl --work FOLDER [--rows 10000000] [--servers 545] [--spark-rows 1000000] [--rounds 3]

All read the same Parquet file in the same run, one after another:
- ddl: `ddl ingest --source gbif`, which also checks, deduplicates and records every URL in the catalog;
- DuckDB: one `COPY ... (PARTITION_BY (server_name, partition_id))`, which does none of that;
- Spark (local mode, all cores): what distributed-downloader's initializer does, step by step: filter, repartition(20),
  server and uuid by Python functions, row numbers per server, partitioned write. On its first `--spark-rows` rows.
"""

import argparse
import os
import re
import shutil
import sys

import duckdb

from measure import machine, run, table

DUCKDB = """
import duckdb, sys
source, target = sys.argv[1:3]
duckdb.execute(f'''
COPY (
    SELECT *, (row_number() OVER (PARTITION BY server_name) - 1) // 10000 AS partition_id
    FROM (
        SELECT *, uuid() AS uuid, regexp_extract(identifier, '^[a-z]+://([^/]+)', 1) AS server_name
        FROM read_parquet('{source}')
        WHERE gbifID IS NOT NULL AND identifier IS NOT NULL
          AND (type = 'StillImage' OR (type IS NULL AND format LIKE '%image%'))
          AND basisOfRecord NOT LIKE '%MATERIAL_CITATION%'
    )
) TO '{target}' (FORMAT parquet, PARTITION_BY (server_name, partition_id))
''')
"""

SPARK = """
import os, sys, uuid
os.environ["PYSPARK_PYTHON"] = sys.executable
from urllib.parse import urlparse
from pyspark.sql import SparkSession, Window, functions as F, types as T
source, target, cores = sys.argv[1:4]
spark = (SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "12g")
         .config("spark.ui.enabled", "false").config("spark.sql.ansi.enabled", "false").config("spark.driver.bindAddress", "127.0.0.1")
         .config("spark.driver.host", "127.0.0.1").getOrCreate())
server = F.udf(lambda url: urlparse(url).netloc, T.StringType())
new_uuid = F.udf(lambda: str(uuid.uuid4()), T.StringType()).asNondeterministic()
rows = spark.read.parquet(source)
rows = rows.filter(rows.gbifID.isNotNull() & rows.identifier.isNotNull())
rows = rows.filter((rows.type == "StillImage") | (rows.type.isNull() & rows.format.contains("image")))
rows = rows.filter(~rows.basisOfRecord.contains("MATERIAL_CITATION"))
rows = rows.repartition(20).withColumn("server_name", server("identifier")).withColumn("uuid", new_uuid())
counts = rows.groupBy("server_name").count().withColumn("batches", F.floor(F.col("count") / 10000))
rows = rows.join(counts, "server_name")
number = F.row_number().over(Window.partitionBy("server_name").orderBy("server_name"))
rows = rows.withColumn("partition_id", F.coalesce((number - 1) % F.col("batches"), F.lit(0)))
rows.drop("count", "batches").write.mode("overwrite").partitionBy("server_name", "partition_id").parquet(target)
"""

CONFIG = "path_to_input: {source}\npath_to_output_folder: {target}\ninitializer_type: gbif\n"


def make_list(path, rows, servers):
    """Servers as in a GBIF snapshot: their sizes fall off as in Zipf's law (log-uniform ranks)."""
    if os.path.exists(path):
        return
    duckdb.execute("SET preserve_insertion_order = false")
    duckdb.execute(f"""
    COPY (
        SELECT (4000000000 + i)::VARCHAR AS gbifID, 'StillImage' AS type, 'image/jpeg' AS format,
            'https://images-' || server || '.museum.example/media/' || (h // 7 % 997) || '/' || md5(i::VARCHAR)
                || '/original.jpg' AS identifier,
            'https://www.museum.example/occurrence/' || (4000000000 + i) AS references,
            'Specimen ' || (h % 1000003) AS title, 'Collector ' || (h % 5003) AS creator,
            'Museum ' || server AS publisher, 'Museum ' || server AS rightsHolder,
            ['http://creativecommons.org/licenses/by/4.0/', 'http://creativecommons.org/licenses/by-nc/4.0/',
             'http://creativecommons.org/publicdomain/zero/1.0/'][(1 + h % 3)::INT] AS license,
            ['PRESERVED_SPECIMEN', 'HUMAN_OBSERVATION'][(1 + h % 2)::INT] AS basisOfRecord
        FROM (SELECT i, hash(i) AS h, floor(pow({servers}, (hash(i + 1) % 1000003) / 1000003.0))::INT AS server
              FROM range({rows}) AS t(i))
    ) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
    """)


def folder_files(path):
    return sum(len(files) for _, _, files in os.walk(path))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ddl", required=True)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--servers", type=int, default=545)
    arguments.add_argument("--spark-rows", type=int, default=1_000_000, help="0 leaves Spark out")
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    ddl = os.path.abspath(args.ddl)
    os.makedirs(args.work, exist_ok=True)
    work = os.path.abspath(args.work)
    source = f"{work}/list-{args.rows}-{args.servers}.parquet"
    make_list(source, args.rows, args.servers)
    target = f"{work}/output"

    def measured(command, after=lambda: ""):
        shutil.rmtree(target, ignore_errors=True)
        result = run(command)
        note = after()
        files = folder_files(target)
        shutil.rmtree(target, ignore_errors=True)
        return result, files, note

    def catalog_bytes():
        allocated = os.stat(f"{target}/catalog.redb").st_blocks * 512
        status = run([ddl, "-c", config, "status", "--json"]).output
        urls = sum(int(n) for n in re.findall(r'"(?:pending|success|failed|skipped)": (\d+)', status)[:4])
        if urls != args.rows:
            sys.exit(f"{urls} of {args.rows} rows are in the catalog:\n{status}")
        return f"{allocated / urls:.1f}"

    config = f"{work}/ddl.yaml"
    with open(config, "w") as file:
        file.write(CONFIG.format(source=source, target=target))
    rows, rates = [], {}

    def add(name, count, result, files, note=""):
        rates.setdefault(name, []).append(count / result.wall)
        rows.append([name, f"{count:,}", f"{result.wall:.1f}", f"{count / result.wall:,.0f}", f"{result.cpu:.1f}",
                     f"{result.peak_mib:,.0f}", f"{files:,}", note])

    for _ in range(args.rounds):
        add("ddl", args.rows, *measured([ddl, "-c", config, "ingest", "--no-progress"], catalog_bytes))
        add("DuckDB", args.rows, *measured([sys.executable, "-c", DUCKDB, source, target]))
    if args.spark_rows:
        part = source
        if args.spark_rows < args.rows:
            part = f"{work}/list-{args.rows}-{args.servers}-first-{args.spark_rows}.parquet"
            duckdb.execute(f"COPY (FROM '{source}' LIMIT {args.spark_rows}) TO '{part}' (FORMAT parquet)")
        add("Spark", args.spark_rows, *measured([sys.executable, "-c", SPARK, part, target, str(os.cpu_count())]))
    print(f"Ingest on {machine()}; {args.servers} servers\n")
    table(["", "rows", "wall s", "rows/s", "CPU s", "peak MiB", "files", "catalog bytes/URL"], rows)
    median = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    for peer in [name for name in median if name != "ddl"]:
        print(f"ddl / {peer}: {median['ddl'] / median[peer]:.2f} times the rows/s")


if __name__ == "__main__":
    main()
