"""Statistics of ratings and choices: screening, MOS with intervals, reliability, and scales from choices.

Ratings are a table with one row per rating and the columns ``rater``, ``image`` and ``score``. A rater need not have rated
every image. Methods and their sources: docs/mos.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy import sparse, special, stats
from scipy.sparse import linalg as splinalg
from scipy.sparse.csgraph import connected_components

from utils.choices import P910_CORRELATION
from utils.metrics import plcc, srcc

# ITU-R BT.500, screening of observers: an image whose scores have a kurtosis in this range counts as normal.
_BT500_NORMAL = (2.0, 4.0)
_BT500_SPREADS = (2.0, np.sqrt(20.0))  # standard deviations from the mean that make an outlier: normal, otherwise
_BT500_SHARE = 0.05  # of a rater's scores that may be outliers
_BT500_BALANCE = 0.3  # outliers on one side only are a shifted scale, which is no reason to reject

_MIN_CORRELATED = 3  # images; with two the correlation can only be -1 or 1

_MLE_TOLERANCE = 1e-8  # change of a step, Euclidean, for scores of range 1
_MLE_ITERATIONS = 2_000
# Not in P.910: a rater who agrees exactly with the current scores would get an inconsistency of 0 and infinite weight.
_LEAST_INCONSISTENCY = 0.25  # of the spread of all residuals: no rater counts for more than 16 average ones

_Number = TypeVar("_Number", float, np.ndarray)

NORMAL_95 = 1.959963984540054  # half-width of a 95 % interval in standard errors
_NEWTON_STEPS = 200


class Recovery(NamedTuple):
    """Result of ``recover``, in the unit of the scores."""

    images: pd.DataFrame  # by image: quality, error (its standard error, if inconsistencies were known), half (see recover)
    raters: pd.DataFrame  # by rater: bias, inconsistency
    groups: int  # sets of raters and images that no rating links


class Scale(NamedTuple):
    """Result of ``pairwise_scale``: places on a scale whose mean is 0, higher is better."""

    scale: np.ndarray  # (N,)
    error: np.ndarray  # (N,), standard errors
    chance: np.ndarray  # (N,), probability of being preferred to an image at the mean, in (0, 1)
    chance_low: np.ndarray  # (N,), 95 % interval
    chance_high: np.ndarray  # (N,)


def zscores(table: pd.DataFrame, by: Sequence[str] = ("rater",)) -> pd.Series:
    """Compute z-scores: score less the rater's mean, over the rater's standard deviation (population, as in SciPy).

    Args:
        table: Ratings.
        by: Columns that define a group; ``("rater", "session")`` standardizes each session separately.

    Returns:
        One z-score per row; NaN where all scores of a group are equal.
    """
    groups = table.groupby(list(by))["score"]
    spread = groups.transform("max") - groups.transform("min")  # exact, where a standard deviation may be 1e-17
    deviation = table["score"] - groups.transform("mean")
    variance = (deviation**2).groupby([table[column] for column in by]).transform("mean")
    return deviation / np.sqrt(variance.where(spread > 0))


def mean_opinions(table: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean score of each image with its 95 % interval by Student's t.

    Args:
        table: Ratings, at most one per rater and image.

    Returns:
        By image, sorted: ``mos``, ``low``, ``high``, ``n`` (ratings) and ``std`` (sample). With one rating the interval
        and ``std`` are NaN.
    """
    scores = table.groupby("image")["score"]
    frame = pd.DataFrame({"mos": scores.mean(), "n": scores.size(), "std": scores.std(ddof=1)}).sort_index()
    half = stats.t.ppf(0.975, (frame["n"] - 1).where(frame["n"] > 1)) * frame["std"] / np.sqrt(frame["n"])
    return frame.assign(low=frame["mos"] - half, high=frame["mos"] + half)[["mos", "low", "high", "n", "std"]]


