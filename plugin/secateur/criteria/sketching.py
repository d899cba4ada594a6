"""Few rows that stand for many: FilterSketch's frequent directions.

.. [Liberty2013] E. Liberty. Simple and deterministic matrix sketching. KDD 2013.
.. [Lin2020b] M. Lin, L. Cao, S. Li, Q. Ye, Y. Tian, J. Liu, Q. Tian, R. Ji. Filter Sketch for Network Pruning.
   IEEE TNNLS 2021 (arXiv 2001.08514).
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import ConfigError, ScoreError


def frequent_directions(rows: Tensor, count: int) -> tuple[Tensor, int]:
    """Return `count` rows that keep what the rows have in common, and how many of the rows they were made of.

    Formula: B takes the rows one by one. Whenever it is full, B = U diag(s) V', and it becomes diag(s^) V' with
    s^_i = sqrt(max(s_i^2 - s_h^2, 0)), h = floor(count / 2) counted from 0, which empties the rows from h on for the
    next ones [Liberty2013]_. Where fewer rows are left than would become free, B stays full as it is [Lin2020b]_.
    Of the n rows A that were taken, 0 <= A'A - B'B <= (2 / count) |A|_F^2.

    Args:
        rows: (C, D); computed in float64.
        count: in 1..C; C returns the rows themselves.

    Raises:
        ConfigError: no such count.
        ScoreError: rows that are not finite.

    Cost: a singular value decomposition of (count, D) for every count / 2 rows.

    Example:
        >>> sketch, taken = frequent_directions(torch.eye(4), 2)
        >>> sketch.shape, taken
        (torch.Size([2, 4]), 4)

    Deviations from the published code, as far as it is known: it stops at fewer than floor(count / 2) rows, here at
    fewer than count - h, which is one more for an odd count, and leaves no row of zeros. Rows are those of the whole
    matrix in their order.
    """
    if not 1 <= count <= len(rows):
        raise ConfigError(f"{len(rows)} filters make 1..{len(rows)} rows of a sketch; asked for {count}")
    rows = rows.detach().double().cpu().flatten(1)
    if not bool(torch.isfinite(rows).all()):
        raise ScoreError("filters that hold NaN or infinity have no sketch")
    sketch, taken, half = rows[:count].clone(), count, count // 2
    while len(rows) - taken >= count - half:
        _, values, directions = torch.linalg.svd(sketch, full_matrices=False)
        cut = values[half] if half < len(values) else values.new_zeros(())
        shrunken = (values[:half].square() - cut.square()).sqrt()[:, None] * directions[:half]
        sketch = torch.zeros_like(sketch)
        sketch[: len(shrunken)] = shrunken
        sketch[half:] = rows[taken : taken + count - half]
        taken += count - half
    return sketch, taken
