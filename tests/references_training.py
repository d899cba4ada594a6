"""Naive twins of what training does: numbers in lists, one after another."""

from __future__ import annotations

import math


def stepped_rates(largest, steps, epochs, warmup, milestones, gamma):
    """Learning rate of every step: up a line of `warmup` steps, then times gamma at each milestone, given in epochs."""
    rates = []
    for step in range(steps):
        rate = largest * (step + 1) / warmup if step < warmup else largest
        for milestone in milestones:
            if step >= warmup and step >= round(milestone * steps / epochs):
                rate *= gamma
        rates.append(rate)
    return rates


def adamw(weight, gradient, rates, beta, decay, second=0.999, eps=1e-8):
    """The weight after one step of AdamW per rate, for a single number and its gradient as a function of it."""
    mean, square = 0.0, 0.0
    for count, rate in enumerate(rates, 1):
        g = gradient(weight)
        weight = weight - rate * decay * weight
        mean = beta * mean + (1 - beta) * g
        square = second * square + (1 - second) * g * g
        weight = weight - rate * (mean / (1 - beta**count)) / (math.sqrt(square / (1 - second**count)) + eps)
    return weight


def moving_average(values, decay):
    """The last moving average of numbers, the first of which it begins with."""
    average = values[0]
    for step, value in enumerate(values[1:], 2):
        share = min(decay, step / (step + 9))
        average = share * average + (1 - share) * value
    return average


def softmax(logits, temperature):
    weights = [math.exp(z / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def distillation_loss(logits, wanted, temperature):
    """T^2 times the mean over the images of sum_k p_k log(p_k / q_k), p the teacher's answer."""
    total = 0.0
    for own, others in zip(logits, wanted, strict=True):
        q, p = softmax(own, temperature), softmax(others, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(logits)


def mixed(rows, partners, share):
    return [
        [share * a + (1 - share) * b for a, b in zip(row, rows[partner], strict=True)]
        for row, partner in zip(rows, partners, strict=True)
    ]


def smoothed_cross_entropy(logits, targets, smoothing):
    """Mean over the images of -sum_k t_k log q_k, with the share `smoothing` of t spread evenly."""
    total = 0.0
    for own, wanted in zip(logits, targets, strict=True):
        q, classes = softmax(own, 1.0), len(own)
        for k in range(classes):
            total -= ((1 - smoothing) * wanted[k] + smoothing / classes) * math.log(q[k])
    return total / len(logits)
