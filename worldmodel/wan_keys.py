"""The names of Wan's tensors in the layouts they are published in, as one table read both ways.

"wan" is the layout of Wan2.1, Self-Forcing, Causal-Forcing and minWM; "diffusers" that of its
`WanTransformer3DModel`. Values are never changed, only names and shapes of the same elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from worldmodel.wan import PATCH, WanConfig, WanTransformer

Layout = Literal["ours", "wan", "diffusers"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")

# ours, wan, diffusers: modules with a weight and a bias, or whole tensors
OUTER = (
    ("latent_in", "patch_embedding", "patch_embedding"),
    ("text_in", "text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_out", "text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("noise_in", "time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("noise_out", "time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("modulation", "time_projection.1", "condition_embedder.time_proj"),
    ("head_modulation", "head.modulation", "scale_shift_table"),
    ("latent_out", "head.head", "proj_out"),
)
IN_BLOCK = (
    ("modulation", "modulation", "scale_shift_table"),
    ("q", "self_attn.q", "attn1.to_q"),
    ("k", "self_attn.k", "attn1.to_k"),
    ("v", "self_attn.v", "attn1.to_v"),
    ("o", "self_attn.o", "attn1.to_out.0"),
    ("q_gain", "self_attn.norm_q.weight", "attn1.norm_q.weight"),
    ("k_gain", "self_attn.norm_k.weight", "attn1.norm_k.weight"),
    ("camera_o", "self_attn.prope_o", "attn1.to_out_prope.0"),
    ("text_norm", "norm3", "norm2"),
    ("text_q", "cross_attn.q", "attn2.to_q"),
    ("text_k", "cross_attn.k", "attn2.to_k"),
    ("text_v", "cross_attn.v", "attn2.to_v"),
    ("text_o", "cross_attn.o", "attn2.to_out.0"),
    ("text_q_gain", "cross_attn.norm_q.weight", "attn2.norm_q.weight"),
    ("text_k_gain", "cross_attn.norm_k.weight", "attn2.norm_k.weight"),
    ("up", "ffn.0", "ffn.net.0.proj"),
    ("down", "ffn.2", "ffn.net.2"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor, here and there."""

    name: str
    shape: tuple[int, ...]
    their_name: str
    their_shape: tuple[int, ...]


def table(config: WanConfig, layout: Layout) -> list[Entry]:
    """All tensors of a model, in the order of its modules."""
    with torch.device("meta"):
        tensors = WanTransformer(config).state_dict()
    entries = []
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        theirs = their_shape(name, shape, config) if layout != "ours" else shape
        entries.append(Entry(name, shape, their_name(name, layout), theirs))
    return entries


def their_name(name: str, layout: Layout) -> str:
    """What one of our tensors is called in another layout."""
    if layout == "ours":
        return name
    column, prefix = LAYOUTS.index(layout), ""
    rows: tuple[tuple[str, str, str], ...] = OUTER
    if name.startswith("blocks."):
        _, index, name = name.split(".", 2)
        prefix, rows = f"blocks.{index}.", IN_BLOCK
    for row in rows:
        if name == row[0] or name.startswith(f"{row[0]}."):
            return prefix + row[column] + name.removeprefix(row[0])
    raise AssertionError(f"{name} is in no row of the table")


def their_shape(name: str, shape: tuple[int, ...], config: WanConfig) -> tuple[int, ...]:
    if name == "latent_in.weight":  # published as a convolution over time, height and width
        return (config.width, config.vae_channels, 1, PATCH, PATCH)
    if name.endswith("modulation"):  # the learned tables, not the projection (whose name goes on)
        return (1, *shape)
    return shape


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names as the model itself has them, each with what it is called in the file.

    Raises:
        ValueError: if two tensors of the file would have the same name.
    """
    plain: dict[str, str] = {}
    for stored in names:
        name = stored
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix("model.")
        if name in plain:
            raise ValueError(f"{stored} and {plain[name]} are the same tensor twice")
        plain[name] = stored
    return plain


def find_layout(names: Iterable[str]) -> Layout:
    """Which layout the names of a file are those of.

    Raises:
        ValueError: if they are not those of a Wan transformer.
    """
    found = set(names)
    for layout in LAYOUTS:
        if their_name("noise_in.weight", layout) in found:
            return layout
    some = ", ".join(sorted(found)[:3]) or "nothing"
    raise ValueError(f"not a Wan transformer: it holds {len(found)} tensors ({some} ...)")


def fit_config(
    config: WanConfig, shapes: Mapping[str, tuple[int, ...]], layout: Layout
) -> WanConfig:
    """`config`, with a camera branch if the file has one.

    Raises:
        ValueError: in one line if the file holds a model of another size.
    """
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    layers = max(blocks, default=-1) + 1
    width = shapes.get(their_name("noise_out.bias", layout), (0,))[0]
    if (layers, width) != (config.layers, config.width):
        raise ValueError(
            f"a Wan transformer of {layers} layers and width {width}; the config is one of"
            f" {config.layers} layers and width {config.width}"
        )
    branch = their_name("blocks.0.camera_o", layout).removeprefix("blocks.0.")
    return replace(config, camera=any(branch in name for name in shapes))


def check(entries: list[Entry], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file that does not hold exactly the tensors of `entries`.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or mis-shaped.
    """
    expected = {entry.their_name: entry.their_shape for entry in entries}
    problems = [f"missing {name}" for name in expected if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in expected]
    problems += [
        f"{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    if problems:
        raise ValueError("; ".join(problems))


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