def screen_bt500(table: pd.DataFrame) -> dict[str, str]:
    """Find raters that ITU-R BT.500 rejects: many of their scores are far from the mean of the image, above as well as below.

    A score is an outlier at 2 standard deviations from the mean of its image, or at the root of 20 where the scores of the
    image are not normal (kurtosis outside [2, 4]). The score itself is part of that mean and deviation, so 2 can be reached
    with at least 6 raters per image, and the root of 20 with at least 22.

    Args:
        table: Ratings, at most one per rater and image.

    Returns:
        Reason by rejected rater.

    Reference:
        Recommendation ITU-R BT.500-15, 2023: the screening of observers (the beta-2 test).
    """
    scores = table.groupby("image")["score"]
    deviation = table["score"] - scores.transform("mean")
    second = (deviation**2).groupby(table["image"]).transform("mean")
    fourth = (deviation**4).groupby(table["image"]).transform("mean")
    varied = (scores.transform("max") > scores.transform("min")) & (scores.transform("size") > 1)
    normal = (fourth / second.where(varied) ** 2).between(*_BT500_NORMAL)
    limit = scores.transform("std") * np.where(normal, *_BT500_SPREADS)
    counts = pd.DataFrame(
        {"rater": table["rater"], "above": varied & (deviation >= limit), "below": varied & (deviation <= -limit), "n": 1}
    ).groupby("rater")
    rejected = {}
    for rater, row in counts.sum().iterrows():
        outliers = row["above"] + row["below"]
        if outliers / row["n"] > _BT500_SHARE and abs(row["above"] - row["below"]) / outliers < _BT500_BALANCE:
            rejected[rater] = f"BT.500: {row['above']} scores far above and {row['below']} far below the mean, of {row['n']}"
    return rejected


def screen_p910(table: pd.DataFrame, least: float = P910_CORRELATION, least_of_methods: float | None = None) -> dict[str, str]:
    """Find raters whose scores correlate too little with the MOS. The worst is rejected first, then the MOS are computed anew.

    Raters of fewer than three images are kept, since their correlation is meaningless. Noisy but honest raters are rejected
    too: about 3 of 15 raters whose noise is as large as the spread of the images. The second criterion of the recommendations
    keeps many of them, because noise averages out over the images of a method.

    Args:
        table: Ratings, at most one per rater and image; with a column ``method`` if there is a second criterion.
        least: Pearson correlation that keeps a rater, in [-1, 1].
        least_of_methods: Correlation between the means of methods (hypothetical reference circuits, HRC) that keeps a rater as
            well, in [-1, 1]; None for no second criterion. The MOS are those of the raters kept so far. The criterion does not
            apply to a rater of fewer than three methods.

    Returns:
        Reason by rejected rater, the worst first. A rater whose scores are all equal is rejected too.

    Reference:
        Recommendations ITU-T P.910, 2023, and P.913, 2021: post-experiment screening of subjects by correlation.
    """
    raters, names = pd.factorize(table["rater"])
    images, images_of = pd.factorize(table["image"])
    scores = table["score"].to_numpy(float)
    n = np.bincount(raters)
    constant = (table.groupby("rater")["score"].agg(np.ptp).reindex(names) == 0).to_numpy()
    tested = n >= _MIN_CORRELATED
    rejected = {names[rater]: "P.910: all scores are equal" for rater in np.flatnonzero(tested & constant)}
    kept = ~(tested & constant)
    while True:
        rows = kept[raters]
        total = np.bincount(images[rows], scores[rows], len(images_of))
        mos = (total / np.maximum(np.bincount(images[rows], minlength=len(images_of)), 1))[images]
        own, others = scores - (_sums(raters, scores) / n)[raters], mos - (_sums(raters, mos) / n)[raters]
        norm = np.sqrt(_sums(raters, own**2) * _sums(raters, others**2))
        defined = kept & tested & (norm > 1e-12)
        correlation = np.where(defined, _sums(raters, own * others) / np.where(defined, norm, 1), np.inf)
        doubtful = np.where(correlation < least, correlation, np.inf)
        of_methods: dict[int, float] = {}
        if least_of_methods is not None:
            both = table.assign(mos=mos).groupby(["rater", "method"])[["score", "mos"]].mean()
            for rater in np.flatnonzero(doubtful < np.inf).tolist():
                means = both.loc[names[rater]]
                of_methods[rater] = plcc(*means.to_numpy().T) if len(means) >= _MIN_CORRELATED else -1.0
                if of_methods[rater] >= least_of_methods:
                    doubtful[rater] = np.inf
        worst = int(np.argmin(doubtful))
        if doubtful[worst] == np.inf:
            return rejected
        rejected[names[worst]] = f"P.910: correlation with the MOS {correlation[worst]:.2f}, below {least:g}"
        if worst in of_methods:
            rejected[names[worst]] += f", and by methods {of_methods[worst]:.2f}, below {least_of_methods:g}"
        kept[worst] = False


