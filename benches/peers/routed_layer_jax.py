"""The routed layer of benches/sparse in JAX on the processor, compiled by XLA.

4096 tokens, width 256, hidden width 1024, one expert per token, nothing dropped, against a dense block
of equal work. The experts are `ragged_dot` over rows sorted by expert, the form that JAX offers for it.
Times are processor seconds of the whole process, the least of three runs.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp

TOKENS, WIDTH, HIDDEN, RUNS = 4096, 256, 1024, 3
if "--small" in sys.argv:
    TOKENS = 512


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def gelu(x):
    return jax.nn.gelu(x, approximate=True)


def dense(parameters, x):
    hidden = gelu(x @ parameters["w1"] + parameters["b1"])
    return hidden @ parameters["w2"] + parameters["b2"]


def routed(parameters, x):
    shares = jax.nn.softmax(x @ parameters["gate"])
    expert = jnp.argmax(shares, axis=-1)
    weight = jnp.take_along_axis(shares, expert[:, None], axis=-1)
    order = jnp.argsort(expert)
    sizes = jnp.bincount(expert, length=shares.shape[-1]).astype(jnp.int32)
    own = expert[order]
    rows = x[order]
    hidden = jax.lax.ragged_dot(rows, parameters["w1"], sizes) + parameters["b1"][own]
    result = jax.lax.ragged_dot(gelu(hidden), parameters["w2"], sizes) + parameters["b2"][own]
    return jnp.zeros_like(result).at[order].set(result) * weight


def parameters(experts, key):
    lead = () if experts is None else (experts,)
    keys = jax.random.split(key, 3)
    made = {
        "w1": jax.random.normal(keys[0], (*lead, WIDTH, HIDDEN)) / WIDTH**0.5,
        "b1": jnp.zeros((*lead, HIDDEN)),
        "w2": jax.random.normal(keys[1], (*lead, HIDDEN, WIDTH)) / HIDDEN**0.5,
        "b2": jnp.zeros((*lead, WIDTH)),
    }
    if experts is not None:
        made["gate"] = jax.random.normal(keys[2], (WIDTH, experts)) / WIDTH**0.5
    return made


def least(function, *arguments):
    jax.block_until_ready(function(*arguments))
    best = [float("inf"), float("inf")]
    for _ in range(RUNS):
        begun = (processor_seconds(), time.perf_counter())
        jax.block_until_ready(function(*arguments))
        best[0] = min(best[0], processor_seconds() - begun[0])
        best[1] = min(best[1], time.perf_counter() - begun[1])
    return [1e3 * it for it in best]


def main():
    print(f"jax {jax.__version__}, {jax.devices()[0]}, {TOKENS} tokens")
    print("layer          forward    wall  with backward    wall   (ms; the first is processor time)")
    x = jax.random.normal(jax.random.key(0), (TOKENS, WIDTH))
    for name, experts in [("dense", None), ("8 experts", 8), ("32 experts", 32), ("128 experts", 128)]:
        layer = dense if experts is None else routed
        own = parameters(experts, jax.random.key(1))
        forward = least(jax.jit(layer), own, x)
        loss = jax.jit(jax.grad(lambda own, x: jnp.mean(layer(own, x) ** 2)))
        both = least(loss, own, x)
        print(f"{name:<12} {forward[0]:>9.1f} {forward[1]:>7.1f} {both[0]:>14.1f} {both[1]:>7.1f}", flush=True)


main()
