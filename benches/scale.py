"""Download at the ends of the scale: many requests under way, and very many servers.

    scale.py --ddl target/release/ddl --work FOLDER [--under-way 2000] [--records 1000000] [--servers 300000]

One nginx listens on all of 127.0.0.0/8, so that every loopback address is a server of its own; it needs no root, and no
name server. Printed are the wall and CPU time, the peak of memory and of open files, and what the servers saw.

- under way: every answer waits a second; the photos have 411 KiB on average. ddl may have 2,000 requests under way.
- servers: a crawl's list, a few small images on each of very many servers, with the defaults that a user has (robots.txt
  is asked for, 10 requests/s to each server). Nobody starves: every image is there at the end, and the column `last
  server` says when the last server was first asked, as a part of the run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading

import photos
from measure import Nginx, machine, run, table

PORT = 23479

NGINX = """
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 1; worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    log_format times "$msec $server_addr"; access_log {work}/access.log times buffer=64k flush=1s;
    sendfile on; types {{ image/jpeg jpg; }} keepalive_requests 100000;
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work}; uwsgi_temp_path {work};
    scgi_temp_path {work};
    server {{ listen 0.0.0.0:{port} backlog=32768; root {photos};
        location /robots.txt {{ return 404; }}
        {delay} }}
}}
"""
DELAY = "location / {{ echo_sleep 1; echo_exec /now$uri; }} location /now/ {{ internal; alias {photos}/; }}"

CONFIG = """
path_to_input: {work}/list.parquet
path_to_output_folder: {work}/output
user_agent: ddl-bench (bench@ddl.example)
allow_private_networks: true
{more}
"""


class OpenFiles:
    """The most files that any process of this name had open, looked at twice a second."""

    def __init__(self, program):
        self.program, self.most, self.ended = os.path.realpath(program), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.ended.wait(0.5):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/exe") == self.program:
                        self.most = max(self.most, len(os.listdir(f"/proc/{pid}/fd")))
                except OSError:
                    pass

    def stop(self):
        self.ended.set()
        self.thread.join()
        return self.most


def measure(ddl, work, folder, urls, more, delay):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"url": urls}), f"{work}/list.parquet")
    shutil.rmtree(f"{work}/output", ignore_errors=True)
    config = f"{work}/ddl.yaml"
    with open(config, "w") as file:
        file.write(CONFIG.format(work=work, more=more))
    command = [ddl, "--no-progress", "-q", "-c", config]
    ingest = run([*command, "ingest"])
    open(f"{work}/access.log", "w").close()
    delay = DELAY.format(photos=folder) if delay else ""
    configuration = NGINX.format(work=work, port=PORT, photos=folder, delay=delay)
    nginx, files = Nginx(work, configuration, f"http://127.0.0.1:{PORT}/00000.jpg"), OpenFiles(ddl)
    try:
        download = run([*command, "download"])
    finally:
        nginx.stop()
        most_files = files.stop()
    counted = run([*command, "query", "--format", "csv", "SELECT count(*), count(DISTINCT server_name) FROM images"])
    images, servers = map(int, counted.output.split()[-1].split(","))
    first, last = {}, 0.0
    with open(f"{work}/access.log") as file:
        for line in file:
            at, address = line.split()
            first.setdefault(address, float(at))
            last = max(last, float(at))
    start = min(first.values())
    found = subprocess.run(["find", f"{work}/output", "-type", "f"], stdout=subprocess.PIPE, text=True).stdout
    num_files = found.count("\n")
    kib = int(subprocess.run(["du", "-sk", f"{work}/output"], stdout=subprocess.PIPE, text=True).stdout.split()[0])
    catalog = os.stat(f"{work}/output/catalog.redb").st_blocks * 512 / 2**20
    if images != len(urls):
        print(download.output[-3000:], file=sys.stderr)
        sys.exit(f"{images} of {len(urls)} images")
    return [
        f"{len(urls):,}", f"{servers:,}", f"{ingest.wall:,.0f}", f"{ingest.peak_mib:,.0f}", f"{download.wall:,.0f}",
        f"{download.cpu:,.0f}", f"{len(urls) / download.wall:,.0f}", f"{download.peak_mib:,.0f}", f"{most_files:,}",
        f"{(max(first.values()) - start) / (last - start):.2f}", f"{num_files:,}", f"{kib / 2**10:,.0f}",
        f"{catalog:,.0f}",
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ddl", required=True)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--under-way", type=int, default=2000)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--servers", type=int, default=300_000)
    arguments.add_argument("--only", choices=["under-way", "servers"])
    args = arguments.parse_args()
    ddl, work = os.path.abspath(args.ddl), os.path.abspath(args.work)
    os.makedirs(work, exist_ok=True)
    rows = []
    if args.only != "servers":
        made = photos.make(f"{work}/photos", 500)
        # Four connections to each of so many servers.
        servers, number = args.under_way // 4, 10 * args.under_way
        urls = [url(n % servers, f"{n % len(made):05}.jpg?{n}") for n in range(number)]
        more = f"rate_control: fixed\ndownloader_parameters: {{default_rate_limit: 0, max_connections_per_server: 4, " \
               f"max_in_flight: {args.under_way}, image_size: 0, max_open_partitions: {servers}}}"
        rows.append([f"{args.under_way:,} under way", *measure(ddl, work, f"{work}/photos", urls, more, True)])
    if args.only != "under-way":
        folder = small_photos(work)
        urls = [url(n % args.servers, f"{n % 100:05}.jpg?{n}") for n in range(args.records)]
        more = "downloader_parameters: {image_size: 0}"
        rows.append(["many servers", *measure(ddl, work, folder, urls, more, False)])
    shutil.rmtree(f"{work}/output", ignore_errors=True)
    print(f"Scale on {machine()}\n")
    table(["", "records", "servers", "ingest s", "ingest MiB", "download s", "CPU s", "images/s", "peak MiB", "open files",
           "last server", "files", "dataset MiB", "catalog MiB"], rows)


def url(server, path):
    return f"http://127.{1 + server // 62_500}.{server // 250 % 250}.{1 + server % 250}:{PORT}/{path}"


def small_photos(work):
    """A hundred photos of 160 pixels, some 6 KiB each."""
    import cv2

    folder = f"{work}/small"
    os.makedirs(folder, exist_ok=True)
    for path in photos.make(f"{work}/photos", 500)[:100]:
        photo = cv2.imread(path)
        small = cv2.resize(photo, (160, 160 * photo.shape[0] // photo.shape[1]), interpolation=cv2.INTER_AREA)
        cv2.imwrite(f"{folder}/{os.path.basename(path)}", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return folder


if __name__ == "__main__":
    main()
