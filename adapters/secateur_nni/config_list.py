"""What a config list says, layer by layer; what NNI 3.0 would pass over in silence is refused here.

NNI checks a config list by a schema (nni/compression/base/config.py, line 192) and selects modules by it (line 88). It
accepts a list that selects nothing, and the second of two entries for one layer is left out with a line in the log.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.errors import ConfigError
from secateur_nni.host import PruningSetting, select_modules_by_config

SELECTORS = ("op_types", "op_names", "op_names_re")
EXCLUDES = ("exclude_op_types", "exclude_op_names", "exclude_op_names_re")
RATIOS = ("sparse_ratio", "min_sparse_ratio", "max_sparse_ratio")
SETTINGS = (*RATIOS, "dependency_group_id", "internal_metric_block", "granularity")
ALLOWED = (*SELECTORS, *EXCLUDES, *SETTINGS, "target_names", "target_settings")
REFUSED = {
    "global_group_id": "NNI 3.0 ranks the raw scores of different layers together and does not honour their "
    "max_sparse_ratio there, so that whole layers go; BudgetPruner shares a budget out over the layers",
    "sparse_threshold": "scores of different layers have no common scale; give a sparse_ratio",
    "align": "bias and batch norm go with the convolution before them anyhow",
    "apply_method": "masks of channels multiply",
    "sparsity": "it is of NNI 2; write sparse_ratio",
    "sparsity_per_layer": "it is of NNI 2; write sparse_ratio",
    "max_sparsity_per_layer": "it is of NNI 2; write max_sparse_ratio",
    "total_sparsity": "it is of NNI 2, and 3.0 has no total; BudgetPruner shares a budget out over the layers",
    "exclude": "it is of NNI 2; write exclude_op_names or exclude_op_types in the entry that selects too much",
    "op_partial_names": "it is of NNI 2; write op_names_re",
}


@dataclass(frozen=True)
class Setting:
    """What a config list says of a layer.

    Attributes:
        sparse_ratio: the share of its channels that is masked; None where a budget decides.
        min_sparse_ratio, max_sparse_ratio: the least and the largest share.
        dependency_group_id: layers of one id are masked together.
    """

    sparse_ratio: float | None = None
    min_sparse_ratio: float = 0.0
    max_sparse_ratio: float = 1.0
    dependency_group_id: int | str | None = None

    def limits(self, width: int) -> tuple[int, int]:
        """Return the least and the most of `width` channels that stay.

        Formula: max(1, width - floor(max_sparse_ratio * width)) and width - ceil(min_sparse_ratio * width).

        Example:
            >>> Setting(min_sparse_ratio=0.3, max_sparse_ratio=0.75).limits(8)
            (2, 5)
        """
        least = max(1, width - math.floor(self.max_sparse_ratio * width + 1e-9))
        return least, width - math.ceil(self.min_sparse_ratio * width - 1e-9)


def read_config_list(
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], *, with_ratio: bool
) -> dict[str, Setting]:
    """Return what a config list says of each layer that it selects, in the network's order.

    Args:
        model: the network, not wrapped.
        config_list: NNI's; each entry selects by op_types, op_names or op_names_re and may exclude by the same. A layer
            that the network holds under several names may be given by any, and is returned under its first.
        with_ratio: whether each entry must have a `sparse_ratio`; else none may.

    Raises:
        ConfigError: no list of mappings; an unknown key, or one that is refused, with the reason; a ratio that is no
            float or out of range; a layer or a type that does not exist, an expression that is none or matches no
            layer; a layer that is selected twice or is neither a convolution nor linear; an entry that selects nothing.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> read_config_list(net, [{"op_names": ["0"], "sparse_ratio": 0.5}], with_ratio=True)["0"].sparse_ratio
        0.5
    """
    if isinstance(config_list, (str, Mapping)) or not isinstance(config_list, Sequence) or not config_list:
        raise ConfigError(f"config_list must be a list with at least one mapping; found {config_list!r}")
    chosen: dict[str, tuple[int, Setting]] = {}
    for number, entry in enumerate(config_list):
        where = f"config_list[{number}]"
        setting = _read(entry, where, with_ratio=with_ratio)
        for layer in _select(model, entry, where):
            if layer in chosen:
                raise ConfigError(
                    f"{where} selects {layer!r} again, after config_list[{chosen[layer][0]}]; NNI 3.0 would ignore the "
                    "second: exclude it from one of them"
                )
            chosen[layer] = number, setting
    return {name: chosen[name][1] for name, _ in model.named_modules() if name in chosen}


def _read(entry: Any, where: str, *, with_ratio: bool) -> Setting:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} must be a mapping such as {{'op_types': ['Conv2d'], ...}}; found {entry!r}")
    _check_keys(entry, ALLOWED, where)
    if not any(key in entry for key in SELECTORS):
        raise ConfigError(f"{where} selects no layers: it needs one of {', '.join(SELECTORS)}")
    for key in (*SELECTORS, *EXCLUDES, "target_names"):
        names = entry.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{key} of {where} must be a list of names; found {names!r}")
    targets = _mapping(entry, "target_settings", "{'weight': {'sparse_ratio': 0.5}}", where)
    if set(entry.get("target_names", ["weight", "bias"])) != {"weight", "bias"} or not set(targets) <= {"weight"}:
        raise ConfigError(
            f"{where} asks for other targets than whole channels; target_names may be ['weight', 'bias'] and "
            "target_settings may have 'weight'"
        )
    weight = _mapping(targets, "weight", "{'sparse_ratio': 0.5}", f"target_settings of {where}")
    _check_keys(weight, SETTINGS, f"target_settings of {where}")
    said = {key: value for key, value in {**entry, **weight}.items() if key in SETTINGS}
    if said.pop("granularity", "default") not in ("default", "out_channel"):
        raise ConfigError(f"the granularity of {where} must be 'default' or 'out_channel': whole channels are masked")
    said.pop("internal_metric_block", None)  # of grouped convolutions, which are read from the network
    for key in RATIOS:
        _check_ratio(said.get(key, 0.0), f"{key} of {where}")
    if with_ratio and said.get("sparse_ratio") is None:
        raise ConfigError(f"{where} has no sparse_ratio, so that NNI would mask nothing; give one such as 0.5")
    if not with_ratio and "sparse_ratio" in said:
        raise ConfigError(
            f"{where} has a sparse_ratio, but the budget decides; min_sparse_ratio and max_sparse_ratio may bound it"
        )
    if not isinstance(said.get("dependency_group_id"), (int, str, NoneType)):
        raise ConfigError(
            f"dependency_group_id of {where} must be a number or a name; found {said['dependency_group_id']!r}"
        )
    setting = Setting(**said)
    if setting.min_sparse_ratio > setting.max_sparse_ratio:
        raise ConfigError(f"min_sparse_ratio of {where} is above its max_sparse_ratio")
    if setting.max_sparse_ratio == 0.0:
        raise ConfigError(f"max_sparse_ratio of {where} is 0.0, so that nothing could go; exclude these layers")
    if setting.sparse_ratio == 1.0 or setting.min_sparse_ratio == 1.0:
        raise ConfigError(f"{where} masks whole layers; a ratio must be below 1.0, one channel must stay")
    return setting


def _mapping(given: Mapping[str, Any], key: str, such_as: str, where: str) -> Mapping[str, Any]:
    found = given.get(key, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key} of {where} must be a mapping such as {such_as}; found {found!r}")
    return found


def _check_keys(given: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in given:
        if key in REFUSED:
            raise ConfigError(f"{key} of {where} is not allowed: {REFUSED[key]}")
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            guess = f"; did you mean {near[0]}?" if near else ";"
            raise ConfigError(f"{where} has the unknown key {key!r}{guess} Allowed: {', '.join(allowed)}")


def _check_ratio(ratio: Any, name: str) -> None:
    if isinstance(ratio, int):
        raise ConfigError(
            f"{name} is the integer {ratio}; NNI takes floats alone: write a share of channels such as 0.5"
        )
    if not isinstance(ratio, float) or not 0.0 <= ratio <= 1.0:
        raise ConfigError(f"{name} is {ratio!r}; it must be a float in 0.0..1.0")


def _select(model: nn.Module, entry: Mapping[str, Any], where: str) -> list[str]:
    """Return the layers that an entry selects, each of them one whose channels can be masked.

    NNI goes by names alone; a layer that has several is selected, or excluded, by any of them.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    _check_selectors(entry, where, modules)
    asked, *_ = select_modules_by_config(model, {key: entry[key] for key in SELECTORS if key in entry})
    excludes = {key: entry[key] for key in EXCLUDES if key in entry}
    left, *_ = select_modules_by_config(model, {"op_names_re": [""], **excludes})
    found = {id(module) for module in asked.values()} - {id(modules[name]) for name in modules.keys() - left.keys()}
    selected = {name: module for name, module in model.named_modules() if id(module) in found}
    if not selected:
        types = sorted({type(m).__name__ for m in modules.values() if isinstance(m, (_ConvNd, nn.Linear))})
        raise ConfigError(
            f"{where} selects no layer of this network, which NNI would accept in silence; its types are "
            f"{', '.join(types) or 'none that could be pruned'}"
        )
    for name, module in selected.items():
        kind = type(module).__name__
        if not isinstance(module, (_ConvNd, nn.Linear)) or isinstance(module, _ConvTransposeNd):
            raise ConfigError(
                f"{where} selects {name!r}, a {kind}; allowed are linear layers and convolutions, but transposed ones"
            )
        if kind not in PruningSetting.registry:
            raise ConfigError(
                f"{where} selects {name!r}; NNI does not know the type {kind}: first call PruningSetting.register("
                f"{kind!r}, PruningSetting.default_setting), of nni.compression.base.setting"
            )
    return [*selected]


def _check_selectors(entry: Mapping[str, Any], where: str, modules: Mapping[str, nn.Module]) -> None:
    """Refuse names, types and expressions that fit nothing in the network, which NNI passes over."""
    types = {type(module).__name__ for module in modules.values()} | {*PruningSetting.registry}
    for key in (*SELECTORS, *EXCLUDES):
        what, known = ("type", types) if key.endswith("types") else ("layer", {*modules})
        for given in entry.get(key, []):
            if key.endswith("re"):
                _check_expression(given, modules, f"{key} of {where}")
            elif given not in known:
                near = difflib.get_close_matches(given, sorted(known), n=3)
                guess = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ConfigError(f"{key} of {where}: the network has no {what} {given!r}{guess}")


def _check_expression(expression: str, names: Iterable[str], where: str) -> None:
    """Refuse what NNI would raise a bare re.error for, and what matches nothing, in silence there."""
    try:
        matched = any(re.match(expression, name) for name in names)
    except re.error as error:
        raise ConfigError(f"{where}: {expression!r} is no regular expression ({error})") from error
    if not matched:
        raise ConfigError(
            f"{where}: {expression!r} matches no layer; NNI matches from the start of a name, so write "
            f"{'.*' + expression!r} for names that hold it further on"
        )
