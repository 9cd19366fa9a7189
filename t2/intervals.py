"""Intervals that cover what varies: training runs and test questions. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Results = NDArray[np.float64]
"""Of one seed: a row for each of its draws, a column for each question."""

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


_ROUNDING = 1e-24
"""A variance of shares below it is that of equal numbers, rounded."""
_DOUBLED = 2.0
"""What the runs' mean square is multiplied by in the degrees of freedom, see :func:`estimate`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs and questions, and how far others could have taken it.

    Attributes:
        value: The mean; seeds weigh alike, however many draws they have.
        se: Its standard error over runs and questions.
        df: Satterthwaite's degrees of freedom; infinite where nothing varies.
        sd_runs: Standard deviation of what other runs would have for their mean over all questions; a run is a seed
            with its draws. NaN where there is one.
        sd_draws: That of a single draw within a seed; NaN where no seed has two.
        sd_questions: That of a question's mean over all runs; NaN where there is one run.
    """

    value: float
    se: float
    df: float
    sd_runs: float
    sd_draws: float
    sd_questions: float

    @property
    def quantile(self) -> float:
        """97.5 % quantile of Student's t at :attr:`df`."""
        return Z95 if isinf(self.df) else float(stdtrit(self.df, 0.975))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the value."""
        half = self.quantile * self.se
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Two-sided probability of a value as far from 0 if the truth were 0."""
        if self.se == 0:
            return 1.0 if self.value == 0 else 0.0
        statistic = abs(self.value) / self.se
        return float(2 * stdtr(self.df, -statistic))


def estimate(groups: Sequence[Sequence[Results]], strata: NDArray[np.int_] | None = None) -> Estimate:
    r"""The sum of the groups' means under a two-way random-effects model of runs and questions.

    Run r gives question q the value :math:`d_{rq} = \mu + R_r + Q_q + \varepsilon_{rq}`, all effects random: runs are
    a sample of trainings, questions one of the task's. With the mean squares of its analysis of variance over n runs
    and m questions,

    .. math::
        \hat{V} = \frac{MS_Q + \max(MS_R - MS_E, 0)}{n m}, \qquad
        \hat\nu = \frac{(n m \hat V)^2}{MS_R^2/(n-1) + MS_Q^2/(m-1) + MS_E^2/((n-1)(m-1))},

    and the interval is the mean ± the t quantile at ν̂ times √V̂. Variance components as in Searle, Casella and
    McCulloch, *Variance Components* (1992), chapter 4; degrees of freedom by Satterthwaite (1946,
    https://doi.org/10.2307/3002019). It is the model of readers × cases in radiology (Hillis 2007,
    https://doi.org/10.1002/sim.2532). Results that are only right or wrong are no obstacle: V is the variance of a mean
    over exchangeable rows and columns, whatever their distribution.

    In ν̂ alone, MS_R enters doubled: where few runs happened to come out alike, a small MS_R would narrow the interval
    and its quantile at once. As published, the formula covers the truth 92 % of the time at three runs whose deviation
    outweighs the questions'; so, 94 %.

    Draws are nested in seeds: the runs of the formula are the seeds' means over their draws, and their mean square
    holds the variance between draws as well. With a single seed, its draws are the runs; with a single run, only the
    questions' part can be estimated.

    Args:
        groups: Each a sequence of runs, by seed. Runs of different groups are independent, as those of two methods are
            that share no adapter; each group then has a term of its own for its runs. The questions are the same.
        strata: The stratum of each question, from 0; the mean is then over strata's means. None: all in one.

    Raises:
        ValueError: A stratum has fewer than two questions: nothing can be said of others.
    """
    tables = [np.stack([seed.mean(0) for seed in group]) if len(group) > 1 else group[0] for group in groups]
    layout = _Strata.of(np.zeros(tables[0].shape[1], dtype=int) if strata is None else strata)

    mean = np.sum([table.mean(0) for table in tables], axis=0)
    of_questions = layout.noise(mean - layout.means(mean)[layout.labels])
    variance = cautious = of_questions.sum()
    terms = (of_questions**2 / (layout.counts - 1)).sum()
    of_runs, of_errors = 0.0, 0.0
    for table in (table for table in tables if len(table) > 1):
        between, noise = layout.spread(table)
        n, within = len(table), noise.sum()
        variance += max(between - within, 0.0) / n
        cautious += max(_DOUBLED * between - within, 0.0) / n
        terms += (_DOUBLED * between / n) ** 2 / (n - 1) + ((noise / n) ** 2 / ((n - 1) * (layout.counts - 1))).sum()
        of_runs += max(between - within, 0.0)
        of_errors += within / n
    several = any(len(table) > 1 for table in tables)
    return Estimate(
        value=float(layout.means(mean).mean()),
        se=float(np.sqrt(variance)),
        df=float(cautious**2 / terms) if cautious > _ROUNDING else np.inf,
        sd_runs=float(np.sqrt(of_runs)) if several else np.nan,
        sd_draws=_draws([seed for group in groups for seed in group if len(seed) > 1], layout),
        sd_questions=float(np.sqrt(max(of_questions.sum() - of_errors, 0.0) * len(mean))) if several else np.nan,
    )


