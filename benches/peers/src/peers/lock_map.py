"""The lock map as it is written in Python: a lock per id, JSON to a temporary file, rename.

usage: lock_map.py update|create DIR CALLERS INSTANCES SECONDS

Prints operations per second. Nothing is flushed to the disk.
"""

import itertools
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

WARM_UP = 0.3


class Store:
    def __init__(self, root):
        self.root = root
        self.locks = {}
        self.states = {}
        self.guard = threading.Lock()

    def lock(self, id):
        with self.guard:
            return self.locks.setdefault(id, threading.Lock())

    def create(self, id):
        with self.lock(id):
            os.mkdir(os.path.join(self.root, id))
            self.states[id] = {"count": 0, "step": "compile", "branch": "main", "note": "x" * 140}
            self.write(id)

    def update(self, id):
        with self.lock(id):
            self.states[id]["count"] += 1
            self.write(id)

    def write(self, id):
        directory = os.path.join(self.root, id)
        descriptor, path = tempfile.mkstemp(dir=directory)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.states[id], file)
        os.replace(path, os.path.join(directory, "state.json"))


def main():
    mode, root, callers, instances, seconds = sys.argv[1:]
    callers, instances, seconds = int(callers), int(instances), float(seconds)
    store = Store(root)
    if mode == "update":
        for number in range(instances):
            store.create(str(number))
    counts = [0] * callers
    stopped = threading.Event()
    numbers = itertools.count()

    def call(caller):
        while not stopped.is_set():
            if mode == "update":
                store.update(str(caller % instances))
            else:
                store.create(f"new-{next(numbers)}")
            counts[caller] += 1

    with ThreadPoolExecutor(max_workers=callers) as pool:
        running = [pool.submit(call, caller) for caller in range(callers)]
        time.sleep(WARM_UP)
        begun, before = time.perf_counter(), sum(counts)
        time.sleep(seconds)
        took, after = time.perf_counter() - begun, sum(counts)
        stopped.set()
        for one in running:
            one.result()
    print((after - before) / took)


main()
