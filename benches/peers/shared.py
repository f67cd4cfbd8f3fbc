"""What every peer in Python does alike: reads files, compares, measures.

Files are those that `bench-peers` (main.rs) writes: safetensors of f32 and u32 alone. Times are milliseconds of
processor time of the whole process and on the wall, the least of some runs after the first one.
"""

import json
import os
import resource
import time

import numpy

TYPES = {"F32": numpy.float32, "U32": numpy.uint32}
CASES = [("dense", "dense"), ("8", "8 experts"), ("32", "32 experts"), ("128", "128 experts")]
HEAD = "layer                       forward    wall  with backward    wall   (ms; the first is processor time)"


def tensors(path):
    """The tensors of a file, by name."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = numpy.frombuffer(data[begin:end], TYPES[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def layer(folder, name):
    """Tokens in one list, parameters, expected results and gradients of a layer."""
    found = tensors(os.path.join(folder, f"layer-{name}.safetensors"))
    width = found["x"].shape[-1]
    rows = {key: found[key].reshape(-1, width) for key in ("x", "result")}
    own = {key: found[key] for key in ("gate", "w1", "b1", "w2", "b2") if key in found}
    gradients = {key: found[f"grad.{key}"] for key in own}
    expert = found["expert"].reshape(-1) if "expert" in found else None
    return rows["x"], own, expert, rows["result"], gradients


def difference(found, expected):
    """The largest difference as a share of the largest number; the worst of several arrays."""
    if isinstance(expected, dict):
        return max(difference(found[name], value) for name, value in expected.items())
    return float(numpy.abs(numpy.asarray(found) - expected).max() / numpy.abs(expected).max())


def same_experts(found, expected):
    """Stops where another expert than ours was chosen for a token."""
    other = int((numpy.asarray(found).reshape(-1) != expected).sum())
    if other:
        raise SystemExit(f"{other} tokens went to another expert")


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def least(run, runs=5):
    run()
    best = [float("inf"), float("inf")]
    for _ in range(runs):
        begun = (processor_seconds(), time.perf_counter())
        run()
        best[0] = min(best[0], processor_seconds() - begun[0])
        best[1] = min(best[1], time.perf_counter() - begun[1])
    return [1e3 * it for it in best]


def line(title, times, differences):
    times = "{:>8.1f} {:>7.1f} {:>14.1f} {:>7.1f}".format(*times)
    result, gradients = differences
    print(f"{title:<26} {times}   differs by {result:.1e}, gradients by {gradients:.1e}", flush=True)


def first_step():
    """Tells the time since the process was started, if that is known, and what it and its compilers have worked."""
    if "PEERS_BEGUN" in os.environ:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = processor_seconds() + children.ru_utime + children.ru_stime
        waited = time.time() - float(os.environ["PEERS_BEGUN"])
        print(f"first step after {waited:.1f} s, {worked:.1f} s of processors", flush=True)


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
