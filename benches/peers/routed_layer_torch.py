"""The routed layer of benches/sparse in PyTorch on the processor, eager and as torch.compile makes it.

    python routed_layer_torch.py FOLDER [--eager | --compiled]

FOLDER holds what `bench-peers layer` wrote: 4096 tokens, width 256, hidden width 1024, one expert per
token, nothing dropped, and a dense block of equal work. Experts come in two forms: a loop over rows sorted
by expert, the usual form on a processor, and one batched product over as many rows per expert as the most
frequent one has. Results and gradients are compared with ours before times are taken. The compiled
half needs a C++ compiler; what does not compile is told.
"""

import sys

import torch
from torch.nn.functional import gelu

import shared

NAMES = ("w1", "b1", "w2", "b2")


def dense(own, x):
    hidden = gelu(x @ own["w1"] + own["b1"], approximate="tanh")
    return hidden @ own["w2"] + own["b2"]


def chosen(own, x):
    return torch.softmax(x @ own["gate"], dim=-1).max(dim=-1)


def loop(own, x):
    weight, expert = chosen(own, x)
    order = torch.argsort(expert)
    sizes = torch.bincount(expert, minlength=len(own["w1"])).tolist()
    # The gradient of `unbind` is one stack; that of an index per expert would be a whole array each.
    experts = zip(*(own[name].unbind() for name in NAMES))
    rows = x[order].split(sizes)
    parts = [dense(dict(zip(NAMES, one)), part) for one, part in zip(experts, rows)]
    result = torch.empty_like(x).index_copy(0, order, torch.cat(parts))
    return result * weight[:, None]


def padded(own, x):
    weight, expert = chosen(own, x)
    count = len(own["w1"])
    order = torch.argsort(expert)
    sizes = torch.bincount(expert, minlength=count)
    most = int(sizes.max())
    starts = sizes.cumsum(0) - sizes
    sorted_experts = expert[order]
    place = sorted_experts * most + torch.arange(len(x)) - starts[sorted_experts]
    rows = x.new_zeros(count * most, x.shape[-1]).index_copy(0, place, x[order])
    rows = rows.view(count, most, -1)
    hidden = torch.baddbmm(own["b1"][:, None], rows, own["w1"])
    parts = torch.baddbmm(own["b2"][:, None], gelu(hidden, approximate="tanh"), own["w2"])
    result = torch.empty_like(x).index_copy(0, order, parts.flatten(0, 1)[place])
    return result * weight[:, None]


def measured(layer, own, x, result, gradients):
    def forward():
        with torch.no_grad():
            return layer(own, x)

    def both():
        loss = layer(own, x).square().mean()
        return dict(zip(own, torch.autograd.grad(loss, list(own.values()))))

    differences = shared.difference(forward(), result), shared.difference(both(), gradients)
    return shared.least(forward) + shared.least(both), differences


def main(folder):
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(shared.HEAD)
    forms = [compiled for word, compiled in (("--eager", False), ("--compiled", True)) if word in sys.argv]
    for compiled in forms or [False, True]:
        for name, title in shared.CASES:
            x, own, expert, *expected = shared.layer(folder, name)
            x = torch.tensor(x)
            own = {key: torch.tensor(value).requires_grad_() for key, value in own.items()}
            if expert is not None:
                shared.same_experts(chosen(own, x).indices, expert)
            for layer in [dense] if expert is None else [loop, padded]:
                what = "compiled" if compiled else "eager"
                own_title = f"{title}, {layer.__name__}, {what}" if expert is not None else f"{title}, {what}"
                torch.compiler.reset()
                run = torch.compile(layer) if compiled else layer
                try:
                    shared.line(own_title, *measured(run, own, x, *expected))
                except Exception as error:  # A missing C++ compiler and a graph it cannot take look alike.
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    print(f"{own_title:<26} skipped: {reason[0]}", flush=True)


main(sys.argv[1])
