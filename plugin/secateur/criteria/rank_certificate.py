"""What makes a rank certain that is found by counting eigenvalues instead of computing them; others are left open.

`torch.linalg.matrix_rank` counts the singular values of a float32 map A that are larger than

    tol = sigma_1 max(H, W) eps,                eps = 2^-23

and finds all of them first. To count is cheaper. With G = A A^T in float64 (or A^T A, whichever is smaller, without the
rows and columns of zeros), Sylvester's law of inertia says: in any factorization G - s I = L D L^T as many entries of D
are positive as singular values of A lie above sqrt(s). Two counts, at an s below tol^2 and at one above, that agree are
the rank. If the upper count is full, which it is for five maps of six, there is no need for the lower.

What makes the count certain:

* *sigma_1 is bounded, not computed.* sigma_1^2 is the largest eigenvalue of G: at most its Frobenius norm, at least
  |G x| / |x| for any x.
* *Rounding in float64 is bounded afterwards.* The products that make G are wrong by at most (p + 1) u tr(G), p numbers
  a product, u = 2^-53; the factors belong to a matrix that differs from G - s I by at most
  (m + 1) u tr(|L| |D| |L^T|), which is known once they are made ([Higham2002]_, theorems 3.5 and 10.3, without second
  order). If twice their sum is more than a sixteenth of s the map is left open, and s is moved by that sixteenth to the
  safe side. No pivoting is needed for that.
* *The rounding of the definition is left room.* A float32 singular value decomposition is itself wrong, by a few times
  2^-24 sigma_1, and no theorem about LAPACK is as narrow as tol. So maps are left open that have a singular value
  within a quarter of tol from it, or within 8 x 2^-24 sigma_1 if that is more. In all that was tried, real maps and
  matrices made for it, decompositions of singular values near tol were wrong by at most half of that. Left open are
  also maps whose norm comes near the ends of float32's range, where tol itself is lost.

Of a million feature maps of a trained ResNet-56 some 1,700 stay open. Whoever asks has them decomposed.

.. [Higham2002] N. J. Higham. Accuracy and stability of numerical algorithms, 2nd edition. SIAM 2002.
"""

from __future__ import annotations

OPEN = -1  # in place of a rank: not certain
ROUNDING = 1 / 16  # share of a shift that is kept for rounding in float64
UNIT = 2.0**-53  # float64's unit roundoff
SCALES = (1e-24, 1e24)  # squared Frobenius norms between which float32 neither over- nor underflows on the way


def bounds(height: int, width: int) -> tuple[float, float]:
    """Return (below, above): the squares of the tolerance without and with its margin, for sigma_1 = 1.

    `below` is 0 for maps with at most four rows and columns, where 8 x 2^-24 is all of the tolerance.

    Example:
        >>> below, above = bounds(32, 32)
        >>> round((below / above) ** 0.5, 3), bounds(4, 3)[0]
        (0.6, 0.0)
    """
    side = max(height, width)
    tolerance, margin = side * 2.0**-23, max(1 / 4, 4 / side)
    return (tolerance * max(0.0, 1 - margin)) ** 2, (tolerance * (1 + margin)) ** 2
