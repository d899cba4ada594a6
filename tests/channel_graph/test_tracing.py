"""Networks that trip a trace: channels that are tied to one another, cannot be followed or are never met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional

from secateur import MacsCost, ParameterCost, ScoreTable, WeightImportance, prune, uniform_plan
from secateur.channel_graph import apply_plan, channel_groups, host_importance_scores, verify_pruning
from secateur.channel_graph.unmixed import Unmixed
from secateur.errors import NetworkError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Decoder(nn.Module):
    """A linear layer of which nine outputs in a row are one channel of the map that is made of them."""

    def __init__(self, *, wide: int = 9) -> None:
        super().__init__()
        self.wide = wide
        self.first = nn.Linear(192, 6)
        self.spread = nn.Linear(6, 8 * wide**2)
        self.up = nn.ConvTranspose2d(8, 5, 2)
        self.last = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.spread(torch.relu(self.first(x.flatten(1)))))
        return self.last(torch.relu(self.up(x.view(len(x), -1, self.wide, self.wide))))


class Film(nn.Module):
    """A linear layer whose halves scale and shift the channels of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 16)
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.both(x.mean((2, 3))).chunk(2, 1)
        return self.last(self.conv(x) * scale[:, :, None, None] + shift[:, :, None, None])


@pytest.mark.parametrize(
    ("network", "name", "layer", "owned"),
    [(Decoder, "spread", "spread", tuple(range(81, 162))), (Film, "both", "both", (1, 9))],
)
def test_outputs_that_are_one_channel_fall_together(
    network: Callable[[], nn.Module], name: str, layer: str, owned: tuple[int, ...]
) -> None:
    net = network()
    groups = channel_groups(net, IMAGES)
    assert groups[name].width == 8
    assert next(m for m in groups[name].producers if m.layer == layer).indices[1] == owned
    widths = {key: group.width * (len(owned) if key == name else 1) for key, group in groups.items()}
    scores = ScoreTable({key: torch.rand(width) for key, width in widths.items()})
    plan = uniform_plan(groups, scores, MacsCost(net, IMAGES, groups), "60%", round_to=1)
    pruned = apply_plan(net, plan)
    assert plan.removed(name)
    assert verify_pruning(net, pruned, plan, IMAGES).largest_difference < 1e-5
    widths = {group: len(kept) for group, kept in plan.kept.items()}
    assert ParameterCost(net, groups)(widths) == sum(p.numel() for p in pruned.parameters())


def test_any_importance_scores_them_as_one_channel() -> None:
    net = Film()
    with torch.no_grad():
        net.both.weight[[2, 10]] = net.conv.weight[2] = 0.0
    result = prune(net, IMAGES, tp.importance.MagnitudeImportance(), pruning_ratio=0.125)
    assert result.plan.removed("both") == (2,)


def test_a_wide_layer_behind_which_maps_are_made_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for all outputs of it, Torch-Pruning writes down every pair of two that fall together."""
    written = 0
    call = tp.dependency.index_mapping._FlattenIndexMapping.__call__

    def counted(self: object, idxs: list[object]) -> list[object]:
        nonlocal written
        found: list[object] = call(self, idxs)
        written += len(found)
        return found

    monkeypatch.setattr(tp.dependency.index_mapping._FlattenIndexMapping, "__call__", counted)
    channel_groups(Decoder(wide=16), IMAGES, check=False)
    assert written < 10 * 8 * 16**2


class Recurrent(nn.Module):
    """A linear layer in front of a GRU, at which Torch-Pruning fails."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, (8, 1))
        self.project = nn.Linear(6, 5)
        self.cell = nn.GRU(5, 5, batch_first=True)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cell(torch.relu(self.project(self.conv(x).squeeze(2).transpose(1, 2))))
        return self.last(states[:, -1])


def test_only_the_layer_at_which_torch_pruning_fails_is_left_out() -> None:
    groups = channel_groups(Recurrent(), IMAGES)
    assert list(groups) == ["conv"]
    assert groups.skipped["project"].startswith("Torch-Pruning cannot follow its channels (IndexError: ")


class GroupDeviation(nn.Module):
    """Divides by the deviation of each quarter of the channels, laid out again over its maps (EvoNorm)."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = x.unflatten(1, (4, -1))
        deviation = (quarters.var((2, 3, 4), keepdim=True) + 1).sqrt().expand(quarters.shape)
        return x / deviation.reshape(x.shape)


def test_channels_that_are_lost_where_axes_are_expanded_are_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), GroupDeviation(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    groups = channel_groups(net, torch.randn(2, 3, 8, 8))
    assert list(groups) == ["2"]
    assert "where five axes are expanded it forgets which channels it came from" in groups.skipped["0"]


def test_what_torch_pruning_follows_in_circles_is_left_out_at_once() -> None:
    """Without a bound the indices of a Swin transformer multiply until memory or patience ends."""
    transformer = pytest.importorskip("torchvision.models.swin_transformer").SwinTransformer
    net = transformer(
        patch_size=[2, 2], embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=3
    ).eval()
    groups = channel_groups(net, IMAGES)
    assert {name: group.width for name, group in groups.items()} == {"features.1.0.mlp.0": 32, "features.3.0.mlp.0": 64}
    assert "more than any layer has" in groups.skipped["features.2.reduction"]
    assert "it is not called" in groups.skipped["features.1.0.attn.qkv"]


class Frozen(nn.Module):
    """A backbone whose forward runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3))
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def test_layers_that_the_trace_does_not_meet_are_told() -> None:
    groups = channel_groups(Frozen(), IMAGES)
    assert list(groups) == ["hidden"]
    assert "runs without gradients" in groups.skipped["backbone.0"]
    assert "runs without gradients" in groups.skipped["backbone.2"]


