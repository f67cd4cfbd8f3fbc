#!/usr/bin/env python3
"""Loads an export of flava.gate with Hugging Face transformers and compares what both compute.

    pip install torch transformers safetensors          # made with 2.6.0, 4.57.1, 0.8.0
    gatewright weights models/flava/flava.gate --preset demo --map hf --run runs/flava/joint --export model.safetensors
    python models/flava/huggingface.py model.safetensors --preset demo --heads 4
    python models/flava/huggingface.py DIR/model.safetensors.index.json --preset full --heads 12 --pairs 2 --fresh

The second one first writes a model of the released sizes with random weights, in several files. Everything but the number of heads is read from the shapes of the tensors. `--side` and `--length` compare
pictures of another size (positions are resampled) and longer texts. Exit code 1 where a tensor is missing or
left over, or a value differs by more than 1e-4 of its tensor's largest.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import FlavaConfig, FlavaForPreTraining

TOLERANCE = 1e-4
SPEC = Path(__file__).with_name("flava.gate")


def files_of(weights):
    """The files of a checkpoint, the index of several among them, by the names that transformers looks for."""
    if not weights.name.endswith(".index.json"):
        return {"model.safetensors": weights}
    names = set(json.loads(weights.read_text())["weight_map"].values())
    return {"model.safetensors.index.json": weights} | {name: weights.with_name(name) for name in names}


def config_of(tensors, heads):
    """The configuration that gives these shapes."""
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    words, width = shape["flava.text_model.embeddings.word_embeddings.weight"]
    patch = shape["flava.image_model.embeddings.patch_embeddings.projection.weight"][2]
    rows = shape["flava.image_model.embeddings.position_embeddings"][1]
    codes = shape["mim_head.decoder.weight"][0]

    def encoder(model):
        layers = {name.split(".")[4] for name in shape if name.startswith(f"flava.{model}.encoder.layer.")}
        hidden = shape[f"flava.{model}.encoder.layer.0.intermediate.dense.weight"][0]
        return dict(hidden_size=width, num_hidden_layers=len(layers), num_attention_heads=heads,
                    intermediate_size=hidden, layer_norm_eps=1e-12)

    return FlavaConfig(
        image_config=dict(encoder("image_model"), image_size=math.isqrt(rows - 1) * patch, patch_size=patch,
                          vocab_size=codes),
        text_config=dict(encoder("text_model"), vocab_size=words,
                         max_position_embeddings=shape["flava.text_model.embeddings.position_embeddings.weight"][0]),
        multimodal_config=encoder("multimodal_model"),
        image_codebook_config=dict(hidden_size=shape["image_codebook.blocks.input.weight"][0], vocab_size=codes),
        hidden_size=width, layer_norm_eps=1e-12, projection_dim=shape["flava.image_projection.weight"][0])


def batch(config, side, length, rows):
    """Pairs with padding, masked words, masked patches, and one that does not match; names of flava.gate."""
    draw = torch.Generator().manual_seed(0)
    image, words = config.image_config, config.text_config.vocab_size
    patches = (side // image.patch_size) ** 2
    text = torch.randint(5, words, (rows, length), generator=draw)
    lengths = torch.tensor([length, length - 3, length - 1, length - 4])[:rows]
    shown = torch.arange(length)[None] < lengths[:, None]
    text *= shown
    masked_words = torch.zeros(rows, length, dtype=torch.bool)
    masked_words[torch.arange(rows), torch.tensor([2, 1, 3, 1])[:rows]] = True
    masked_patches = torch.rand(rows, patches, generator=draw) < 0.3
    code_side = side // image.patch_size * 8
    return dict(
        image=torch.randn(rows, side, side, 3, generator=draw),
        code_image=0.1 + 0.8 * torch.rand(rows, code_side, code_side, 3, generator=draw),
        codes=torch.randint(0, image.vocab_size, (rows, patches), generator=draw),
        text=text, shown=shown, masked_text=text.masked_fill(masked_words, 4), masked_words=masked_words,
        masked_patches=masked_patches, matched=torch.tensor([True, False, True, True])[:rows])


def theirs(model, inputs, resampled):
    """What transformers computes, under the names of flava.gate."""
    pixels = inputs["image"].permute(0, 3, 1, 2).contiguous()
    text, mask = inputs["text"], inputs["shown"].long()
    flava = model.flava
    image = flava.image_model(pixel_values=pixels, interpolate_pos_encoding=resampled, output_hidden_states=True)
    read = flava.text_model(input_ids=text, attention_mask=mask, output_hidden_states=True)
    seen = flava.image_to_mm_projection(image.hidden_states[-1])
    states = torch.cat([seen, flava.text_to_mm_projection(read.hidden_states[-1])], dim=1)
    keys = torch.cat([torch.ones(len(text), seen.shape[1] + 1, dtype=torch.long), mask], dim=1)
    both = flava.multimodal_model(states, attention_mask=keys)
    unit = torch.nn.functional.normalize
    result = dict(
        image_rows=image.last_hidden_state, image_pooled=image.pooler_output,
        text_rows=read.last_hidden_state, text_pooled=read.pooler_output,
        multimodal_rows=both.last_hidden_state, multimodal_pooled=both.pooler_output,
        image_embedding=unit(flava.image_projection(image.last_hidden_state[:, 0]), dim=-1),
        text_embedding=unit(flava.text_projection(read.last_hidden_state[:, 0]), dim=-1),
        live_codes=model.image_codebook.get_codebook_indices(inputs["code_image"].permute(0, 3, 1, 2)).flatten(1))
    if not resampled:  # The pre-training class does not resample positions.
        found = model(
            input_ids=text, input_ids_masked=inputs["masked_text"], attention_mask=mask, pixel_values=pixels,
            bool_masked_pos=inputs["masked_patches"].long(), itm_labels=inputs["matched"].long(),
            mim_labels=inputs["codes"].masked_fill(~inputs["masked_patches"], -100),
            mlm_labels=text.masked_fill(~inputs["masked_words"], -100))
        result |= {f"loss.{name}": loss.reshape(()) for name, loss in found.loss_info.items() if loss is not None}
    return result


def ours(command, options, weights, inputs, folder, resampled):
    """What gatewright computes on the same weights and inputs."""
    given, out = folder / "inputs.safetensors", folder / "out.safetensors"
    whole = {name: tensor.to(torch.int32) if tensor.dtype != torch.float32 else tensor for name, tensor in inputs.items()}
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, given)
    wanted = [["--entry", name] for name in
              ("encode_image", "encode_text", "encode_pair", "embed_image", "embed_text", "tokenize")]
    if not resampled:
        wanted.append(["--objective", "pairs", "--mode", "train"])
    result = {}
    for what in wanted:
        subprocess.run([command, "run", SPEC, *options, "--map", "hf", "--weights", weights, *what,
                        "--inputs", given, "--out", out], check=True)
        result |= load_file(out)
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path, help="a checkpoint under the names of the class, or its index")
    arguments.add_argument("--preset", required=True)
    arguments.add_argument("--heads", type=int, required=True)
    arguments.add_argument("--side", type=int, help="of the pictures, in pixels")
    arguments.add_argument("--length", type=int, help="of the texts, in tokens")
    arguments.add_argument("--pairs", type=int, default=4, choices=(2, 3, 4), help="of the batch")
    arguments.add_argument("--gatewright", default="target/release/gatewright")
    arguments.add_argument("--fresh", action="store_true", help="write random weights there first")
    given = arguments.parse_args()

    if given.fresh:
        torch.manual_seed(0)
        FlavaForPreTraining(FlavaConfig()).save_pretrained(given.weights.parent, max_shard_size="400MB")
    files = files_of(given.weights.resolve())
    tensors = {}
    for file in files.values():
        tensors |= load_file(file) if file.suffix == ".safetensors" else {}
    config = config_of(tensors, given.heads)
    learned = config.image_config.image_size
    side = given.side or learned
    length = given.length or min(config.text_config.max_position_embeddings, 77)
    del tensors
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        config.save_pretrained(folder)
        for name, file in files.items():
            (folder / name).symlink_to(file)
        model, info = FlavaForPreTraining.from_pretrained(folder, output_loading_info=True)
        model.eval()
        for kind, names in info.items():
            print(f"{kind}: {len(names)}")
        inputs = batch(config, side, length, given.pairs)
        options = ["--preset", given.preset, "--set", f"S={side}", "--set", f"T={length}", "--set", f"B={given.pairs}",
                   "--set", "targets=codes"]
        expected = theirs(model, inputs, side != learned)
        found = ours(given.gatewright, options, given.weights.resolve(), inputs, folder, side != learned)
    wrong = any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in expected.items():
        own = found[name].to(torch.float64).reshape(tensor.shape)
        off = ((own - tensor).abs().max() / tensor.abs().max()).item()
        wrong |= not off < TOLERANCE
        print(f"{name:24} {off:.1e}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
