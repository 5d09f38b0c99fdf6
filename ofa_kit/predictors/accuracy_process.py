"""A Gaussian process of what subnets lack to a ceiling: choices add up, and interactions come on top.

Top-1 saturates: one more block gives a small subnet points and a large one hardly any. In the latent scale
-log(1 - k * top1) / k, with the ceiling at 1 / k, choices simply add up. All numbers here are in a unit of their own:
`scale` and `center` turn it into percent.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Process:
    """A fitted process: plain numbers and arrays (accuracy_evidence.py finds them, accuracy_file.py keeps them)."""

    center: float
    scale: float
    embedding: Values
    """(C + 2, F): turns features into places whose distance says how unlike two subnets are."""
    interaction: float
    """Variance of what is no sum of single choices; 0 = there is none."""
    reach: float
    """Distance over which interactions change."""
    ceiling: float
    """The ceiling's k."""
    noise: float
    """Variance of a new measurement."""
    known: Values
    """(N, C + 2): features of the measured subnets."""
    known_noise: Values
    """(N,): variances of their latent values as measured."""
    dual: Values
    """(N,): weights of the covariances with them."""

    def predict_top1(self, features: Values) -> Values:
        """Return top-1 in percent, (M,)."""
        if not self.interaction:
            return self._percent(features @ self._slopes)
        interactions = self._interactions(self._lengths(features), features @ self._to_known)
        return self._percent(features @ self._slopes + interactions @ self.dual)

    def predict(self, features: Values) -> tuple[Values, Values]:
        """Return top-1 in percent and its standard deviation in points, a measurement's noise included, both (M,)."""
        latent, lengths = features @ self._slopes, self._lengths(features)
        if not self.interaction:
            seen = self._to_known @ self._whitening.T
            variance = lengths - np.einsum("mc,mc->m", features @ (seen @ seen.T), features)
        else:
            shared = features @ self._to_known
            interactions = self._interactions(lengths, shared)
            latent += interactions @ self.dual
            shared += interactions
            variance = self.interaction + lengths - self._explained(shared)
        in_top1 = np.maximum(variance, 0.0) * np.exp(-2 * self.ceiling * latent) + self.noise
        return self._percent(latent), self.scale * np.sqrt(in_top1)

    def _percent(self, latent: Values) -> Values:
        return self.center + self.scale * top1_of(latent, self.ceiling)

    def _lengths(self, features: Values) -> Values:
        """Return the squared lengths (M,) of places: the prior variance of the single choices' sum."""
        return np.asarray(np.einsum("mc,mc->m", features @ self._metric, features))

    def _interactions(self, lengths: Values, product: Values) -> Values:
        """Return the covariance (M, N) with the measured subnets that comes on top of single choices."""
        exponent = product * 2
        exponent -= lengths[:, None]
        exponent -= np.einsum("nf,nf->n", self._places, self._places)
        exponent /= 2 * self.reach**2
        np.minimum(exponent, 0.0, out=exponent)
        np.exp(exponent, out=exponent)
        return np.multiply(exponent, self.interaction, out=exponent)

    def _explained(self, shared: Values) -> Values:
        """Return the variance (M,) that covariances (M, N) with the measured subnets explain; overwrites them."""
        from scipy.linalg import blas

        seen = blas.dtrmm(1.0, self._whitening, shared.T, lower=1, overwrite_b=1)
        return np.asarray(np.einsum("nm,nm->m", seen, seen))

    @cached_property
    def _slopes(self) -> Values:
        """(C + 2,): what single choices add to the latent value."""
        return np.asarray(self._to_known @ self.dual)

    @cached_property
    def _places(self) -> Values:
        """(N, F): where the measured subnets are."""
        return np.asarray(self.known @ self.embedding)

    @cached_property
    def _metric(self) -> Values:
        """(C + 2, C + 2): the inner product of places, in features."""
        return np.asarray(self.embedding @ self.embedding.T)

    @cached_property
    def _to_known(self) -> Values:
        """(C + 2, N): turns features into inner products with the measured subnets' places."""
        return np.asarray(self.embedding @ self._places.T)

    @cached_property
    def _whitening(self) -> Values:
        """(N, N): the inverse of the lower Cholesky factor of the measured subnets' covariance."""
        from scipy.linalg import lapack

        known = covariance(self._places, self._places, self.interaction, self.reach) + np.diag(self.known_noise)
        return np.asarray(lapack.dtrtri(cholesky(known), lower=1)[0])


def covariance(left: Values, right: Values, interaction: float, reach: float) -> Values:
    """Return the prior covariance of latent values at places (M, F) and (N, F), shape (M, N)."""
    product = np.asarray(left @ right.T)
    if not interaction:
        return product
    return product + interaction * np.exp(-squared_distance(left, right, product) / (2 * reach**2))


def squared_distance(left: Values, right: Values, product: Values) -> Values:
    """Return the squared distances (M, N) of places whose inner products are known."""
    lengths, others = (np.einsum("nf,nf->n", side, side) for side in (left, right))
    return np.asarray(np.maximum(lengths[:, None] + others - 2 * product, 0.0))


def inverse(matrix: Values) -> tuple[Values, float]:
    """Return the inverse of a symmetric positive definite matrix and the logarithm of its determinant."""
    from scipy.linalg import lapack

    factor = cholesky(matrix)
    half = np.tril(lapack.dpotri(factor, lower=1)[0])
    return half + np.tril(half, -1).T, 2 * float(np.log(np.diag(factor)).sum())


def cholesky(matrix: Values) -> Values:
    """Return the lower factor of a symmetric positive definite matrix."""
    from scipy.linalg import lapack

    factor, failed = lapack.dpotrf(matrix, lower=1)
    if failed:
        raise np.linalg.LinAlgError(f"the covariance of {len(matrix)} subnets is not positive definite")
    return np.asarray(factor)


def top1_of(latent: Values, ceiling: float) -> Values:
    """Return the top-1 of latent values, in the process's unit."""
    return np.asarray(-np.expm1(-ceiling * latent) / ceiling)
