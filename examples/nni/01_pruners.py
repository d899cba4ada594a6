"""HRank, DI and a budget as pruners of NNI 3.0, with NNI's config lists, evaluators, schedules and masks.

    python examples/nni/01_pruners.py [--smoke]

HRankPruner masks half of the channels of each layer at once; DIPruner under NNI's AGPPruner does so in three steps of
the training; BudgetPruner searches for the widths within half of the multiply-accumulates. Each time the masked network
and the one without these channels are compared. Under a minute on one core; a third of it with --smoke.
"""

import argparse
import copy

import nni
import torch
from nni.compression.pruning import AGPPruner
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.networks import digits_resnet
from secateur_nni import BudgetPruner, DIPruner, HRankPruner, apply_masks, torch_evaluator

parser = argparse.ArgumentParser(description="Prune with NNI by what the feature maps say.")
parser.add_argument("--smoke", action="store_true", help="few images, short training: a third of the time")
options = parser.parse_args()
torch.manual_seed(0)

digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 16
labels = torch.from_numpy(digits.target).long()
test, valid, train = torch.randperm(len(images)).split([400, 200, len(images) - 600])
if options.smoke:
    test, valid, train = test[:100], valid[:50], train[:256]
loader = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True)
held_out, judging = [(images[test], labels[test])], [(images[valid], labels[valid])]


def training_step(batch, model):
    """Return the loss, as NNI asks for it."""
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets)


def training_func(model, optimizers, training_step, _lr_schedulers=None, max_steps=None, max_epochs=None):
    """Train the way NNI asks for it: so many steps, or so many epochs."""
    model.train()
    step = 0
    while max_steps is None or step < max_steps:
        for batch in loader:
            optimizers.zero_grad()
            training_step(batch, model).backward()
            optimizers.step()
            step += 1
            if step == max_steps:
                return
        if max_steps is None and step >= (max_epochs or 1) * len(loader):
            return


def evaluator_of(network):
    """Return NNI's evaluator; the optimizer is made by nni.trace, so that NNI can make it again."""
    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.02, momentum=0.9)
    return torch_evaluator(
        training_func,
        optimizer,
        training_step,
        evaluating_func=lambda model: secateur.accuracy(model, judging),
    )


def show(name, network, masks, masked):
    """Remove what is masked, and print what is left; `masked` are the outputs of NNI's wrapped network."""
    pruned = apply_masks(network, masks, images[:2])
    with torch.no_grad():
        apart = (pruned.eval()(images[test]) - masked).abs().max() / masked.abs().max()
    parameters = sum(p.numel() for p in pruned.parameters())
    print(
        f"{name:<22} {parameters / 1e3:4.0f} k parameters, {secateur.accuracy(pruned, held_out):6.1%} right, "
        f"masked and removed differ by {apart:.0e}"
    )


def outputs(model):
    """Return what the wrapped network says of the held-out images."""
    with torch.no_grad():
        return model.eval()(images[test])


trained = digits_resnet()
optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
training_func(trained, optimizer, training_step, max_epochs=4)
trained.eval()
parameters = sum(p.numel() for p in trained.parameters())
print(f"{'dense':<22} {parameters / 1e3:4.0f} k parameters, {secateur.accuracy(trained, held_out):6.1%} right")

half = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]

network = copy.deepcopy(trained)
pruner = HRankPruner(network, half, batches=loader)
wrapped, masks = pruner.compress()
masked = outputs(wrapped)
pruner.unwrap_model()
show("HRankPruner", network, masks, masked)

network = copy.deepcopy(trained)
pruner = DIPruner(network, half, evaluator_of(network), batches=loader)
scheduled = AGPPruner(pruner, interval_steps=len(loader), total_times=3)
wrapped, masks = scheduled.compress(max_steps=(4 if options.smoke else 6) * len(loader), max_epochs=None)
masked = outputs(wrapped)
scheduled.unwrap_model()
show("AGPPruner of DIPruner", network, masks, masked)

network = copy.deepcopy(trained)
bounded = [
    {"op_types": ["Conv2d"], "exclude_op_names": ["layer1.0.conv1"], "max_sparse_ratio": 0.75},
    {"op_names": ["layer1.0.conv1"], "min_sparse_ratio": 0.25},
]
pruner = BudgetPruner(
    network,
    bounded,
    evaluator_of(network),
    batches=loader,
    budget="50%",
    delta=0.1 if options.smoke else 0.02,
)
wrapped, masks = pruner.compress()
masked = outputs(wrapped)
pruner.unwrap_model()
show("BudgetPruner", network, masks, masked)
plan = pruner.plan
pruned = secateur.apply_plan(network, plan)
secateur.compensate(network, pruned, plan, loader)
print(
    f"  {plan.cost_after / plan.cost_before:.1%} of the MACs in {plan.settings['steps']} steps, widths "
    f"{list(plan.widths.values())}; compensated {secateur.accuracy(pruned, held_out):.1%} right"
)
