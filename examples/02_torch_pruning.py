"""HRank and DI inside Torch-Pruning: its pruner, its steps, our importance and nothing else.

    python examples/02_torch_pruning.py [--smoke]

The pruner removes half of the channels in three steps. Training goes on after each of them, and at the next step the
importance sees that the structure has changed and collects its scores anew. About half a minute on two cores; seconds
with --smoke.
"""

import argparse
import copy

import torch
import torch_pruning as tp
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from secateur import DIImportance, HRankImportance
from secateur.networks import digits_resnet

parser = argparse.ArgumentParser(description="Prune with Torch-Pruning by what the feature maps say.")
parser.add_argument("--smoke", action="store_true", help="few images: seconds")
options = parser.parse_args()
torch.manual_seed(0)

digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 16
labels = torch.from_numpy(digits.target).long()
test, train = torch.randperm(len(images)).split([400, len(images) - 400])
if options.smoke:
    train = train[:256]
loader = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True)
example = images[:1]


def fit(network: nn.Module, *, epochs: int, learning_rate: float) -> None:
    """Train the way you always do. The pruner makes new parameters, so each call needs a new optimizer."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(1 if options.smoke else epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()


def show(network: nn.Module, step: str) -> None:
    """Print what the network has left and what it can do."""
    with torch.no_grad():
        right = (network.eval()(images[test]).argmax(1) == labels[test]).float().mean()
    macs, parameters = tp.utils.count_ops_and_params(network, example)
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    print(f"{step:<8}{right:6.1%}  {macs / 1e6:5.2f} M MACs  {parameters / 1e3:4.0f} k parameters  widths {widths}")


trained = digits_resnet()  # any network of convolutions will do
fit(trained, epochs=4, learning_rate=0.05)

for importance in (HRankImportance(loader), DIImportance(loader)):
    network = copy.deepcopy(trained)
    print(type(importance).__name__)
    show(network, "dense")
    pruner = tp.pruner.BasePruner(
        network,
        (example,),
        importance=importance,
        pruning_ratio=0.5,
        iterative_steps=3,
    )
    for step in (1, 2, 3):
        pruner.step()
        fit(network, epochs=2, learning_rate=0.02)
        show(network, f"step {step}")