def recover(table: pd.DataFrame) -> Recovery:
    """Estimate quality of the images, and bias and inconsistency of the raters, by maximum likelihood.

    The model: score = quality of the image + bias of the rater + inconsistency of the rater * normal noise. Two steps
    alternate: the inconsistencies are computed from the residuals, then quality and bias together by weighted least squares.
    The fixed points are those of the published alternating projection, but the iteration also converges where few raters share
    images. Where no rating links two groups of raters and images, the biases of each group have the mean 0. Unlike in P.910, no
    inconsistency falls below a quarter of the spread of all residuals, nor below the rounding error of the scores: otherwise
    the likelihood has no maximum.

    ``half`` is half the 95 % interval of a quality. It takes into account that the inconsistencies are estimated, as Meier does
    for a weighted mean. Each inconsistency is estimated from as many residuals as degrees of freedom are left. The variance
    that estimated weights add is included, with four degrees of freedom less (the variance of the inverse of a chi-squared
    variable); so are the quantile of Student's t and the error of the biases. In simulations the interval holds the quality in
    .94 to .98 of the cases (15 raters x 10 images, 8 x 40, 15 x 40), 1.96 standard errors in .74 to .92.

    Args:
        table: Ratings; every rater has at least two.

    Raises:
        ValueError: If a rater has one rating, or the iteration does not converge.

    Reference:
        Z. Li et al., "A Simple Model for Subject Behavior in Subjective Experiments", HVEI 2020; ITU-T P.910, 2023. The
        model with content ambiguity, which this one leaves out: Z. Li and C. G. Bampis, "Recover Subjective Quality Scores
        from Noisy Measurements", DCC 2017. P. Meier, "Variance of a Weighted Mean", Biometrics 9, 1953.
    """
    raters, rater_names = pd.factorize(table["rater"], sort=True)
    images, image_names = pd.factorize(table["image"], sort=True)
    scores = table["score"].to_numpy(float)
    n_raters = np.bincount(raters)
    if n_raters.min() < 2:
        alone = rater_names[int(np.argmin(n_raters))]
        raise ValueError(
            f"rater {alone} has one rating, from which bias and inconsistency cannot be told; leave such raters out"
        )

    groups, of_image, of_rater = _groups(images, raters)
    first = np.unique(of_rater, return_index=True)[1]  # a rater of each group, whose bias is 0 while solving
    rows, n = np.arange(len(scores)), len(image_names)
    columns = np.concatenate([images, n + raters])
    design = sparse.coo_matrix((np.ones(2 * len(rows)), (np.tile(rows, 2), columns)), (len(rows), n + len(rater_names)))
    free = np.delete(np.arange(design.shape[1]), n + first)
    design = design.tocsc()[:, free]

    def solve(weight: np.ndarray) -> np.ndarray:
        """Solve for quality of the images and bias of the raters, one per column of ``design``, by least squares."""
        weighted = design.multiply(weight[:, None]).T.tocsc()
        solution = np.zeros(n + len(rater_names))
        solution[free] = splinalg.spsolve((weighted @ design).tocsc(), weighted @ scores)
        return solution

    levels = np.unique(scores)
    step = np.diff(levels).min() if len(levels) > 1 else 0.0
    solution = solve(np.ones(len(scores)))
    residual = scores - solution[images] - solution[n + raters]
    least = max(_LEAST_INCONSISTENCY * np.sqrt(np.mean(residual**2)), step / np.sqrt(12)) or 1.0  # all scores equal
    for _ in range(_MLE_ITERATIONS):
        inconsistency = np.maximum(np.sqrt(_sums(raters, residual**2) / n_raters), least)  # residuals of a rater have mean 0
        weight = inconsistency[raters] ** -2.0
        before, solution = solution, solve(weight)
        residual = scores - solution[images] - solution[n + raters]
        if np.linalg.norm(solution - before) < _MLE_TOLERANCE * max(1.0, np.ptp(scores)):
            break
    else:
        raise ValueError(f"the maximum-likelihood scores do not converge in {_MLE_ITERATIONS} steps; use another method")

    quality, bias = solution[:n], solution[n:]
    shift = np.bincount(of_rater, bias, groups) / np.bincount(of_rater, minlength=groups)
    error = _sums(images, weight) ** -0.5
    half = _half_intervals(images, raters, weight * error[images] ** 2, inconsistency)
    of_images = {"quality": quality + shift[of_image], "error": error, "half": half}
    return Recovery(
        pd.DataFrame(of_images, index=pd.Index(image_names, name="image")),
        pd.DataFrame(
            {"bias": bias - shift[of_rater], "inconsistency": inconsistency}, index=pd.Index(rater_names, name="rater")
        ),
        groups,
    )


