"""From a config list to the channel groups that it selects, and to a config list whose masks mean what removal means.

NNI masks the layers that are named and nothing else. The batch norm behind a masked convolution then goes on to write
its shift, and layers that a shortcut sums together are masked at different channels: neither is what the network is
once the channels are gone. The completed list masks batch norm along (`align`), ties layers that fall together
(`dependency_group_id`) and names the depthwise convolutions between them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.channel_graph import channel_groups
from secateur.channel_graph.streams import is_depthwise
from secateur.errors import ConfigError, SecateurWarning
from secateur.records import ChannelGroup, ChannelGroups, Member
from secateur_nni.config_list import RATIOS, Setting, read_config_list
from secateur_nni.host import PruningSetting
from secateur_nni.masks import warn_where_zeros_end
from secateur_nni.wrapping import check_unwrapped

TIED_TO_OTHERS = "its channels fall together with those of a layer that cannot be pruned"


@dataclass(frozen=True)
class Selection:
    """The channel groups that a config list selects.

    Attributes:
        groups: by name, in the network's order.
        settings: what the config list says of each group.
    """

    groups: ChannelGroups
    settings: Mapping[str, Setting]

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """The least and the most channels that each group keeps."""
        return {name: setting.limits(self.groups[name].width) for name, setting in self.settings.items()}


def complete_config_list(
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], example_inputs: Any
) -> list[dict[str, Any]]:
    """Return the config list that says what `config_list` says, and what follows from it when channels are removed.

    NNI's own pruners given this list mask batch norm along and the same channels of all layers that fall together, so
    that `apply_masks` can remove them. The pruners of this package do it by themselves. It serves as NNI's
    `auto_set_denpendency_group_ids`, which needs tensorboard.

    Args:
        model: the network, not wrapped.
        config_list: NNI's; each entry has a sparse_ratio.
        example_inputs: a tensor or a tuple of the network's arguments.

    Raises:
        ConfigError: see `FeatureMapPruner`; or the list selects layers that NNI cannot mask alike, as a channel of some
            layer that falls together with them is not one output of it.
        NetworkError: the network is wrapped, or cannot be traced.

    Warns:
        SecateurWarning: a batch norm reads several layers at once, which NNI cannot mask along, or zeros end behind
            some layer, so that masked is not what removed is.

    Cost: that of `secateur.channel_groups`, and some forward passes on the example.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> config_list = complete_config_list(net, [{"op_names": ["0"], "sparse_ratio": 0.5}], torch.rand(2, 1, 8, 8))
        >>> [(entry["op_names"], sorted(entry)[1:]) for entry in config_list]
        [(['0'], ['sparse_ratio']), (['1'], ['target_names', 'target_settings'])]
    """
    selection = select_groups(model, config_list, example_inputs, with_ratio=True)
    _check_tied(model, selection.groups)
    entries = completed(model, selection)
    left = [entry["op_names"][0] for entry in entries if is_left(entry)]
    if left:
        warnings.warn(
            f"masked is not what removed is: NNI cannot mask the batch norm of {', '.join(left)} along, which reads "
            "several layers at once and goes on to write its shift; FeatureMapPruner masks it",
            SecateurWarning,
            stacklevel=2,
        )
    warn_where_zeros_end(model, selection.groups, example_inputs, stacklevel=3)
    return [entry for entry in entries if not is_left(entry)]


def select_groups(
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], example_inputs: Any, *, with_ratio: bool
) -> Selection:
    """Return the channel groups that a config list selects, and what it says of each.

    Args:
        model, config_list, with_ratio: see `read_config_list`.
        example_inputs: see `complete_config_list`.

    Raises:
        ConfigError: as `read_config_list`; or a selected layer cannot be pruned or falls together with one that is not
            selected, layers that fall together have different ratios, one dependency_group_id is given to layers that
            do not, or no width meets a group's ratios.
        NetworkError: the network is wrapped, or cannot be traced.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> entry = {"op_names": ["0"], "max_sparse_ratio": 0.75}
        >>> select_groups(net, [entry], torch.rand(2, 1, 8, 8), with_ratio=False).limits
        {'0': (1, 4)}
    """
    check_unwrapped(model)
    said = read_config_list(model, config_list, with_ratio=with_ratio)
    groups = channel_groups(model, example_inputs)
    _check_whole(model, said, groups)
    selected = {n: g for n, g in groups.items() if any(member.layer in said for member in g.producers)}
    settings = {}
    for name, group in selected.items():
        settings[name] = _setting_of(group, said)
        least, most = settings[name].limits(group.width)
        if least > most:
            raise ConfigError(f"no width of {name!r}, {group.width} channels, meets its min_ and max_sparse_ratio")
    _check_dependencies(said, selected)
    return Selection(ChannelGroups([*selected.values()], skipped=groups.skipped), settings)


def completed(model: nn.Module, selection: Selection) -> list[dict[str, Any]]:
    """Return one entry for each layer whose outputs lose channels: the producers, then the batch norms behind them.

    A batch norm behind a concatenation follows several layers, which `align` cannot say: its entry has target names
    alone.

    Example: see `complete_config_list`.
    """
    entries: list[dict[str, Any]] = []
    norms: dict[str, str | None] = {}
    for name, group in selection.groups.items():
        setting = selection.settings[name]
        ratios = {key: getattr(setting, key) for key in RATIOS if getattr(setting, key) != getattr(Setting, key)}
        whole = [member.layer for member in group.producers if _is_whole(model, member)]
        known = [member.layer for member in group.producers if _is_known(model, member.layer)]
        tied = {"dependency_group_id": name} if len(known) > 1 and not untied(model, group) else {}
        entries += [{"op_names": [layer], **ratios, **tied} for layer in known]
        for member in group.members:
            module = model.get_submodule(member.layer) if member.axis is None else None
            if member.role == "carrier" and isinstance(module, _BatchNorm) and module.affine:
                norms[member.layer] = name if _is_whole(model, member) and name in whole else None
    for norm, source in norms.items():
        if _is_known(model, norm):
            align = {"align": {"module_name": source, "target_name": "weight", "dims": [0]}}
            aligned = {} if source is None else {"target_settings": {"weight": align, "bias": align}}
            entries.append({"op_names": [norm], "target_names": ["weight", "bias"], **aligned})
    return entries


def untied(model: nn.Module, group: ChannelGroup) -> list[str]:
    """Return the layers that NNI cannot mask like the others of a group: a channel of it is not one output of theirs.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3))
        >>> untied(net, channel_groups(net, torch.rand(2, 1, 8, 8))["0"])
        ['0']
    """
    return [m.layer for m in group.producers if _is_known(model, m.layer) and not _is_whole(model, m)]


def is_left(entry: Mapping[str, Any]) -> bool:
    """Return whether NNI's own pruners cannot read an entry of `completed`: a batch norm that follows several layers.

    Example:
        >>> is_left({"op_names": ["norm"], "target_names": ["weight", "bias"]})
        True
    """
    return "target_names" in entry and "target_settings" not in entry


def _is_known(model: nn.Module, layer: str) -> bool:
    """Return whether NNI can mask layers of this type."""
    return type(model.get_submodule(layer)).__name__ in PruningSetting.registry


def _is_whole(model: nn.Module, member: Member) -> bool:
    """Return whether channel c of the group is output c of the layer, and all of them are."""
    rows = getattr(model.get_submodule(member.layer), "weight").shape[0]  # noqa: B009  # typed as a Tensor or a Module
    return len(member.indices) == rows and all(owned == (c,) for c, owned in enumerate(member.indices))


def _check_tied(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
    """Refuse groups whose layers no config list makes NNI's own pruners mask alike."""
    odd = {name: apart for name, group in groups.items() if (apart := untied(model, group))}
    if odd:
        layers = [member.layer for name in odd for member in groups[name].producers]
        reasons = "; ".join(f"a channel of {name!r} is not one output of {', '.join(odd[name])}" for name in odd)
        raise ConfigError(
            f"NNI cannot mask these alike ({reasons}); add 'exclude_op_names': {layers}, or use FeatureMapPruner"
        )


