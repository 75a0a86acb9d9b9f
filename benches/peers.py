"""Download: the same photos from the same servers with ddl, img2dataset and curl.

    peers.py --ddl target/release/ddl --work FOLDER [--photos 2000] [--urls 4000] [--rounds 3] [--latency 0,100]
             [--floor target/release/examples/pixel_floor]

One nginx serves the photos on 16 ports of the loopback interface, which count as 16 servers. Every tool may have
64 requests under way. What counts is the client's CPU time: images per second and core are images divided by the
CPU seconds of all its processes. Rounds alternate between the tools; the tables have medians.

- raw: bytes kept as received. ddl verifies, hashes, writes Parquet and commits to its catalog; img2dataset runs with
  `disable_all_reencoding`, its fastest way, which does not look at the bytes; curl writes files.
- resize: longest side to 512, JPEG of quality 95.

ddl also runs with a quarter of its memory for bodies and for images that wait to be written (`ddl, 32 MiB`), and with
256 requests under way (`ddl, 256 under way`).

The floor is what the work costs without a pipeline: curl's CPU time per image, and with resizing the bare pixel
loop's beside it. With a latency every answer of nginx waits that many milliseconds before its first byte.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys

import photos
from measure import Nginx, machine, run, table

PORTS = range(23480, 23496)

NGINX = """
{modules}
daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 2;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; types {{ image/jpeg jpg; }}
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work}; uwsgi_temp_path {work};
    scgi_temp_path {work};
    server {{ {listen} root {photos}; {delay} }}
}}
"""

# Debian's echo module sleeps without holding a worker.
ECHO = "load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;"
DELAY = "location / {{ echo_sleep {seconds}; echo_exec /now$uri; }} location /now/ {{ internal; alias {photos}/; }}"

CONFIG = """
path_to_input: {work}/list.parquet
path_to_output_folder: {work}/output
user_agent: ddl-bench (bench@ddl.example)
allow_private_networks: true
rate_control: fixed
downloader_parameters: {{default_rate_limit: 0, image_size: {size}, {more}}}
"""

# What sets the rows of ddl apart. Bodies and waiting images have 128 MiB each by default.
VARIANTS = {
    "ddl": "max_connections_per_server: 4",
    "ddl, 32 MiB": "max_connections_per_server: 4, body_memory: 32 MiB, part_memory: 32 MiB",
    "ddl, 256 under way": "max_connections_per_server: 16",
}


def servers(work, folder, latency):
    """One nginx on all ports; each answer waits so many milliseconds."""
    listen = " ".join(f"listen 127.0.0.1:{port};" for port in PORTS)
    modules = ECHO if latency else ""
    delay = DELAY.format(seconds=latency / 1000, photos=folder) if latency else ""
    configuration = NGINX.format(work=work, listen=listen, photos=folder, modules=modules, delay=delay)
    return Nginx(work, configuration, f"http://127.0.0.1:{PORTS[-1]}/00000.jpg")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ddl", required=True)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--photos", type=int, default=2000)
    arguments.add_argument("--urls", type=int, default=4000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tools", default="ddl,img2dataset,curl")
    arguments.add_argument("--latency", default="0,100", help="milliseconds before each answer")
    arguments.add_argument("--floor", help="the example pixel_floor, for the floor of resizing")
    args = arguments.parse_args()
    ddl, work = os.path.abspath(args.ddl), os.path.abspath(args.work)
    os.makedirs(work, exist_ok=True)
    made = photos.make(f"{work}/photos", args.photos)
    size = sum(os.path.getsize(path) for path in made) / len(made)
    urls = [
        f"http://127.0.0.1:{PORTS[n % len(PORTS)]}/{n % args.photos:05}.jpg?{n // args.photos}" for n in range(args.urls)
    ]
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"url": urls}), f"{work}/list.parquet")
    with open(f"{work}/curl.txt", "w") as file:
        file.writelines(f'url = "{url}"\noutput = "{work}/output/{n}.jpg"\n' for n, url in enumerate(urls))
    with open("/etc/os-release") as file:
        system = next(line.split('"')[1] for line in file if line.startswith("PRETTY_NAME"))

    img2dataset = [f"{os.path.dirname(sys.executable)}/img2dataset", f"--url_list={work}/list.parquet",
                   "--input_format=parquet", "--url_col=url", f"--output_folder={work}/output", "--output_format=parquet",
                   "--processes_count=2", "--thread_count=32", "--number_sample_per_shard=1000",
                   "--enable_wandb=False"]
    env = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        env.pop(name, None)

    def ddl_command(pixels, variant):
        config = f"{work}/ddl-{pixels}-{list(VARIANTS).index(variant)}.yaml"
        with open(config, "w") as file:
            file.write(CONFIG.format(work=work, size=pixels, more=VARIANTS[variant]))
        run_ddl = f'"{ddl}" --no-progress -q -c "{config}"'
        return ["sh", "-c", f"{run_ddl} ingest && {run_ddl} download"]

    tasks = {
        "raw": {
            **{variant: ddl_command(0, variant) for variant in VARIANTS},
            "img2dataset": [*img2dataset, "--disable_all_reencoding=True"],
            "curl": ["curl", "--parallel", "--parallel-max", "64", "--silent", "--config", f"{work}/curl.txt"],
        },
        "resize": {
            **{variant: ddl_command(512, variant) for variant in VARIANTS},
            "img2dataset": [*img2dataset, "--image_size=512", "--resize_mode=keep_ratio_largest",
                            "--resize_only_if_bigger=True", "--encode_quality=95"],
        },
    }

    def count(name):
        """Images that a tool has written."""
        if name == "curl":
            return sum(entry.stat().st_size > 0 for entry in os.scandir(f"{work}/output"))
        if name.startswith("ddl"):
            answer = run([ddl, "-q", "-c", f"{work}/ddl-0-0.yaml", "query", "--format", "csv", "SELECT count(*) FROM images"])
            return int(answer.output.split()[-1])
        files = [f"{work}/output/{file}" for file in os.listdir(f"{work}/output") if file.endswith(".parquet")]
        return sum(pyarrow.parquet.read_table(file, columns=["status"])["status"].to_pylist().count("success") for file in files)

    pixels = 0.0
    if args.floor:
        pixels = statistics.median(pixel_seconds(args.floor, f"{work}/photos") for _ in range(args.rounds))
    print(f"Download on {machine()}, {system}; {args.urls} URLs, {args.photos} photos, {size / 1024:.0f} KiB on average")
    if args.floor:
        print(f"The bare pixel loop takes {pixels * 1000:.2f} ms of CPU per image.")
    print(flush=True)
    rows = []
    for latency in map(int, args.latency.split(",")):
        results = rounds(args, work, tasks, latency, env, count)
        rows.extend(rows_of(results, args.urls, latency, pixels))
    header = ["ms", "", "tool", "images/s/core", "range", "of img2dataset", "CPU of the floor's", "images/s, wall"]
    table([*header, "peak MiB", "of img2dataset"], rows)


def pixel_seconds(floor, folder):
    """CPU seconds of the bare pixel loop per image."""
    images, seconds = run([floor, folder, "512", "1"]).output.split()
    return float(seconds) / int(images)


def rounds(args, work, tasks, latency, env, count):
    """What each tool took for each task, once per round."""
    results = {}
    nginx = servers(work, f"{work}/photos", latency)
    try:
        for _ in range(args.rounds):
            for task, commands in tasks.items():
                for name, command in commands.items():
                    if name.split(",")[0] not in args.tools.split(","):
                        continue
                    shutil.rmtree(f"{work}/output", ignore_errors=True)
                    if name == "curl":
                        os.makedirs(f"{work}/output")
                    result = run(command, env=env, cwd=work)
                    images = count(name)
                    if images != args.urls:
                        sys.exit(f"{name} ({task}) has {images} of {args.urls} images:\n{result.output[-3000:]}")
                    results.setdefault((task, name), []).append(result)
    finally:
        nginx.stop()
        shutil.rmtree(f"{work}/output", ignore_errors=True)
    return results


def rows_of(results, urls, latency, pixels):
    """Lines of the table. `pixels`: CPU seconds of the bare pixel loop per image, 0 if not known."""
    rate = {key: statistics.median(urls / result.cpu for result in found) for key, found in results.items()}
    peak = {key: statistics.median(result.peak_mib for result in found) for key, found in results.items()}
    floors = {}
    if ("raw", "curl") in rate:
        floors["raw"] = 1 / rate["raw", "curl"]
        if pixels:
            floors["resize"] = floors["raw"] + pixels
    for (task, name), found in results.items():
        wall = statistics.median(urls / result.wall for result in found)
        peer = (task, "img2dataset")
        ratio = f"{rate[task, name] / rate[peer]:.2f}" if peer in rate else ""
        memory = f"{peak[task, name] / peak[peer]:.2f}" if peer in peak else ""
        floor = f"{1 / rate[task, name] / floors[task]:.2f}" if task in floors else ""
        values = sorted(urls / result.cpu for result in found)
        spread = f"{values[0]:,.0f} - {values[-1]:,.0f}"
        mine = f"{rate[task, name]:,.0f}"
        yield [latency, task, name, mine, spread, ratio, floor, f"{wall:,.0f}", f"{peak[task, name]:,.0f}", memory]


if __name__ == "__main__":
    main()
