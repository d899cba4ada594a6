"""Naive twins of every formula: loops that anyone can check against the paper. They import nothing of secateur."""

from __future__ import annotations
