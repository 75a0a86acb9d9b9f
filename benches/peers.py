"""Download: the same photos from the same servers with ddl, img2dataset and curl.

    peers.py --ddl target/release/ddl --work FOLDER [--photos 2000] [--urls 4000] [--rounds 3]

One nginx serves the photos on 16 ports of the loopback interface, which count as 16 servers. Every tool may have
64 requests under way. What counts is the client's CPU time: images per second and core are images divided by the
CPU seconds of all its processes. Rounds alternate between the tools; the tables have medians.

- raw: bytes kept as received. ddl verifies, hashes, writes Parquet and commits to its catalog; img2dataset runs with
  `disable_all_reencoding`, its fastest way, which does not look at the bytes; curl writes files.
- resize: longest side to 512, JPEG of quality 95.

ddl also runs with a quarter of its memory for bodies and for images that wait to be written (`ddl, 32 MiB`).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request

import photos
from measure import machine, run, table

PORTS = range(23480, 23496)

NGINX = """
daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 2;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; types {{ image/jpeg jpg; }}
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work}; uwsgi_temp_path {work};
    scgi_temp_path {work};
    server {{ {listen} root {photos}; }}
}}
"""

CONFIG = """
path_to_input: {work}/list.parquet
path_to_output_folder: {work}/output
user_agent: ddl-bench (bench@ddl.example)
allow_private_networks: true
rate_control: fixed
downloader_parameters: {{default_rate_limit: 0, max_connections_per_server: 4, image_size: {size}{memory}}}
"""

# Bodies and waiting images; the defaults are 128 MiB each.
SMALL = ", body_memory: 32 MiB, part_memory: 32 MiB"


class Servers:
    def __init__(self, work, folder):
        config = f"{work}/nginx.conf"
        listen = " ".join(f"listen 127.0.0.1:{port};" for port in PORTS)
        with open(config, "w") as file:
            file.write(NGINX.format(work=work, listen=listen, photos=folder))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen([nginx, "-c", config, "-p", work], stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORTS[-1]}/00000.jpg").close()
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("nginx did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ddl", required=True)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--photos", type=int, default=2000)
    arguments.add_argument("--urls", type=int, default=4000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tools", default="ddl,img2dataset,curl")
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

    def ddl_command(pixels, memory=""):
        config = f"{work}/ddl-{pixels}{'-small' if memory else ''}.yaml"
        with open(config, "w") as file:
            file.write(CONFIG.format(work=work, size=pixels, memory=memory))
        run_ddl = f'"{ddl}" --no-progress -q -c "{config}"'
        return ["sh", "-c", f"{run_ddl} ingest && {run_ddl} download"]

    tasks = {
        "raw": {
            "ddl": ddl_command(0),
            "ddl, 32 MiB": ddl_command(0, SMALL),
            "img2dataset": [*img2dataset, "--disable_all_reencoding=True"],
            "curl": ["curl", "--parallel", "--parallel-max", "64", "--silent", "--config", f"{work}/curl.txt"],
        },
        "resize": {
            "ddl": ddl_command(512),
            "ddl, 32 MiB": ddl_command(512, SMALL),
            "img2dataset": [*img2dataset, "--image_size=512", "--resize_mode=keep_ratio_largest",
                            "--resize_only_if_bigger=True", "--encode_quality=95"],
        },
    }

    def count(name):
        """Images that a tool has written."""
        if name == "curl":
            return sum(entry.stat().st_size > 0 for entry in os.scandir(f"{work}/output"))
        if name.startswith("ddl"):
            answer = run([ddl, "-q", "-c", f"{work}/ddl-0.yaml", "query", "--format", "csv", "SELECT count(*) FROM images"])
            return int(answer.output.split()[-1])
        files = [f"{work}/output/{file}" for file in os.listdir(f"{work}/output") if file.endswith(".parquet")]
        return sum(pyarrow.parquet.read_table(file, columns=["status"])["status"].to_pylist().count("success") for file in files)

    servers = Servers(work, f"{work}/photos")
    results = {}
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
        servers.stop()
        shutil.rmtree(f"{work}/output", ignore_errors=True)
    print(f"Download on {machine()}, {system}; {args.urls} URLs, {args.photos} photos, {size / 1024:.0f} KiB on average\n")
    rate = {key: statistics.median(args.urls / result.cpu for result in found) for key, found in results.items()}
    peak = {key: statistics.median(result.peak_mib for result in found) for key, found in results.items()}
    rows = []
    for (task, name), found in results.items():
        wall = statistics.median(args.urls / result.wall for result in found)
        peer = (task, "img2dataset")
        ratio = f"{rate[task, name] / rate[peer]:.2f}" if peer in rate else ""
        memory = f"{peak[task, name] / peak[peer]:.2f}" if peer in peak else ""
        spread = " - ".join(f"{value:,.0f}" for value in sorted(args.urls / result.cpu for result in found)[:: max(1, len(found) - 1)])
        rows.append([task, name, f"{rate[task, name]:,.0f}", spread, ratio, f"{wall:,.0f}", f"{peak[task, name]:,.0f}", memory])
    table(["", "tool", "images/s/core", "range", "of img2dataset", "images/s, wall", "peak MiB", "of img2dataset"], rows)


if __name__ == "__main__":
    main()
