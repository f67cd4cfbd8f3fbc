"""The routed layer of benches/sparse in PyTorch on the processor, eager and as torch.compile makes it.

4096 tokens, width 256, hidden width 1024, one expert per token, nothing dropped, against a dense block
of equal work. Eager experts are a loop over rows sorted by expert, the usual form on a processor. The
compiled half needs a C++ compiler; what does not compile is told. Times are processor seconds of the
whole process and seconds on the wall, the least of some runs.
"""

import resource
import sys
import time

import torch
from torch.nn.functional import gelu

TOKENS, WIDTH, HIDDEN, RUNS = 4096, 256, 1024, 5
NAMES = ("w1", "b1", "w2", "b2")
if "--small" in sys.argv:
    TOKENS = 512


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def dense(own, x):
    hidden = gelu(x @ own["w1"] + own["b1"], approximate="tanh")
    return hidden @ own["w2"] + own["b2"]


def routed(own, x):
    shares = torch.softmax(x @ own["gate"], dim=-1)
    weight, expert = shares.max(dim=-1)
    order = torch.argsort(expert)
    sizes = torch.bincount(expert, minlength=shares.shape[-1]).tolist()
    # The gradient of `unbind` is one stack; that of an index per expert would be a whole array each.
    experts = zip(*(own[name].unbind() for name in NAMES))
    rows = x[order].split(sizes)
    parts = [dense(dict(zip(NAMES, one)), part) for one, part in zip(experts, rows)]
    result = torch.empty_like(x).index_copy(0, order, torch.cat(parts))
    return result * weight[:, None]


def parameters(experts):
    lead = () if experts is None else (experts,)
    made = {
        "w1": torch.randn(*lead, WIDTH, HIDDEN) / WIDTH**0.5,
        "b1": torch.zeros(*lead, HIDDEN),
        "w2": torch.randn(*lead, HIDDEN, WIDTH) / HIDDEN**0.5,
        "b2": torch.zeros(*lead, WIDTH),
    }
    if experts is not None:
        made["gate"] = torch.randn(WIDTH, experts) / WIDTH**0.5
    return {name: value.requires_grad_() for name, value in made.items()}


def least(run):
    run()
    best = [float("inf"), float("inf")]
    for _ in range(RUNS):
        begun = (processor_seconds(), time.perf_counter())
        run()
        best[0] = min(best[0], processor_seconds() - begun[0])
        best[1] = min(best[1], time.perf_counter() - begun[1])
    return [1e3 * it for it in best]


def measured(layer, own, x):
    def forward():
        with torch.no_grad():
            layer(own, x)

    def both():
        loss = layer(own, x).square().mean()
        torch.autograd.grad(loss, list(own.values()))

    return least(forward) + least(both)


def main():
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {TOKENS} tokens")
    print("layer                  forward    wall  with backward    wall   (ms; the first is processor time)")
    x = torch.randn(TOKENS, WIDTH)
    cases = [("dense", None), ("8 experts", 8), ("32 experts", 32), ("128 experts", 128)]
    forms = ["eager"] if "--eager" in sys.argv else ["eager", "compiled"]
    for form in forms:
        for name, experts in cases:
            layer = dense if experts is None else routed
            if form == "compiled":
                torch.compiler.reset()
                layer = torch.compile(layer)
            title = f"{name}, {form}"
            try:
                times = measured(layer, parameters(experts), x)
            except Exception as error:  # A missing C++ compiler and a graph it cannot take look alike.
                reason = str(error).strip().splitlines() or [type(error).__name__]
                print(f"{title:<22} skipped: {reason[0]}", flush=True)
                continue
            line = "{:>8.1f} {:>7.1f} {:>14.1f} {:>7.1f}".format(*times)
            print(f"{title:<22} {line}", flush=True)


main()
