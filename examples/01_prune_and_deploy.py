"""A trained network in, a smaller and faster ONNX model out: every step as one call.

    python examples/01_prune_and_deploy.py [--smoke] [--output FOLDER]

A residual network learns scikit-learn's scanned digits, gives up half of its multiply-accumulates (MACs), recovers, and
leaves as an ONNX file that is proved to be the same network and timed against the dense one. About half a minute on two
cores; seconds with --smoke, which reads few images and shows only that everything runs.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.networks import digits_resnet
from secateur_onnx import benchmark, check_parity, export

parser = argparse.ArgumentParser(description="Prune a network for digits and deploy it with ONNX Runtime.")
parser.add_argument("--smoke", action="store_true", help="few images and one epoch: seconds")
parser.add_argument("--output", type=Path, default=Path("runs/01_prune_and_deploy"), help="folder for the files")
options = parser.parse_args()
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

# The data: 1,797 real images of 8x8 pixels. 400 are held out, and 200 choose the best epoch.
digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 16
labels = torch.from_numpy(digits.target).long()
test_part, validation_part, train_part = torch.randperm(len(images)).tensor_split([400, 600])
if options.smoke:
    train_part = train_part[:256]
train = DataLoader(TensorDataset(images[train_part], labels[train_part]), batch_size=64, shuffle=True)
validation = DataLoader(TensorDataset(images[validation_part], labels[validation_part]), batch_size=200)
test = DataLoader(TensorDataset(images[test_part], labels[test_part]), batch_size=200)
example = images[train_part[:8]]

# The network, trained. Yours would come with its weights.
dense = digits_resnet()
secateur.fine_tune(dense, train, validation, epochs=1 if options.smoke else 8, learning_rate=0.05)
accuracy = {"dense": secateur.accuracy(dense, test)}

# Score: what is each channel worth, by the rank of its feature maps?
scores = secateur.collect_scores(dense, train, "hrank", samples=64 if options.smoke else 500)

# Plan: which channels fall together, what do they cost, and which stay within half of the MACs?
groups = secateur.channel_groups(dense, example)
cost = secateur.MacsCost(dense, example, groups)
curves = secateur.reconstruction_scores(dense, groups, train, samples=64 if options.smoke else 1000, order=scores)
plan = secateur.curve_plan(groups, curves, cost, "50%", round_to=8)

# Remove them for good, and prove the cut: the small network computes what the masked one does.
pruned = secateur.apply_plan(dense, plan)
secateur.verify_pruning(dense, pruned, plan, example)
accuracy["channels removed"] = secateur.accuracy(pruned, test)

# Recover: least squares without labels or gradients, then a short training.
secateur.compensate(dense, pruned, plan, train)
accuracy["compensated"] = secateur.accuracy(pruned, test)
secateur.fine_tune(pruned, train, validation, epochs=1 if options.smoke else 4, learning_rate=0.02)
accuracy["fine-tuned"] = secateur.accuracy(pruned, test)

# Save as plan.json and model.safetensors. Any process that has the factory can load them.
secateur.save_pruned(pruned, dense, plan, options.output)
pruned = secateur.load_pruned(digits_resnet, options.output)

# Deploy: an ONNX file, compared with torch on the held-out images, and timed against the dense network.
dense_file = export(dense, example, options.output / "dense.onnx")
pruned_file = export(pruned, example, options.output / "model.onnx")
parity = check_parity(pruned, pruned_file.path, test).require()
timing = benchmark(
    dense_file.path, pruned_file.path, batch_sizes=(1, 32), threads=1, seconds=0.2 if options.smoke else 3
)

for stage, share in accuracy.items():
    print(f"{stage:<25}{share:.1%} of {len(test_part)} held-out images")
print(f"{'MACs':<25}{plan.cost_before / 1e6:.2f} M -> {plan.cost_after / 1e6:.2f} M")
print(f"{'ONNX file':<25}{dense_file.file_bytes / 1e6:.2f} MB -> {pruned_file.file_bytes / 1e6:.2f} MB")
print(f"{'ONNX Runtime vs. torch':<25}largest difference {parity.max_abs:.1e}, same class {parity.top1_agreement:.1%}")
for measured in timing.comparisons:
    print(f"{f'speed at batch {measured.batch_size}':<25}{measured.verdict}")
print(f"{'files':<25}{options.output}")
