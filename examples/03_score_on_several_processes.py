"""Scores, a search and its accuracy from several processes, each with its share of the images.

    torchrun --standalone --nproc-per-node 2 examples/03_score_on_several_processes.py [--smoke]

Each process scores and evaluates the images that it holds; sums are added up, so that all processes get the numbers of
one that holds all images, make the same decisions and end with the same plan. On GPUs, give each process its own
(`network.cuda(rank)`) and leave the group on gloo, since only sums travel. Without torchrun the script is one process
with all images. About half a minute on two cores; seconds with --smoke.
"""

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

from secateur import MacsCost, MaskedAccuracy, accuracy, apply_plan, channel_groups, collect_scores, greedy_plan
from secateur.networks import digits_resnet


def work(options: argparse.Namespace, everyone: dist.ProcessGroup | None) -> None:
    """Train, score, search and evaluate, with all processes of the group; without one, in this process alone."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if everyone else (0, 1)
    torch.manual_seed(0)

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    test, validation, train = torch.randperm(len(images)).split([400, 400, len(images) - 800])
    if options.smoke:
        validation, train = validation[:100], train[:600]

    def share(indices: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return this process's batches: every image is in one share, in none twice."""
        own = indices[rank::processes]
        return list(zip(images[own].split(50), labels[own].split(50), strict=True))

    network = digits_resnet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(3 if options.smoke else 6):
        if rank == 0:  # one process trains, and
            for batch in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
    network.eval()
    if everyone:
        for tensor in network.state_dict().values():  # the others get its weights: all must hold the same
            dist.broadcast(tensor, src=0)

    groups = channel_groups(network, images[:2])
    scores = collect_scores(network, share(train), "hrank", across=everyone)
    evaluate = MaskedAccuracy(network, groups, share(validation), across=everyone)
    cost = MacsCost(network, images[:1], groups)
    plan = greedy_plan(groups, scores, cost, "60%", evaluate, delta=0.1 if options.smoke else 0.02, round_to=8)
    pruned = apply_plan(network, plan)
    dense, after = (accuracy(model, share(test), across=everyone) for model in (network, pruned))

    held = sum(len(inputs) for inputs, _ in share(train))
    print(
        f"process {rank} of {processes} holds {held} images, {scores.settings['samples']} are scored by all; "
        f"plan {plan.fingerprint}, {plan.cost_after / plan.cost_before:.1%} of the MACs, "
        f"accuracy {dense:.2%} -> {after:.2%}\n",
        end="",  # one write, so that lines of several processes do not mix
    )


parser = argparse.ArgumentParser(description="Score, search and evaluate on several processes.")
parser.add_argument("--smoke", action="store_true", help="few images, coarse steps: seconds")
if "RANK" in os.environ:  # which torchrun sets
    dist.init_process_group("gloo")
work(parser.parse_args(), dist.group.WORLD)  # the group is None without torchrun
if dist.is_initialized():
    # nothing may hold the group by now: gloo's threads, still there when Python ends, abort the process now and then
    dist.destroy_process_group()
