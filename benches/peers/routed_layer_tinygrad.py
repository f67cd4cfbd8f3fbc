"""The routed layer of benches/sparse in tinygrad, on the adapter that Gatewright uses, through WebGPU.

    python routed_layer_tinygrad.py FOLDER

FOLDER holds what `bench-peers layer` wrote: 4096 tokens, width 256, hidden width 1024, one expert per
token, nothing dropped, and a dense block of equal work. The device is tinygrad's WEBGPU, which is Dawn; where
its library is not, or DEV names another one, that device. Its own expert layer copies a weight matrix for every
token, 4 GB here; this one is a batched product over as many rows per expert as the most frequent one has,
with indices that the host makes of the choices. Results and gradients are compared with ours before times
are taken. A case that takes more than some minutes is given up.
"""

import glob
import os
import signal
import sys
import sysconfig

DAWN = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], f"pydawn/lib/*{os.uname().machine}.so"))
if DAWN and "DEV" not in os.environ:
    os.environ |= {"WEBGPU_PATH": DAWN[0], "DEV": "WEBGPU"}

import numpy
from tinygrad import Device, Tensor, TinyJit

import shared

LIMIT = 240


def gelu(x):
    return 0.5 * x * (1 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh())


def dense(own, x):
    return gelu(x @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"]


def routed(own, x, rows, place, expert):
    shares = (x @ own["gate"]).softmax(-1)
    weight = shares.gather(-1, expert.unsqueeze(-1))
    hidden = gelu(x[rows] @ own["w1"] + own["b1"].unsqueeze(1))
    parts = hidden @ own["w2"] + own["b2"].unsqueeze(1)
    return parts.flatten(0, 1)[place] * weight


def indices(expert, count):
    """The token of each row of each expert, and the row of each token."""
    sizes = numpy.bincount(expert, minlength=count)
    order = numpy.argsort(expert, kind="stable")
    place = numpy.empty(len(expert), numpy.int32)
    rows = numpy.zeros((count, sizes.max()), numpy.int32)
    begin = 0
    for number, size in enumerate(sizes):
        tokens = order[begin : begin + size]
        rows[number, :size] = tokens
        place[tokens] = number * sizes.max() + numpy.arange(size)
        begin += size
    return rows, place


def measured(x, own, expert, result, gradients):
    x, own = Tensor(x).realize(), {key: Tensor(value).realize() for key, value in own.items()}
    names = list(own)

    @TinyJit
    def choose():
        return (x @ own["gate"]).softmax(-1).argmax(-1).realize()

    def given():
        if expert is None:
            return ()
        chosen = choose().numpy()
        made = (*indices(chosen, len(own["w1"])), chosen.astype(numpy.int32))
        return [Tensor(it).realize() for it in made]

    layer = dense if expert is None else routed

    @TinyJit
    def forward(*arguments):
        return layer(own, x, *arguments).realize()

    @TinyJit
    def both(*arguments):
        loss = layer(own, x, *arguments).square().mean()
        found = loss.gradient(*(own[name] for name in names))
        Tensor.realize(*found)
        return found

    def run(pass_):
        found = pass_(*given())
        Device[Device.DEFAULT].synchronize()
        return found

    if expert is not None:
        shared.same_experts(choose().numpy(), expert)
    # The first call traces, the second one records.
    for _ in range(2):
        values = run(forward).numpy()
        found = dict(zip(names, (it.numpy() for it in run(both))))
    differences = shared.difference(values, result), shared.difference(found, gradients)
    return shared.least(lambda: run(forward), 3) + shared.least(lambda: run(both), 3), differences


def give_up(*_):
    raise TimeoutError(f"more than {LIMIT} s")


def main(folder):
    print(f"tinygrad 0.14.0, {Device.DEFAULT}")
    print(shared.HEAD)
    signal.signal(signal.SIGALRM, give_up)
    for name, title in shared.CASES:
        signal.alarm(LIMIT)
        try:
            shared.line(title, *measured(*shared.layer(folder, name)))
        except Exception as error:  # What it cannot compile and what the driver refuses look alike.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            print(f"{title:<26} skipped: {reason[0][:200]}", flush=True)
        signal.alarm(0)


main(sys.argv[1])
