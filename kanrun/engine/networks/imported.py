"""Import of networks trained with pykan and efficient-kan, as spline layers.

Both libraries have edges phi(x) = w_b b(x) + w_s spline(x). Their splines are zero beyond the
extended knots t_0 ... t_{G+2k}, while the base function follows its formula. Here, the extended
knots become breakpoints, basis functions that extend beyond the ends get zero coefficients, and
`extrapolation` is `base`. The edge functions are therefore equal everywhere, up to rounding.

In pykan, each layer is followed by an affine map of each sum, products of groups of sums, and an
affine map of each node (pykan 0.2.8, `MultKAN.forward`). The affine maps of sums are absorbed by
the edges. Products of more than two sums, and constants added to a product, need additional layers
whose edges are identities. Symbolic edges are not supported; the error names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import pad

from kanrun.engine.layers import BASES, EdgeSpec, SplineLayer
from kanrun.engine.splines import equally_spaced, extend
from kanrun.errors import UsageError, no_file

State = Mapping[str, Any]
#: Base function if a checkpoint has no configuration: the default of both libraries.
DEFAULT_BASE = "silu"
#: Largest number of edges or keys that a message names.
_NAMED = 3
#: Key of the first layer's grid, by which a library's state dict is recognised. A prefix such as
#: `module.` may precede it.
_MARKS = {"pykan": "act_fun.0.grid", "efficient-kan": "layers.0.grid"}


@dataclass
class ImportedNetwork:
    """A network of another library.

    `products` has the number of multiplication nodes of each layer. `samples` are inputs that were
    stored with the network, shape (samples, inputs); None if there are none.
    """

    library: str
    layers: list[SplineLayer] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    samples: Tensor | None = None


def read_network(source: str | Path | State, base: str | None = None) -> ImportedNetwork:
    """Return the network of a checkpoint or a state dict of pykan or efficient-kan.

    Args:
        source: A file (`torch.save` or safetensors), the path of a pykan checkpoint without its
            endings `_state` and `_config.yml`, or a state dict.
        base: Name of the base function; None: that of the configuration, or silu if there is none.

    Raises:
        UsageError: If the file cannot be read, or kanrun does not support a part of the network.
    """
    config = dict[str, Any]()
    samples = None
    name = "the state dict"
    if isinstance(source, str | Path):
        name = str(source)
        stem = re.sub(r"_(state|config\.yml|cache_data)$", "", name)
        files = [Path(f"{stem}_{part}") for part in ("state", "config.yml", "cache_data")]
        source = _load(files[0] if files[0].is_file() else Path(source))
        config = _config(files[1]) if files[1].is_file() else {}
        samples = _load(files[2]) if files[2].is_file() else None
    if not isinstance(source, Mapping):
        raise UsageError(
            f"{name} holds a {type(source).__name__}. Save model.state_dict() instead."
        )
    state, library = _bare(source, name)
    base = base or config.get("base_fun_name", DEFAULT_BASE)
    if base not in BASES:
        raise UsageError(
            f"The base function of {name} is {base or 'stored without a name'}. Add base=NAME, one "
            f"of {', '.join(BASES)}."
        )
    try:
        if library == "efficient-kan":
            return _efficient_kan(state, base)
        network = _pykan(state, config, base)
    except (KeyError, RuntimeError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{name} is not a complete state of {library}: {reason}.") from error
    if isinstance(samples, Tensor) and samples.shape[1:] == (network.layers[0].inputs,):
        network.samples = samples.detach().double()
    return network


# -------------------- files


def _load(path: Path) -> Any:
    """Return the tensors of a file, without executing any code that the file contains.

    Raises UsageError if the file cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(no_file(path)) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # errors of unpickling, and various errors of both readers
        raise UsageError(
            f"{path} is not a file of tensors, or contains Python objects, which kanrun does not "
            "load. Save model.state_dict() where the model was trained."
        ) from error


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML loader that replaces Python objects by None; pykan may store a base function as one."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _config(path: Path) -> dict[str, Any]:
    """Return the configuration of a pykan checkpoint; raise UsageError if it cannot be read."""
    try:
        config = yaml.load(path.read_text("utf-8"), _PlainLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}.") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not the configuration of a pykan checkpoint.")
    return config


