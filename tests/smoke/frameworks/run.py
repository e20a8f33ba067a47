"""Runs scripts of this folder on request, each in a process of its own, with their framework imported once.

    run.py FOLDER MODULES

imports MODULES (comma between them), which makes no call of CUDA, and says `ready`. For each line `NAME SECONDS` on its
standard input it forks and runs NAME.py, whose output goes to FOLDER/NAME.out and FOLDER/NAME.err; what takes longer
than SECONDS is killed with all it started. It answers `NAME STATUS SECONDS`; STATUS is `timeout` if it was killed. With
FRAMEWORKS_STATS=FOLDER the calls of CUDA are counted in FOLDER/NAME.stats, unless a third word `timed` forbids it.
"""

import importlib
import os
import pathlib
import runpy
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


def child(name, out, err, stats):
    os.setsid()
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o644)
        os.dup2(target, number)
        os.close(target)
    os.environ["FRAMEWORKS_NAME"] = name
    if stats:
        os.environ["VGPU_STATS"], os.environ["VGPU_LOG"] = "1", f"{stats}/{name}.stats"
    sys.argv = [str(HERE / f"{name}.py")]
    runpy.run_path(sys.argv[0], run_name="__main__")


def finish(pid, deadline):
    """Waits for a process group's leader; its status, or none after the deadline. Nothing of the group is left."""
    status = None
    while status is None and time.monotonic() < deadline:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        else:
            time.sleep(0.02)
    for kill in (os.killpg, os.kill) if status is None else (os.killpg,):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if status is None:
        os.waitpid(pid, 0)
    return status


def main(folder, modules):
    folder = pathlib.Path(folder)
    sys.path.insert(0, str(HERE))
    for module in modules.split(","):
        importlib.import_module(module)
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        name, seconds, *timed = line.split()
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            stats = None if timed else os.environ.get("FRAMEWORKS_STATS")
            child(name, folder / f"{name}.out", folder / f"{name}.err", stats)
            # A normal end, so that what runs at the end of a process does; an exception has ended it with status 1.
            sys.exit(0)
        status = finish(pid, start + float(seconds))
        print(name, "timeout" if status is None else status, f"{time.monotonic() - start:.2f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
