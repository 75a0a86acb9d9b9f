#!/usr/bin/env python3
"""Runs units on TaskVine, for those who come from FLOW-DC: a task for each, whose result is one file.

    conda install -c conda-forge ndcctools
    scripts/engines/taskvine.py units results --port 9123 --ddl ./ddl
    vine_worker HOST 9123                          # on any machines, as many as you like; they may come and go
    ddl unit import results/*.zip

Unlike FLOW-DC's manager it may be killed and started again: results that are there are not made again. A task runs the same
command as under any other engine. It is not part of ddl's tests, since TaskVine is in no package registry that they use;
the same pattern is tested with Makeflow on Work Queue.
"""

import argparse
import pathlib
import shutil
import sys

import ndcctools.taskvine as vine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=9123)
    parser.add_argument("--ddl", default=shutil.which("ddl"), help="the program, which workers get")
    parser.add_argument("--retries", type=int, default=5, help="of a task whose worker is lost, or that ends with 75")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4000, help="MB of a task")
    parser.add_argument("--disk", type=int, default=20000, help="MB of a task: twice the bytes of its images")
    args = parser.parse_args()
    if args.ddl is None:
        parser.error("ddl is not in PATH: --ddl names it")

    args.results.mkdir(parents=True, exist_ok=True)
    manager = vine.Manager(args.port)
    print(f"listening on port {manager.port}", file=sys.stderr)
    program = manager.declare_file(args.ddl, cache="worker")
    for unit in sorted(args.units.glob("partition_*.parquet")):
        result = args.results / f"{unit.stem}.result.zip"
        if result.exists():
            continue
        task = vine.Task(f"./ddl unit run --no-progress -o {result.name} {unit.name}")
        task.add_input(program, "ddl")
        task.add_input(manager.declare_file(str(unit)), unit.name)
        task.add_output(manager.declare_file(str(result)), result.name)
        task.set_retries(args.retries)
        task.set_cores(args.cores)
        task.set_memory(args.memory)
        task.set_disk(args.disk)
        task.set_tag(unit.name)
        manager.submit(task)

    failed = 0
    while not manager.empty():
        task = manager.wait(5)
        if task is None:
            continue
        if task.successful():
            print(f"{task.tag}: done", file=sys.stderr)
        else:
            failed += 1
            print(f"{task.tag}: {task.result}, exit code {task.exit_code}\n{task.output}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
