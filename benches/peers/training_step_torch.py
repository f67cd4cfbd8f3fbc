"""Training steps of LIMoE and of FLAVA on pairs in PyTorch on the processor, beside ours.

    python training_step_torch.py limoe|flava FOLDER [--compiled] [--steps N] [--threads N]

FOLDER holds what `bench-peers batches` wrote: first parameters, batches, and what AdamW does in each step; and
what `bench-peers steps` wrote: our losses. The models are those of models/limoe/limoe.gate (one tower, experts
that serve the surest tokens first, as many as their capacity; no noise) and of models/flava/flava.gate (objective
`pairs`, with the codes of patches given). Parameters have our names and shapes. Times are milliseconds of
processor time and on the wall, of the steps after the first ten.
"""

import json
import math
import os
import sys
import time

import numpy
import torch
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, scaled_dot_product_attention

import shared

WARM = 10
BOUNDS = (1e-5, 1e-3)


class Model:
    """Parameters by our names, and the layers that both models have."""

    def __init__(self, own, dims):
        self.own, self.dims = own, dims

    def linear(self, name, x):
        y = x @ self.own[f"{name}.kernel"]
        bias = self.own.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name, x):
        own = (self.own[f"{name}.scale"], self.own[f"{name}.bias"])
        return layer_norm(x, x.shape[-1:], *own, eps=self.eps)

    def attention(self, name, x, mask=None):
        batch, length, width = x.shape
        heads = self.dims["H"]

        def split(part):
            rows = self.linear(f"{name}.{part}", x)
            return rows.view(batch, length, heads, width // heads).transpose(1, 2)

        mask = None if mask is None else mask[:, None, None, :]
        mixed = scaled_dot_product_attention(split("q"), split("k"), split("v"), attn_mask=mask)
        return self.linear(f"{name}.o", mixed.transpose(1, 2).reshape(x.shape))

    def mlp(self, name, x):
        hidden = gelu(self.linear(f"{name}.fc1", x), approximate=self.gelu)
        return self.linear(f"{name}.fc2", hidden)


class Limoe(Model):
    objective, eps, gelu = "objective.pretrain", 1e-6, "tanh"
    image_experts, text_experts = 5, 2

    def losses(self, batch):
        image, text = batch["image"], batch["text"]
        side, patch = self.dims["S"], self.dims["P"]
        grid = side // patch
        patches = image.view(-1, grid, patch, grid, patch, 3).transpose(2, 3)
        patches = patches.reshape(len(image), grid * grid, -1)
        streams = [
            self.linear("seen.linear", patches) + self.own["seen.positions.table"],
            self.own["read.embedding.table"][text] + self.own["read.positions.table"],
        ]
        balance = 0
        for layer in range(self.dims["L"]):
            name = f"trunk.{layer}"
            streams = [x + self.attention(f"{name}.attention", self.norm(f"{name}.norm", x)) for x in streams]
            normed = [self.norm(f"{name}.norm_2", x) for x in streams]
            if f"{name}.mlp.fc1.kernel" in self.own:
                streams = [x + self.mlp(f"{name}.mlp", y) for x, y in zip(streams, normed)]
                continue
            flat = [y.flatten(0, 1) for y in normed]
            result, term = self.experts(f"{name}.ffn", *flat)
            balance = balance + term
            parts = result.split([len(y) for y in flat])
            streams = [x + part.view(x.shape) for x, part in zip(streams, parts)]
        u, v = (
            self.unit(self.linear(head, self.norm("trunk.norm", x).mean(1)))
            for head, x in zip(("u.image_head", "v.text_head"), streams)
        )
        logits = self.own["contrastive.learned_log.log_scale"].exp() * (u @ v.T)
        own = torch.arange(len(u))
        contrastive = 0.5 * (cross_entropy(logits, own) + cross_entropy(logits.T, own))
        return contrastive + 0.04 * balance

    def unit(self, z):
        return z / (z.square().sum(-1, keepdim=True).sqrt() + 1e-8)

    def experts(self, name, image, text):
        """What experts make of both streams, and the mean of the balance losses."""
        x = torch.cat([image, text])
        logits = self.linear(f"{name}.gate.linear", x)
        count, tokens = logits.shape[-1], len(x)
        room = math.ceil(tokens * 1.05 / count)
        weight, expert = logits.softmax(-1).max(-1)
        surest = weight.detach().argsort(descending=True, stable=True)
        order = surest[expert[surest].argsort(stable=True)]
        sizes = (expert[:, None] == torch.arange(count)).sum(0)
        own = expert[order]
        rank = torch.arange(tokens) - (sizes.cumsum(0) - sizes)[own]
        # Rows behind the last expert's are those of tokens that are not served.
        place = torch.where(rank < room, own * room + rank, count * room)
        rows = x.new_zeros(count * room + 1, x.shape[-1]).index_copy(0, place, x[order])
        rows = rows[:-1].view(count, room, -1)
        one, two = (
            [self.own[f"{name}.expert.{layer}.{part}"] for part in ("bias", "kernel")]
            for layer in ("fc1", "fc2")
        )
        hidden = gelu(torch.baddbmm(one[0][:, None], rows, one[1]), approximate=self.gelu)
        made = torch.baddbmm(two[0][:, None], hidden, two[1]).flatten(0, 1)
        made = torch.cat([made, made.new_zeros(1, made.shape[-1])])[place]
        result = torch.empty_like(x).index_copy(0, order, made * weight[order][:, None])
        return result, self.balance(logits, len(image))

    def balance(self, logits, images):
        shares, logs = logits.softmax(-1), logits.log_softmax(-1)
        importance = shares.sum(0)
        terms = [
            importance.var(unbiased=False) / importance.mean().square(),
            logits.logsumexp(-1).square().mean(),
        ]
        for part, least in ((slice(images), self.image_experts), (slice(images, None), self.text_experts)):
            mean = shares[part].mean(0)
            terms.append(-(shares[part] * logs[part]).sum(-1).mean())
            terms.append((math.log(least) + (mean * mean.clamp(min=1e-30).log()).sum()).relu())
        return torch.stack(terms).mean()


class Flava(Model):
    objective, eps, gelu = "objective.pairs", 1e-12, "none"

    def losses(self, batch):
        shown, matched = batch["shown"].bool(), batch["matched"].bool()
        positive = matched | ~matched.any()
        image = self.image(batch["image"])
        text = self.text(batch["text"], shown)
        both = self.both(
            self.image(batch["image"], batch["masked_patches"].bool()),
            self.text(batch["masked_text"], shown),
            shown,
        )
        pooled = self.linear("itm_head.pooler", both[:, 0]).tanh()
        itm = cross_entropy(self.linear("itm_head.seq_relationship", pooled), matched.long())
        patches = batch["masked_patches"].shape[1]
        masked = [
            ("mmm_image_head", both[:, 2 : patches + 2], "masked_patches", "codes", 6 * len(both)),
            ("mmm_text_head", both[:, patches + 2 :], "masked_words", "text", self.most_words),
        ]
        masked = [self.masked(batch, positive, *one) for one in masked]
        return itm + self.contrastive(image, text, positive) + sum(masked)

    most_words = 8

    def contrastive(self, image, text, positive):
        u, v = (
            self.unit(self.linear(f"{name}_projection.linear", self.norm(f"{name}_encoder.norm", x)[:, 0]))
            for name, x in (("image", image), ("text", text))
        )
        log_scale = self.own["logit_scale.learned_log.log_scale"]
        held = log_scale.clamp(0, math.log(100))
        logits = (log_scale + (held - log_scale).detach()).exp() * (u @ v.T)
        each = 0.5 * (logits.logsumexp(1) + logits.logsumexp(0)) - logits.diagonal()
        return self.mean_where(each, positive)

    def masked(self, batch, positive, head, rows, mask, target, most):
        mask = (batch[mask].bool() & positive[:, None]).flatten()
        places = torch.nonzero_static(mask, size=most, fill_value=0)[:, 0]
        hidden = gelu(self.linear(f"{head}.prediction.dense", rows.flatten(0, 1)[places]))
        logits = self.linear(f"{head}.prediction.decoder", self.norm(f"{head}.prediction.norm", hidden))
        each = cross_entropy(logits, batch[target].flatten()[places], reduction="none")
        return self.mean_where(each, torch.arange(most) < mask.sum())

    def mean_where(self, values, keep):
        return torch.where(keep, values, 0.0).sum() / keep.sum().clamp(min=1)

    def unit(self, z):
        return z / (z.square().sum(-1, keepdim=True).sqrt() + self.eps)

    def layers(self, name, x, mask=None):
        layer = 0
        while f"{name}.{layer}.norm.scale" in self.own:
            own = f"{name}.{layer}"
            x = x + self.attention(f"{own}.attention", self.norm(f"{own}.norm", x), mask)
            x = x + self.mlp(f"{own}.mlp", self.norm(f"{own}.norm_2", x))
            layer += 1
        return x

    def image(self, image, masked=None):
        side, patch = self.dims["S"], self.dims["P"]
        grid = side // patch
        kernel = self.own["image_encoder.patches.kernel"].flatten(0, 2)
        patches = image.view(-1, grid, patch, grid, patch, 3).transpose(2, 3)
        seen = patches.reshape(len(image), grid * grid, -1) @ kernel + self.own["image_encoder.patches.bias"]
        if masked is not None:
            seen = torch.where(masked[:, :, None], self.own["image_encoder.mask_token"], seen)
        rows = self.with_class("image_encoder", seen) + self.own["image_encoder.positions.table"]
        return self.layers("image_encoder", rows)

    def text(self, text, shown):
        words = embedding(text, self.own["text_encoder.words.table"], padding_idx=0)
        positions = self.own["text_encoder.positions.table"][: text.shape[1]]
        rows = words + self.own["text_encoder.kinds.table"][0] + positions
        return self.layers("text_encoder", self.norm("text_encoder.embedding_norm", rows), shown)

    def both(self, image, text, shown):
        name = "multimodal_encoder"
        parts = [self.linear(f"{name}.image_projection", image), self.linear(f"{name}.text_projection", text)]
        rows = self.with_class(name, torch.cat(parts, 1))
        keys = torch.cat([shown.new_ones(len(shown), rows.shape[1] - shown.shape[1]), shown], 1)
        return self.norm(f"{name}.norm", self.layers(name, rows, keys))

    def with_class(self, name, rows):
        row = self.own[f"{name}.class.row"].expand(len(rows), 1, -1)
        return torch.cat([row, rows], 1)


def batches(folder):
    found = {}
    for name, value in shared.tensors(os.path.join(folder, "batches.safetensors")).items():
        number, name = name.split(".", 1)
        value = value if value.dtype == numpy.float32 else value.astype(numpy.int64)
        found.setdefault(int(number), {})[name] = torch.tensor(value)
    return found


def compared(whose, others, losses):
    """How far two runs are apart; what rounding alone does is seen between an eager and a compiled run."""
    pairs = list(zip(others, losses))
    apart = [abs(a - b) / abs(a) for a, b in pairs]
    beyond = {bound: next((step for step, it in enumerate(apart) if it > bound), None) for bound in BOUNDS}
    beyond = (f"{'never' if step is None else f'from step {step}'} beyond {it:.0e}" for it, step in beyond.items())
    print(
        f"losses: {pairs[0][1]:.6f} to {pairs[-1][1]:.6f}, {whose} {pairs[0][0]:.6f} to {pairs[-1][0]:.6f}; "
        f"apart by {apart[0]:.1e} in the first step, {apart[-1]:.1e} in the last one, {max(apart):.1e} at most; "
        f"{', '.join(beyond)}"
    )


def compare(folder, kind, compiled, losses):
    with open(os.path.join(folder, "ours.json")) as file:
        compared("ours", [one[kind.objective] for one in json.load(file)], losses)
    eager = os.path.join(folder, "eager.json")
    if compiled and os.path.exists(eager):
        with open(eager) as file:
            compared("eager", json.load(file), losses)
    elif not compiled:
        with open(eager, "w") as file:
            json.dump(losses, file)


def option(name, otherwise):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else otherwise


def main(name, folder):
    kind = {"limoe": Limoe, "flava": Flava}[name]
    compiled = "--compiled" in sys.argv
    steps = option("--steps", 200)
    torch.set_num_threads(option("--threads", torch.get_num_threads()))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {'compiled' if compiled else 'eager'}")
    with open(os.path.join(folder, "settings.json")) as file:
        settings = json.load(file)
    own = shared.tensors(os.path.join(folder, "parameters.safetensors"))
    own = {name: torch.tensor(value).requires_grad_() for name, value in own.items()}
    model = kind(own, settings["dims"])
    decayed = set(settings["decayed"])
    groups = [[own[it] for it in own if (it in decayed) == wanted] for wanted in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups if group],
        lr=1.0,
        betas=settings["betas"],
        eps=settings["eps"],
        weight_decay=0.0,
    )
    data = batches(folder)
    loss_of = torch.compile(model.losses) if compiled else model.losses
    losses, times, worked = [], [], 0.0
    for step in range(steps):
        if step == WARM:
            worked = shared.processor_seconds()
        begun = time.perf_counter()
        rate = settings["rates"][step]
        for group in optimizer.param_groups:
            group["lr"] = rate
            if any(group["params"][0] is own[it] for it in decayed if it in own):
                group["weight_decay"] = settings["decays"][step] / rate if rate else 0.0
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(data[step % settings["batches"]])
        loss.backward()
        if settings["clip"] is not None:
            gradients = [it.grad for it in own.values() if it.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (settings["clip"] / norm).clamp(max=1.0))
        optimizer.step()
        losses.append(float(loss.detach()))
        times.append(1e3 * (time.perf_counter() - begun))
        if step == 0:
            shared.first_step()
    warm = sorted(times[WARM:])
    if warm:
        worked = 1e3 * (shared.processor_seconds() - worked) / len(warm)
        print(
            f"{steps} steps: {worked:.1f} ms of processors (mean), {warm[len(warm) // 2]:.1f} ms on the wall "
            f"(median), {warm[0]:.1f} (least)"
        )
        compare(folder, kind, compiled, losses)
    print(f"peak memory {shared.peak_megabytes():.0f} MB")


main(*sys.argv[1:3])
