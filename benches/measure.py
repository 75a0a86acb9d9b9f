"""Runs a command as a whole process tree and says what it took.

Wall time, CPU time of the whole tree (user and system, from the kernel's accounting of waited-for children), and
the peak of resident memory: the sum of the tree's proportional set sizes, so that pages shared by several
processes count once, sampled ten times a second.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass


@dataclass
class Measured:
    wall: float
    cpu: float
    peak_mib: float
    output: str


def _tree(root):
    """Process ids of a process and all beneath it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _resident_kib(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def run(command, cwd=None, env=None, check=True):
    """Runs a command to its end; its output goes to a text that is shown when it fails."""
    peak = 0
    ended = threading.Event()
    with open(os.devnull) as nothing:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def watch():
            nonlocal peak
            while not ended.wait(0.1):
                peak = max(peak, sum(_resident_kib(pid) for pid in _tree(process.pid)))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if check and process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nexited with {process.returncode}:\n{output[-4000:]}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, peak / 1024, output)


class Nginx:
    """A running nginx; `url` is answered as soon as it serves."""

    def __init__(self, work, configuration, url):
        path = f"{work}/nginx.conf"
        with open(path, "w") as file:
            file.write(configuration)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen([program, "-c", path, "-p", work], stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                urllib.request.urlopen(url).close()
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("nginx did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def machine():
    """One line on the machine, for the tables."""
    model = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU"
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


def table(header, rows):
    """Prints a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)
