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

LIMIT = 240  # seconds of processor time
# Its tiles want sizes with many divisors.
ROUND = 64


def gelu(x):
    return 0.5 * x * (1 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh())


def dense(own, x):
    return gelu(x @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"]


def parts(own, x, expert, rows):
    """What every row of every expert gives to its token."""
    weight = (x @ own["gate"]).softmax(-1).gather(-1, expert.unsqueeze(-1))
    hidden = gelu(x[rows].contiguous() @ own["w1"] + own["b1"].unsqueeze(1)).contiguous()
    return (hidden @ own["w2"] + own["b2"].unsqueeze(1)).contiguous() * weight[rows]


def routed(own, x, expert, rows, place, used):
    return parts(own, x, expert, rows).flatten(0, 1)[place]


def dense_loss(own, x):
    return dense(own, x).square().mean()


def routed_loss(own, x, expert, rows, place, used):
    """A number with the gradient of the mean square of `routed`. The gradient of a gather is a product with a
    matrix of zeros and ones here; that of tokens for rows is another gather, said by hand."""
    given = parts(own, x, expert, rows)
    result = given.flatten(0, 1)[place].detach()
    gradient = (result * (2 / result.numel())).contiguous()[rows] * used.unsqueeze(-1)
    return (given * gradient.contiguous().detach()).sum()


def indices(expert, count):
    """The token of each row of each expert, the row of each token, and which rows are used."""
    sizes = numpy.bincount(expert, minlength=count)
    order = numpy.argsort(expert, kind="stable")
    place = numpy.empty(len(expert), numpy.int32)
    most = -(-sizes.max() // ROUND) * ROUND
    rows = numpy.zeros((count, most), numpy.int32)
    used = numpy.zeros(rows.shape, numpy.float32)
    begin = 0
    for number, size in enumerate(sizes):
        tokens = order[begin : begin + size]
        rows[number, :size], used[number, :size] = tokens, 1
        place[tokens] = number * most + numpy.arange(size)
        begin += size
    return rows, place, used


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
        made = (chosen.astype(numpy.int32), *indices(chosen, len(own["w1"])))
        return [Tensor(it).realize() for it in made]

    layer, loss = (dense, dense_loss) if expert is None else (routed, routed_loss)

    @TinyJit
    def forward(*arguments):
        return layer(own, x, *arguments).realize()

    @TinyJit
    def both(*arguments):
        found = loss(own, x, *arguments).gradient(*(own[name] for name in names))
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
    raise TimeoutError


def main(folder):
    print(f"tinygrad 0.14.0, {Device.DEFAULT}")
    print(shared.HEAD)
    signal.signal(signal.SIGPROF, give_up)
    for name, title in shared.CASES:
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        begun = shared.processor_seconds()
        try:
            shared.line(title, *measured(*shared.layer(folder, name)))
        except Exception as error:  # What it cannot compile and what the driver refuses look alike.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if shared.processor_seconds() - begun > LIMIT:
                reason = f"more than {LIMIT} s of processor time"
            print(f"{title:<26} skipped: {reason}", flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


main(sys.argv[1])
