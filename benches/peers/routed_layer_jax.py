"""The routed layer of benches/sparse in JAX on the processor, compiled by XLA.

    python routed_layer_jax.py FOLDER

FOLDER holds what `bench-peers layer` wrote: 4096 tokens, width 256, hidden width 1024, one expert per
token, nothing dropped, and a dense block of equal work. The experts are `ragged_dot` over rows sorted by
expert, the form that JAX offers for it. Results and gradients are compared with ours before times are
taken. With 128 experts the way back is left out: it takes minutes.
"""

import sys

import jax
import jax.numpy as jnp
import numpy

import shared


def gelu(x):
    return jax.nn.gelu(x, approximate=True)


def dense(own, x):
    return gelu(x @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"]


def routed(own, x):
    shares = jax.nn.softmax(x @ own["gate"])
    expert = jnp.argmax(shares, axis=-1)
    weight = jnp.take_along_axis(shares, expert[:, None], axis=-1)
    order = jnp.argsort(expert)
    sizes = jnp.bincount(expert, length=shares.shape[-1]).astype(jnp.int32)
    chosen = expert[order]
    hidden = jax.lax.ragged_dot(x[order], own["w1"], sizes) + own["b1"][chosen]
    result = jax.lax.ragged_dot(gelu(hidden), own["w2"], sizes) + own["b2"][chosen]
    return jnp.zeros_like(result).at[order].set(result) * weight


def main(folder):
    print(f"jax {jax.__version__}, {jax.devices()[0]}")
    print(shared.HEAD)
    for name, title in shared.CASES:
        x, own, expert, result, gradients = shared.layer(folder, name)
        if expert is not None:
            shared.same_experts(jnp.argmax(x @ own["gate"], axis=-1), expert)
        x, own = jnp.asarray(x), {key: jnp.asarray(value) for key, value in own.items()}
        layer = dense if expert is None else routed
        forward = jax.jit(layer)
        both = jax.jit(jax.grad(lambda own, x: jnp.mean(layer(own, x) ** 2)))
        slow = name == "128"
        differences = [shared.difference(forward(own, x), result), float("nan")]
        times = shared.least(lambda: jax.block_until_ready(forward(own, x)), 1 if slow else 3)
        if slow:
            times += [float("nan")] * 2
        else:
            found = {key: numpy.asarray(value) for key, value in both(own, x).items()}
            differences[1] = shared.difference(found, gradients)
            times += shared.least(lambda: jax.block_until_ready(both(own, x)), 3)
        shared.line(title, times, differences)


main(sys.argv[1])