def wilson(correct: float, n: float, quantile: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, https://doi.org/10.2307/2276774).

    Args:
        correct: Successes, 0 to ``n``.
        n: Trials, more than 0.
        quantile: How many standard errors it reaches to either side; by default those of 95 %.
    """
    if not n > 0 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is no share; a score needs at least one item")
    share, square = correct / n, quantile**2 / n
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def share_interval(found: Estimate, questions: int) -> tuple[float, float]:
    """95 % interval of an estimate that is a share, which cannot leave 0 to 1.

    Wilson's, for as many independent trials as would give the estimate its standard error, with the t quantile at its
    degrees of freedom (Dean and Pagano 2015, https://doi.org/10.1093/jssam/smv024).

    Args:
        found: The share.
        questions: How many it rests on: the trials where all runs were right, or all wrong.
    """
    share = min(max(found.value, 0.0), 1.0)
    trials = share * (1 - share) / found.se**2 if found.se > 0 else questions
    trials = trials or questions
    return wilson(share * trials, trials, found.quantile)


@dataclass(frozen=True)
class _Strata:
    """Questions by stratum: m of them in C strata, each weighing alike.

    Attributes:
        labels: (m,) the stratum of each.
        counts: (C,) how many each has.
        member: (m, C) 1 where it belongs.
    """

    labels: NDArray[np.int_]
    counts: NDArray[np.int_]
    member: NDArray[np.float64]

    @classmethod
    def of(cls, labels: NDArray[np.int_]) -> _Strata:
        counts = np.bincount(labels)
        if counts.min(initial=2) < 2 or not len(labels):
            raise ValueError(
                f"an interval over questions needs two of each kind at least, got {counts.tolist()}; raise the task's "
                "sizes.test"
            )
        return cls(labels, counts, np.eye(len(counts))[labels])

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…, m) to the strata's means (…, C)."""
        return values @ self.member / self.counts

    def noise(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) around their stratum's mean to what each stratum adds to the sampling variance of the mean, (C,)."""
        return residuals**2 @ self.member / (self.counts * (self.counts - 1) * len(self.counts) ** 2)

    def spread(self, table: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """(n, m) to the variance between the runs' means, and to the part of it that is the questions' noise, (C,)."""
        means = self.means(table)
        errors = table - means[:, self.labels]
        errors -= errors.mean(0)
        noise = np.sum([self.noise(row) for row in errors], axis=0) / (len(table) - 1)
        return float(means.mean(1).var(ddof=1)), noise


def _draws(seeds: Sequence[Results], layout: _Strata) -> float:
    """Standard deviation of a draw's mean within a seed, over seeds that have several."""
    if not seeds:
        return float("nan")
    found = [(len(seed) - 1, *layout.spread(seed)) for seed in seeds]
    pooled = sum(df * (between - noise.sum()) for df, between, noise in found) / sum(df for df, _, _ in found)
    return float(np.sqrt(max(pooled, 0.0)))