def _bare(state: State, name: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors in float64, and the name of the library that they come from.

    The common prefix of the tensors' names is removed. Raises UsageError if the library is not
    recognised or a value is not finite.
    """
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    for library, mark in _MARKS.items():
        for key in state:
            if str(key) == mark or str(key).endswith("." + mark):
                prefix = str(key).removesuffix(mark)
                tensors = {
                    str(one).removeprefix(prefix): value.detach().cpu().double().clone()
                    for one, value in state.items()
                    if isinstance(value, Tensor)
                }
                if bad := [one for one, value in tensors.items() if not value.isfinite().all()]:
                    raise UsageError(f"{bad[0]} of {name} has values that are not finite.")
                return tensors, library
    raise UsageError(
        f"{name} has no key {' or '.join(_MARKS.values())}: it is not a state of pykan 0.2 or "
        f"efficient-kan. Its first keys are {', '.join(map(str, list(state)[:_NAMED])) or 'none'}."
    )


# -------------------- layers


def _efficient_kan(state: dict[str, Tensor], base: str) -> ImportedNetwork:
    network = ImportedNetwork("efficient-kan")
    while (key := f"layers.{len(network.layers)}.") + "grid" in state:
        weights = state[key + "base_weight"]
        # If the file has no spline scaler, the weights of the splines are one.
        scaler = state.get(key + "spline_scaler", torch.ones_like(weights))
        edges = state[key + "spline_weight"], weights, scaler
        network.layers.append(_layer(state[key + "grid"], edges, base))
        network.products.append(0)
    return network


def _pykan(state: dict[str, Tensor], config: dict[str, Any], base: str) -> ImportedNetwork:
    network = ImportedNetwork("pykan")
    depth = 0
    while f"act_fun.{depth}.grid" in state:
        depth += 1
    constants = _symbolic_constants(state, config, depth)
    for number in range(depth):
        node_scale = state[f"node_scale_{number}"]
        later = state[f"node_bias_{number}"]
        scale = state[f"subnode_scale_{number}"]
        shift = state[f"subnode_bias_{number}"]
        shift = shift + scale * constants[number]
        groups = _groups(len(scale), len(later), config, number)
        for node, group in enumerate(groups):
            scale[group[0]] *= node_scale[node]
            shift[group[0]] *= node_scale[node]
            # A constant that is added to a product is left in `later` for `_multiply`.
            if len(group) == 1:
                shift[group[0]] += later[node]
                later[node] = 0
        order, products, groups = _paired(groups)
        key = f"act_fun.{number}."
        mask = state[key + "mask"].T[order]
        factor = mask * scale[order, None]
        scales = (state[key + name].T[order] * factor for name in ("scale_base", "scale_sp"))
        edges = state[key + "coef"].transpose(0, 1)[order], *scales
        network.layers.append(_layer(state[key + "grid"], edges, base, mask != 0, shift[order]))
        network.products.append(products)
        _multiply(network, groups, later, last=number == depth - 1)
    return network


def _multiply(
    network: ImportedNetwork, groups: list[list[int]], shift: Tensor, *, last: bool
) -> None:
    """Add layers of identity edges that multiply the nodes within each group.

    The constants `shift`, one per group, are added to the products. Afterwards there is one node
    per group, in the order of `groups`.
    """
    natural = [[node] for node in range(len(groups))]
    while groups != natural or bool(shift.any()) or (last and network.products[-1]):
        width, (order, products, after) = sum(map(len, groups)), _paired(groups)
        ready = {group[0]: node for node, group in enumerate(groups) if len(group) == 1}
        constants = [float(shift[ready[one]]) if one in ready else 0.0 for one in order]
        shift[list(ready.values())] = 0
        weights = torch.eye(width, dtype=torch.float64)[order]
        grid = torch.arange(4, dtype=torch.float64).expand(width, -1)
        edges = weights.new_zeros(*weights.shape, 2), weights, weights.clone()
        more = torch.tensor(constants, dtype=torch.float64)
        network.layers.append(_layer(grid, edges, "identity", weights != 0, more))
        network.products.append(products)
        groups = after


def _groups(sums: int, nodes: int, config: dict[str, Any], number: int) -> list[list[int]]:
    """Return one list per node of layer `number`: the indices of the sums that it multiplies."""
    # Number of factors of a multiplication node if there is no configuration: pykan's default.
    arity = 2
    given = config.get("mult_arity", arity)
    if isinstance(given, list):
        factors = list(given[number + 1])
    else:
        factors = [given] * ((sums - nodes) // max(given - 1, 1))
    plain = nodes - len(factors)
    if plain < 0 or min(factors, default=2) < 2 or plain + sum(factors) != sums:
        raise UsageError(
            f"Layer {number} has {sums} sums and {nodes} nodes, which does not match products of "
            f"{given} factors. Import the checkpoint together with its configuration."
        )
    starts = accumulate([1] * plain + factors, initial=0)
    return [list(range(*ends)) for ends in pairwise(starts)]


def _paired(groups: Sequence[Sequence[int]]) -> tuple[list[int], int, list[list[int]]]:
    """Return the order of a layer's sums, its number of products, and the groups that remain.

    `groups` are lists of sums to be multiplied. A layer can only multiply pairs of sums, which must
    come last. Other factors of a group become nodes of their own. The groups that remain are lists
    of nodes, which later layers multiply.
    """
    waiting = [(g, one) for g, group in enumerate(groups) for one in (group[2:] or group[1:1])]
    single = [(g, group[0]) for g, group in enumerate(groups) if len(group) == 1]
    plain = sorted([*single, *waiting])
    multiplied = [g for g, group in enumerate(groups) if len(group) > 1]
    after: list[list[int]] = [[] for _ in groups]
    for node, g in enumerate(multiplied, len(plain)):
        after[g].append(node)
    for node, (g, _) in enumerate(plain):
        after[g].append(node)
    order = [one for _, one in plain] + [one for g in multiplied for one in groups[g][:2]]
    return order, len(multiplied), after


def _symbolic_constants(
    state: dict[str, Tensor], config: dict[str, Any], depth: int
) -> list[Tensor]:
    """Return, per layer, the constants that symbolic edges with the function `0` add to each sum.

    Raises UsageError if a symbolic edge has another function.
    """
    constants = list[Tensor]()
    functions = list[str]()
    for number in range(depth):
        outputs = state[f"act_fun.{number}.mask"].shape[1]
        mask = state.get(f"symbolic_fun.{number}.mask", torch.zeros(outputs, 1))
        affine = state.get(f"symbolic_fun.{number}.affine", torch.zeros(*mask.shape, 4))
        names = config.get(f"symbolic.funs_name.{number}")
        if not config.get("symbolic_enabled", True):
            mask = torch.zeros_like(mask)
        for out, into in mask.nonzero().tolist():
            name = names[out][into] if names else "a function whose name is in the configuration"
            if name != "0":
                functions.append(f"{into} to {out} of layer {number} ({name})")
        constants.append((mask * affine[..., 3]).sum(1).double())
    if functions:
        more = f" and {len(functions) - _NAMED} more" if len(functions) > _NAMED else ""
        raise UsageError(
            f"The edges {', '.join(functions[:_NAMED])}{more} are symbolic, and edges of kanrun "
            "are splines. Import the version that pykan saved before the edges were fixed, and let "
            "kanrun interpret find the formula."
        )
    return constants


def _layer(
    grid: Tensor,
    edges: tuple[Tensor, ...],
    base: str,
    alive: Tensor | None = None,
    shift: Tensor | None = None,
) -> SplineLayer:
    """Return a layer whose breakpoints are the knots `grid` of another library.

    `grid` has the shape (inputs, G + 2k + 1). `edges` are the coefficients (out, inputs, G + k),
    the weights of the base function, and the weights of the splines, both (out, inputs). `alive` is
    false for pruned edges. The constants `shift` (out,) are added to the layer's sums.
    """
    coefficients, base_weight, spline_weight = edges
    alive = torch.ones_like(base_weight, dtype=torch.bool) if alive is None else alive.clone()
    degree = grid.shape[1] - 1 - coefficients.shape[2]
    steps = grid.diff(dim=1)
    flat = (steps == 0).all(1)  # both libraries treat a spline whose knots are all equal as zero
    if bool((equal := (steps <= 0).any(1) & ~flat).any()):
        raise UsageError(
            f"The grid of input {int(equal.nonzero()[0])} of a layer with {len(grid)} inputs has "
            "equal knots, at which the library's splines jump. Update it with grid_eps above 0 and "
            "save again."
        )
    grid = torch.where(flat[:, None], torch.arange(grid.shape[1], dtype=grid.dtype), grid)
    coefficients = pad(torch.where(flat[:, None], 0.0, coefficients), (degree, degree))
    for out in [] if shift is None else shift.nonzero()[:, 0].tolist():
        # B-splines sum to one on the grid, and keep their values outside it. A number added to all
        # coefficients of a spline is therefore added to its values.
        into = int((spline_weight[out] * alive[out]).abs().argmax())
        if spline_weight[out, into] == 0 or not alive[out, into]:
            coefficients[out, into] = 0.0
            spline_weight[out, into] = 1.0
            base_weight[out, into] *= alive[out, into]
            alive[out, into] = True
        coefficients[out, into] += shift[out] / spline_weight[out, into]  # type: ignore[index]
    spec = EdgeSpec(degree, base, extrapolation="base")
    uniform = equally_spaced(extend(grid, degree))
    layer = SplineLayer.on_grid(grid, len(coefficients), spec, uniform=uniform)
    numbers = {"coefficients": coefficients, "base_weight": base_weight, "mask": alive}
    layer.load_state_dict({"knots": layer.knots, "spline_weight": spline_weight, **numbers})
    return layer