def _half_intervals(images: np.ndarray, raters: np.ndarray, share: np.ndarray, inconsistency: np.ndarray) -> np.ndarray:
    """Return half the 95 % interval of the quality of each image, see :func:`recover`.

    Args:
        images: Image of each rating, shape (N,).
        raters: Rater of each rating, shape (N,).
        share: Weight of each rating among those of its image, shape (N,).
        inconsistency: Inconsistency of each rater.
    """
    n_raters = np.bincount(raters)
    freedom = np.maximum(n_raters - _sums(raters, share) - 1, 1.0)
    variance = inconsistency**2 * n_raters / freedom * (1 + 1 / n_raters)
    added = 4 * _sums(images, share * (1 - share) / np.maximum(freedom - 4, 1.0)[raters])
    quantile = stats.t.ppf(0.975, 1 / _sums(images, share**2 / freedom[raters]))
    return quantile * np.sqrt(_sums(images, share**2 * variance[raters]) * (1 + added))


def spearman_brown(correlation: _Number) -> _Number:
    """Return the reliability of all ratings from the correlation between two halves."""
    return 2 * correlation / (1 + correlation)


def split_half(table: pd.DataFrame, splits: int = 100, seed: int = 0) -> dict[str, float]:
    """Compute the correlation between the means of two random halves of the raters, over many splits.

    Each split puts the raters in random order. The first half of an image's raters gives one mean, the rest the other. Images
    with one rating are left out.

    Args:
        table: Ratings, at most one per rater and image.
        splits: Number of random splits to average over.
        seed: Seed of the splits.

    Returns:
        "PLCC" and "SRCC": correlation between halves, mean over the splits. "PLCC_SB" and "SRCC_SB": the same, corrected to the
        full number of raters by Spearman-Brown in each split. "low" and "high": 2.5 and 97.5 percentiles of PLCC_SB over the
        splits, which show how much it depends on the split; they are no interval for other raters. All NaN for fewer than two
        images with several ratings.
    """
    rows = table[table.groupby("image")["score"].transform("size") > 1]
    raters, names = pd.factorize(rows["rater"], sort=True)
    images, images_of = pd.factorize(rows["image"], sort=True)
    scores = rows["score"].to_numpy(float)
    if len(images_of) < 2:
        return dict.fromkeys(("PLCC", "SRCC", "PLCC_SB", "SRCC_SB", "low", "high"), float("nan"))
    counts = np.bincount(images)
    starts = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)
    plccs, srccs = [], []
    for _ in range(splits):
        order = np.lexsort((rng.permutation(len(names))[raters], images))
        first = np.arange(len(order)) - np.repeat(starts, counts) < np.repeat(counts // 2, counts)
        means = []
        for half in (order[first], order[~first]):
            means.append(_sums(images[half], scores[half]) / np.bincount(images[half]))
        plccs.append(plcc(*means))
        srccs.append(srcc(*means))
    linear, rank = np.array(plccs), np.array(srccs)
    low, high = np.quantile(spearman_brown(linear), (0.025, 0.975))
    return {
        "PLCC": float(linear.mean()),
        "SRCC": float(rank.mean()),
        "PLCC_SB": float(spearman_brown(linear).mean()),
        "SRCC_SB": float(spearman_brown(rank).mean()),
        "low": float(low),
        "high": float(high),
    }


def icc(scores: np.ndarray) -> dict[str, float]:
    """Compute the six intraclass correlations of a complete design, at most 1, higher is better.

    Args:
        scores: Scores without missing values, shape (images, raters), at least 2 of each.

    Returns:
        "ICC(1,1)", "ICC(2,1)", "ICC(3,1)" for one rater and "ICC(1,k)", "ICC(2,k)", "ICC(3,k)" for the mean of all. Form 1
        assumes other raters for each image; form 2 the same raters, a sample of many; form 3 these raters only, whose biases
        do not count.

    Raises:
        ValueError: If the shape is smaller or a value is not finite.

    Reference:
        P. E. Shrout and J. L. Fleiss, "Intraclass Correlations: Uses in Assessing Rater Reliability", 1979.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2 or not np.isfinite(scores).all():
        raise ValueError(f"expected finite scores of at least 2 images by 2 raters, got shape {scores.shape}")
    n, k = scores.shape
    grand, by_image, by_rater = scores.mean(), scores.mean(1), scores.mean(0)
    images = k * np.sum((by_image - grand) ** 2) / (n - 1)  # BMS, WMS, JMS and EMS of the paper
    within = np.sum((scores - by_image[:, None]) ** 2) / (n * (k - 1))
    raters = n * np.sum((by_rater - grand) ** 2) / (k - 1)
    rest = np.sum((scores - by_image[:, None] - by_rater + grand) ** 2) / ((n - 1) * (k - 1))
    return {
        "ICC(1,1)": _ratio(images - within, images + (k - 1) * within),
        "ICC(2,1)": _ratio(images - rest, images + (k - 1) * rest + k * (raters - rest) / n),
        "ICC(3,1)": _ratio(images - rest, images + (k - 1) * rest),
        "ICC(1,k)": _ratio(images - within, images),
        "ICC(2,k)": _ratio(images - rest, images + (raters - rest) / n),
        "ICC(3,k)": _ratio(images - rest, images),
    }


def icc_oneway(table: pd.DataFrame) -> dict[str, float]:
    """Compute ICC(1,1) and ICC(1,k) where not every rater rated every image.

    The analysis of variance allows unequal groups; k is then about the mean number of ratings per image. For a complete
    design the values equal those of ``icc``. NaN for fewer than two images, or if no image has two ratings.
    """
    scores = table.groupby("image")["score"]
    n, total = scores.size().to_numpy(), len(table)
    if len(n) < 2 or total == len(n):
        return {"ICC(1,1)": float("nan"), "ICC(1,k)": float("nan")}
    between = np.sum(n * (scores.mean().to_numpy() - table["score"].mean()) ** 2) / (len(n) - 1)
    within = np.sum((table["score"] - scores.transform("mean")) ** 2) / (total - len(n))
    k = (total - np.sum(n**2) / total) / (len(n) - 1)
    return {"ICC(1,1)": _ratio(between - within, between + (k - 1) * within), "ICC(1,k)": _ratio(between - within, between)}


def krippendorff_alpha(table: pd.DataFrame) -> float:
    """Compute Krippendorff's alpha for interval data: agreement of single ratings, 1 for perfect, 0 for chance.

    Images with one rating are left out. NaN if nothing is left or all scores are equal.

    Reference:
        K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    scores = table.groupby("image")["score"]
    n = scores.transform("size")
    rows, n = table.loc[n > 1, "score"] - table["score"].mean(), n[n > 1]
    if len(rows) < 2:
        return float("nan")
    mean = rows.groupby(table["image"]).transform("mean")
    # Squared differences over all pairs of m values sum to 2 m times the sum of squares about their mean.
    observed = np.sum(2 * n / (n - 1) * (rows - mean) ** 2) / len(rows)
    expected = 2 * np.sum((rows - rows.mean()) ** 2) / (len(rows) - 1)
    return float("nan") if expected == 0 else float(1 - observed / expected)


def pairwise_scale(wins: np.ndarray, method: str = "bradley-terry", prior: float = 0.0) -> Scale:
    """Estimate places of images on a scale from how often each was preferred to each other, by maximum likelihood.

    Bradley-Terry: the chance that i is preferred to j is the logistic function of s_i - s_j. Thurstone Case V: the chance is
    the normal distribution function of s_i - s_j, so that the unit is the standard deviation of a difference. A tie counts as
    half a choice for each image. Standard errors come from the information matrix under a mean of 0; choices are assumed
    independent.

    Args:
        wins: How often the row was preferred to the column, at least 0, shape (N, N), N at least 2; the diagonal is 0.
        method: "bradley-terry" or "thurstone".
        prior: Number of ties with an image at the mean to add for each image, at least 0. A prior draws the scale together and
            makes it finite where an image was always or never preferred.

    Raises:
        ValueError: If the shape or a number is wrong, the choices do not link all images, or the scale would be infinite.

    Reference:
        R. A. Bradley and M. E. Terry, "Rank Analysis of Incomplete Block Designs", 1952. L. L. Thurstone, "A Law of
        Comparative Judgment", 1927; by maximum likelihood: K. Tsukida and M. R. Gupta, "How to Analyze Paired Comparison
        Data", 2011.
    """
    wins = np.asarray(wins, dtype=np.float64)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise ValueError(f"expected counts of shape (N, N) with N at least 2, got {wins.shape}")
    if not (np.isfinite(wins).all() and (wins >= 0).all() and (np.diag(wins) == 0).all() and np.isfinite(prior) and prior >= 0):
        raise ValueError("expected counts and a prior of at least 0, and no image against itself")
    if method not in _CHOICE_MODELS:
        raise ValueError(f"expected the method {' or '.join(_CHOICE_MODELS)}, got {method!r}")
    log_chance, hazard, chance = _CHOICE_MODELS[method]
    linked, _ = connected_components(sparse.csr_matrix(wins > 0), directed=True, connection="weak")
    if linked > 1:
        raise ValueError(f"the choices fall into {linked} groups of images with none between them, which no scale can join")
    finite, _ = connected_components(sparse.csr_matrix(wins > 0), directed=True, connection="strong")
    if finite > 1 and prior == 0:
        raise ValueError(
            "some images were always, or never, preferred to all others, so the scale would be infinite; collect more "
            "choices, or give a prior such as 0.5"
        )

    n = len(wins)
    nodes = n + (prior > 0)  # the last one stands for the image at the mean
    counts = np.zeros((nodes, nodes))
    counts[:n, :n] = wins
    if prior > 0:
        counts[n, :n] = counts[:n, n] = prior / 2
    i, j = np.nonzero(np.triu(counts + counts.T))
    won, lost = counts[i, j], counts[j, i]

    def likelihood(scale: np.ndarray) -> float:
        difference = scale[i] - scale[j]
        return float(won @ log_chance(difference) + lost @ log_chance(-difference))

    def information(scale: np.ndarray) -> np.ndarray:
        weight = (won + lost) * hazard(scale[i] - scale[j]) * hazard(scale[j] - scale[i])
        matrix = np.zeros((nodes, nodes))
        matrix[i, j] = matrix[j, i] = -weight
        matrix[np.diag_indices(nodes)] = -matrix.sum(1)
        return matrix + 1 / nodes  # a scale with the mean 0 does not feel the added constant, and the matrix can be inverted

    scale = np.zeros(nodes)
    value = likelihood(scale)
    for _ in range(_NEWTON_STEPS):
        difference = scale[i] - scale[j]
        slope = won * hazard(difference) - lost * hazard(-difference)
        gradient = np.bincount(i, slope, nodes) - np.bincount(j, slope, nodes)
        step = np.linalg.solve(information(scale), gradient)
        while (moved := likelihood(scale + step)) < value - 1e-12 * abs(value):
            step /= 2
        scale, value = scale + step, moved
        if np.abs(step).max() < 1e-10:
            break
    else:
        raise ValueError(f"the scale does not converge in {_NEWTON_STEPS} steps; give a larger prior")
    covariance = np.linalg.inv(information(scale))[:n, :n]
    centering = np.eye(n) - 1 / n
    error = np.sqrt(np.diag(centering @ covariance @ centering))
    scale = scale[:n] - scale[:n].mean()
    half = NORMAL_95 * error
    return Scale(scale, error, chance(scale), chance(scale - half), chance(scale + half))


def _normal_hazard(difference: np.ndarray) -> np.ndarray:
    return np.exp(stats.norm.logpdf(difference) - special.log_ndtr(difference))


# Of a difference of places: log of the chance to be preferred, its derivative, and the chance.
_CHOICE_MODELS: dict[str, tuple[Callable, Callable, Callable]] = {
    "bradley-terry": (special.log_expit, lambda difference: special.expit(-difference), special.expit),
    "thurstone": (special.log_ndtr, _normal_hazard, special.ndtr),
}


def _groups(images: np.ndarray, raters: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Count the sets of images and raters that no rating links, and return the set of each image and of each rater."""
    n = images.max() + 1
    size = n + raters.max() + 1
    links = sparse.coo_matrix((np.ones(len(images)), (images, raters + n)), shape=(size, size))
    groups, of = connected_components(links, directed=False)
    return groups, of[:n], of[n:]


def _sums(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(groups, values)


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")
