"""Exports against tar of the same bytes, and their memory at ten times as many images.

    export.py --ddl target/release/ddl --work FOLDER [--images 4000] [--rounds 3]

A dataset of noise (pictures that no codec makes smaller, 400 KB on average) is downloaded from a server on this machine,
once small and once with ten times as many images. The floor is `tar cf` over a folder with the same images as files, all in
the page cache, with a sync at the end as ddl's. All in one run, in turns.
"""

import argparse
import http.server
import os
import random
import shutil
import subprocess
import sys
import threading

from PIL import Image

from measure import machine, run, table

FORMATS = {
    "webdataset": ["webdataset"],
    "imagefolder": ["imagefolder"],
    "parquet": ["parquet", "--validation", "0", "--test", "0"],
}


def pictures(folder, num):
    """A few pictures of noise, between 100 and 700 KB."""
    for number in range(num):
        side = 200 + 50 * (number % 8)
        picture = Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side))
        picture.resize((side * 2, side * 2)).save(f"{folder}/{number}.jpg", quality=95)


class Server(http.server.BaseHTTPRequestHandler):
    """Each URL has bytes of its own: a picture with the path behind its end."""

    bodies = []
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = int("".join(filter(str.isdigit, self.path)) or 0)
        body = self.bodies[number % len(self.bodies)]
        comment = self.path.encode()
        body = body[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + body[2:]
        if self.path == "/robots.txt":
            self.send_response(404)
            body = b""
        else:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def dataset(ddl, work, port, num):
    folder = f"{work}/{num}"
    os.makedirs(folder)
    with open(f"{folder}/list.csv", "w") as file:
        file.write("id,url,label\n")
        for number in range(num):
            file.write(f"{number},http://s{number % 4}.example/{number}.jpg,label {number % 50}\n")
    with open(f"{folder}/ddl.yaml", "w") as file:
        file.write(
            "path_to_input: list.csv\npath_to_output_folder: out\nuser_agent: bench (bench@ddl.example)\n"
            f"connect_to: ['::127.0.0.1:{port}']\ncolumns: {{id: id, label: label}}\nrate_control: fixed\n"
            "downloader_parameters: {default_rate_limit: 0}\n"
        )
    for verb in ["ingest", "download"]:
        run([ddl, verb, "-q"], cwd=folder)
    return folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ddl", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ddl, work = os.path.abspath(args.ddl), os.path.abspath(args.work)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(f"{work}/pictures")
    pictures(f"{work}/pictures", 32)
    Server.bodies = [open(f"{work}/pictures/{name}", "rb").read() for name in os.listdir(f"{work}/pictures")]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    small, large = (dataset(ddl, work, server.server_address[1], num) for num in [args.images // 10, args.images])
    run([ddl, "export", "imagefolder", "-o", "files", "-q"], cwd=large)
    megabytes = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(f"{large}/files") for name in names) / 1e6
    run(["bash", "-c", "cat out/downloaded_images/*/*/*.parquet > /dev/null"], cwd=large)

    walls = {name: [] for name in ["tar", *FORMATS]}
    cpus = {name: [] for name in walls}
    peaks = {name: {small: 0, large: 0} for name in walls}
    for _ in range(args.rounds):
        for name in walls:
            for folder in [small, large]:
                if name == "tar":
                    if folder == small:
                        continue
                    command = ["bash", "-c", "tar cf floor.tar files && sync floor.tar"]
                else:
                    command = [ddl, "export", *FORMATS[name], "-o", "export", "-q"]
                measured = run(command, cwd=folder)
                peaks[name][folder] = max(peaks[name][folder], measured.peak_mib)
                if folder == large:
                    walls[name].append(measured.wall)
                    cpus[name].append(measured.cpu)
                shutil.rmtree(f"{folder}/export", ignore_errors=True)
                if os.path.exists(f"{folder}/floor.tar"):
                    os.remove(f"{folder}/floor.tar")
    median = lambda values: sorted(values)[len(values) // 2]
    floor = megabytes / median(walls["tar"])
    rows = []
    for name in walls:
        speed = megabytes / median(walls[name])
        rows.append(
            [name, f"{speed:,.0f}", f"{speed / floor:.2f}", f"{median(cpus[name]):.1f}", f"{peaks[name][small]:,.0f}", f"{peaks[name][large]:,.0f}"]
        )
    print(machine())
    print(f"{args.images} images, {megabytes:,.0f} MB; median of {args.rounds} rounds\n")
    table(["", "MB/s", "of tar", "CPU s", "peak MiB, a tenth", "peak MiB"], rows)


if __name__ == "__main__":
    sys.exit(main())