def _check_whole(model: nn.Module, said: Mapping[str, Setting], groups: ChannelGroups) -> None:
    """Refuse layers whose channels cannot be removed as the config list asks."""
    left = dict.fromkeys(said, TIED_TO_OTHERS) | {name: why for name, why in groups.skipped.items() if name in said}
    for group in groups.values():
        layers = [member.layer for member in group.producers]
        others = [layer for layer in layers if layer not in said and not is_depthwise(model.get_submodule(layer))]
        for layer in layers:
            left.pop(layer, None)
            if others and layer in said:
                left[layer] = f"it falls together with {', '.join(others)}, not selected"
    if left:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in left.items())
        raise ConfigError(
            f"the config list selects layers that cannot lose channels ({reasons}); select what falls together, or add "
            f"'exclude_op_names': {[*left]}"
        )


def _setting_of(group: ChannelGroup, said: Mapping[str, Setting]) -> Setting:
    """Return what the config list says of all layers of a group."""
    found = {member.layer: said[member.layer] for member in group.producers if member.layer in said}
    first, *others = found
    for layer in others:
        for key in RATIOS:
            if getattr(found[layer], key) != getattr(found[first], key):
                raise ConfigError(
                    f"{first!r} and {layer!r} fall together but have the {key} {getattr(found[first], key)} and "
                    f"{getattr(found[layer], key)}; give them the same"
                )
    return found[first]


def _check_dependencies(said: Mapping[str, Setting], groups: Mapping[str, ChannelGroup]) -> None:
    home = {member.layer: name for name, group in groups.items() for member in group.producers}
    first: dict[int | str, str] = {}
    for layer, setting in said.items():
        if setting.dependency_group_id is not None:
            other = first.setdefault(setting.dependency_group_id, layer)
            if home[other] != home[layer]:
                raise ConfigError(
                    f"{other!r} and {layer!r} have the dependency_group_id {setting.dependency_group_id!r} but do not "
                    "fall together: which layers do is read from the network, leave the ids out"
                )