@dataclass(slots=True)
class Answer:
    logits: Tensor
    features: Tensor


class Answers(nn.Sequential):
    def forward(self, x: Tensor) -> Answer:
        features = super().forward(x)
        return Answer(features.mean((2, 3)), features)


def test_outputs_may_be_a_data_class() -> None:
    net = Answers(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    assert list(channel_groups(net, IMAGES)) == ["0"]


def test_a_single_channel_is_told_by_what_makes_it_one() -> None:
    spread = nn.Conv2d(8, 16, 3, groups=8)
    groups = channel_groups(nn.Sequential(nn.Conv2d(3, 8, 3), spread, nn.Conv2d(16, 4, 1), nn.Conv2d(4, 2, 1)), IMAGES)
    assert groups.skipped["0"] == "each of its channels stands for one in every of the 8 groups of 1: there is one"
    groups = channel_groups(nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)), IMAGES)
    assert groups.skipped["0"] == "it has only one channel"


class Attended(nn.Module):
    """Efficient channel attention: a convolution over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.over, self.last = nn.Conv2d(3, 8, 3), nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        gate = self.over(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return self.head(self.last(x * torch.sigmoid(gate)[:, :, None, None]).mean((2, 3)))


def test_channels_that_a_convolution_runs_over_stay() -> None:
    groups = channel_groups(Attended(), IMAGES)
    assert list(groups) == ["last"]
    assert groups.skipped["first"] == "Torch-Pruning takes its channels for the only one of over"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_networks_prepared_for_quantization_are_refused() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    prepared = quantization.prepare_qat(net)
    with pytest.raises(
        NetworkError, match=r"'0' is a Conv2d of torch.ao, which cannot be cut; prune the network first"
    ):
        channel_groups(prepared, IMAGES)


class Normalised(nn.Module):
    """Wrongly mapped channels, behind a normalisation that would hide it."""

    def __init__(self, norm: nn.Module, *, flip: bool) -> None:
        super().__init__()
        self.first, self.norm, self.last, self.flip = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 1), flip

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        last = isinstance(self.norm, nn.LayerNorm)
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1) if last else self.norm(x)
        return self.last(torch.relu(x.flip(1) if self.flip else x))


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(8), lambda: nn.GroupNorm(2, 8), lambda: nn.GroupNorm(1, 8)])
def test_groups_behind_a_normalisation_over_channels_are_tried(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    right, wrong = Normalised(norm(), flip=False), Normalised(norm(), flip=True)
    for net in (right, wrong):
        nn.init.uniform_(net.norm.weight, 0.5, 1.5)
        nn.init.normal_(net.norm.bias)
    assert list(channel_groups(right, IMAGES)) == ["first"]
    with pytest.raises(NetworkError, match=r"first: removing its channels is not the same as masking them"):
        channel_groups(wrong, IMAGES)


def test_an_unmixed_normalisation_is_its_gain_and_shift() -> None:
    x, y = torch.randn(2, 6, 3, 3), torch.randn(2, 3, 6)
    grouped, layer, local = nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.LocalResponseNorm(2)
    for norm in (grouped, layer):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    with torch.no_grad(), Unmixed().running():
        found = grouped(x), layer(y), local(x), functional.relu(x)
    size, length = x.square().mean().sqrt(), y.square().mean().sqrt()
    expected = x / size * grouped.weight[:, None, None] + grouped.bias[:, None, None]
    torch.testing.assert_close(found[0], expected.detach())
    torch.testing.assert_close(found[1], (y / length * layer.weight + layer.bias).detach())
    torch.testing.assert_close(found[2], x / size)
    torch.testing.assert_close(found[3], functional.relu(x))


class Reordered(nn.Module):
    """Its last step reads a parameter of whole numbers, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        self.order = nn.Parameter(torch.tensor([2, 0, 3, 1]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[:, self.order]


def test_parameters_of_whole_numbers_stay_out_of_it() -> None:
    net = Reordered().eval()
    batches = [(IMAGES, torch.tensor([0, 3]))]
    result = prune(net, IMAGES, WeightImportance("l1"))
    assert result.plan.widths == {"body.0": 4}
    assert verify_pruning(net, result.model, result.plan, IMAGES).largest_difference < 1e-5
    groups = channel_groups(net, IMAGES)
    assert len(host_importance_scores(net, groups, batches, "taylor")["body.0"]) == 8
    assert not net.order.requires_grad


def test_layers_without_weights_yet_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(NetworkError, match=r"'2\.weight' has no values yet: run the network once"):
        channel_groups(net, IMAGES)
