"""Distances against closed forms, other implementations and plain reasoning; and what they refuse."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from limner.errors import EvaluationError
from limner.evaluation import distances as d
from limner.evaluation.intervals import bootstrap_mean, half, resampled, wilson
from limner.evaluation.neighbours import kth_distances, nearest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cloud(rng, num=600, width=8, shift=0.0, scale=1.0):
    return rng.standard_normal((num, width)) @ np.linalg.qr(rng.standard_normal((width, width)))[0] * scale + shift


def exactly(mean, cov, num, rng):
    """A set of `num` points whose sample mean and covariance are exactly those given."""
    x = rng.standard_normal((num, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (num - 1))).T
    return x @ np.linalg.cholesky(cov).T + mean


def spd(rng, width):
    a = rng.standard_normal((width, width))
    return a @ a.T + 0.1 * np.eye(width)


def test_frechet_equals_the_closed_form_of_commuting_gaussians(rng):
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    a, b = rng.uniform(0.1, 9, 16), rng.uniform(0.1, 9, 16)
    mean_a, mean_b = rng.standard_normal(16), rng.standard_normal(16)
    x = exactly(mean_a, turn * a @ turn.T, 700, rng)
    y = exactly(mean_b, turn * b @ turn.T, 700, rng)
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert abs(d.frechet_distance(x, y) / expected - 1) < 1e-6


def test_frechet_equals_the_closed_form_of_gaussians_in_the_plane(rng):
    # tr((A B)^1/2) = sqrt(tr(A B) + 2 sqrt(det(A B))) for 2x2 matrices, which need not commute
    a, b = spd(rng, 2), spd(rng, 2)
    trace = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace
    found = d.frechet_distance(exactly(np.zeros(2), a, 600, rng), exactly(np.zeros(2), b, 600, rng))
    assert abs(found / expected - 1) < 1e-6


def test_frechet_of_singular_covariances_is_exact(rng):
    x = np.zeros((600, 64))
    y = np.zeros((600, 64))
    x[:, 0] = exactly(np.zeros(1), np.array([[4.0]]), 600, rng)[:, 0]
    y[:, 1] = exactly(np.zeros(1), np.array([[9.0]]), 600, rng)[:, 0]
    assert abs(d.frechet_distance(x, y) / 13.0 - 1) < 1e-9  # the supports are at right angles: 4 + 9 - 0


def test_frechet_agrees_with_the_matrix_root_of_scipy(rng):
    mean_x, mean_y, a, b = rng.standard_normal(24), rng.standard_normal(24), spd(rng, 24), spd(rng, 24)
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert abs(d.frechet_of_moments(mean_x, a, mean_y, b) / expected - 1) < 1e-6


def test_frechet_agrees_with_torchmetrics_on_the_same_features(rng):
    from torchmetrics.image.fid import _compute_fid

    x, y = cloud(rng, 800, 32), cloud(rng, 800, 32, 0.3, 1.4)
    (mx, cx), (my, cy) = d.moments(x), d.moments(y)
    theirs = _compute_fid(*(torch.tensor(v) for v in (mx, cx, my, cy))).item()
    assert abs(d.frechet_distance(x, y) / theirs - 1) < 1e-4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_frechet_is_symmetric_zero_on_itself_and_blind_to_rotation(width, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((500, width)), 2 * rng.standard_normal((500, width)) + 1
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    value = d.frechet_distance(x, y)
    assert abs(d.frechet_distance(y, x) / value - 1) < 1e-9
    assert d.frechet_distance(x, x) < 1e-9
    assert abs(d.frechet_distance(x @ turn, y @ turn) / value - 1) < 1e-9


def test_kernel_distance_agrees_with_plain_loops_and_with_torchmetrics(rng):
    from torchmetrics.image.kid import poly_mmd

    x, y = cloud(rng, 40, 5), cloud(rng, 40, 5, 0.5)

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    n = 40
    pairs = [(i, j) for i in range(n) for j in range(n)]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (n * (n - 1))
    expected -= 2 * sum(k(x[i], y[j]) for i, j in pairs) / n**2
    with pytest.warns(UserWarning, match="few"):
        found = d.kernel_distance(x, y)
    assert abs(found - expected) < 1e-10
    assert abs(found - poly_mmd(torch.tensor(x), torch.tensor(y)).item()) < 1e-10


def test_kernel_distance_is_unbiased(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = [d.kernel_distance(cloud(rng, 30, 4), cloud(rng, 30, 4)) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20  # four standard errors of the mean


def test_sliced_wasserstein_of_a_shift_is_the_shift_over_the_root_of_the_width(rng):
    x = cloud(rng, 600, 6)
    shift = np.zeros(6)
    shift[2] = 3.0
    found = d.sliced_wasserstein(x, x + shift, directions=4000)
    assert abs(found - 3 / np.sqrt(6)) < 0.03


def test_sliced_wasserstein_sees_what_two_moments_cannot(rng):
    x = exactly(np.zeros(2), np.eye(2), 1000, rng)
    y = exactly(np.zeros(2), np.eye(2), 1000, np.random.default_rng(1))
    two = np.sign(y)  # four points instead of a cloud
    two = exactly(np.zeros(2), np.eye(2), 1000, _Fixed(two + 1e-3 * y))
    assert d.frechet_distance(x, two) < 1e-9
    assert d.sliced_wasserstein(x, two) > 5 * d.sliced_wasserstein(x, y)


class _Fixed:
    def __init__(self, values):
        self.values = values

    def standard_normal(self, shape):
        return self.values.copy()


def test_neighbours_agree_with_all_pairwise_distances(rng, monkeypatch):
    monkeypatch.setattr("limner.evaluation.neighbours.BLOCK", 7)
    x, y = cloud(rng, 50, 5), cloud(rng, 40, 5)
    own = np.sort(cdist(x, x), axis=1)
    assert np.abs(np.sqrt(kth_distances(x, 3)[0]) - own[:, 3]).max() < 1e-9
    distances, indices = nearest(x, y)
    assert np.array_equal(indices, cdist(x, y).argmin(1))
    assert np.abs(distances - cdist(x, y).min(1)).max() < 1e-9


def test_precision_recall_density_coverage_agree_with_the_definitions(rng):
    made, real = cloud(rng, 500, 3, 0.6), cloud(rng, 500, 3)
    radius_real = np.sort(cdist(real, real), axis=1)[:, 3]
    radius_made = np.sort(cdist(made, made), axis=1)[:, 3]
    across = cdist(made, real)
    found = d.neighbour_measures(made, real, k=3)
    assert found["precision"] == (across <= radius_real[None]).any(1).mean()
    assert found["recall"] == (radius_made[None] >= across.T).any(1).mean()
    found = d.neighbour_measures(made, real, k_density=3)
    assert abs(found["density"] - (across <= radius_real[None]).sum() / (3 * 500)) < 1e-12
    assert found["coverage"] == (across.min(0) <= radius_real).mean()


def test_recall_sees_missing_kinds_and_precision_sees_wrong_ones(rng):
    real = np.concatenate([cloud(rng, 300, 4), cloud(rng, 300, 4, 20)])
    half = cloud(rng, 600, 4)
    wrong = np.concatenate([cloud(rng, 300, 4), cloud(rng, 300, 4, -20)])
    assert d.neighbour_measures(half, real)["precision"] > 0.9 > 0.6 > d.neighbour_measures(half, real)["recall"]
    assert d.neighbour_measures(wrong, real)["precision"] < 0.6


def test_two_thousand_neighbours_take_less_than_two_seconds(rng):
    from time import process_time

    x = cloud(rng, 2000, 64)
    start = process_time()
    d.neighbour_measures(x, x[::-1])
    assert process_time() - start < 2


@pytest.mark.parametrize("function", [d.frechet_distance, d.kernel_distance, d.sliced_wasserstein, d.neighbour_measures])
class TestRefusals:
    def test_unequal_counts_are_refused_with_the_count_to_take(self, function, rng):
        with pytest.raises(EvaluationError, match=r"600 images against 599.*\n.*--num 599"):
            function(cloud(rng, 600), cloud(rng, 599))

    def test_one_image_and_none_are_refused(self, function):
        for num in (0, 1):
            with pytest.raises(EvaluationError, match=f"has {num} image"):
                function(np.zeros((num, 4)), np.zeros((num, 4)))

    def test_nan_is_refused_with_the_row(self, function, rng):
        x = cloud(rng, 600)
        x[7, 2] = np.nan
        with pytest.raises(EvaluationError, match="1 of 600 rows are not finite, the first is 7"):
            function(cloud(rng, 600), x)

    def test_other_networks_are_refused(self, function, rng):
        x = cloud(rng, 600)
        with pytest.raises(EvaluationError, match="different networks"):
            function(d.Features(x, "judge-conv", "a" * 64), d.Features(x, "judge-conv", "b" * 64))
        with pytest.raises(EvaluationError, match="different networks"):
            function(x, cloud(rng, 600, 9))


def test_few_images_are_warned_about(rng):
    with pytest.warns(UserWarning, match="100 images are few"):
        d.frechet_distance(cloud(rng, 100), cloud(rng, 100))


def test_as_many_neighbours_as_images_are_refused(rng):
    with pytest.warns(UserWarning, match="few"), pytest.raises(EvaluationError, match="k = 5"):
        d.neighbour_measures(cloud(rng, 5), cloud(rng, 5), k=5)


def test_published_statistics_are_read_and_compared(rng, tmp_path):
    x = cloud(rng, 600, 5)
    mean, cov = d.moments(cloud(rng, 5000, 5, 1.0))
    np.savez(tmp_path / "reference.npz", mu=mean, sigma=cov)
    found = d.frechet_to_statistics(x, *d.read_statistics(tmp_path / "reference.npz"))
    assert abs(found - d.frechet_of_moments(*d.moments(x), mean, cov)) < 1e-12


def test_statistics_that_are_something_else_are_refused(rng, tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(EvaluationError, match="no such file"):
        d.read_statistics(path)
    for content in (
        {"mu": np.zeros(3)},
        {"mu": np.zeros(3), "sigma": np.eye(4)},
        {"mu": np.array([{}]), "sigma": np.eye(1)},
    ):
        np.savez(path, **content)
        with pytest.raises(EvaluationError, match=r"a\.npz"):
            d.read_statistics(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(EvaluationError, match="not reference statistics"):
        d.read_statistics(path)
    with pytest.raises(EvaluationError, match="different networks"):
        d.frechet_to_statistics(cloud(rng, 600, 5), np.zeros(4), np.eye(4))


def test_the_interval_of_a_distance_holds_the_truth_about_as_often_as_it_says(rng):
    truth, held = 0.0, 0
    for _ in range(120):
        x, y = rng.standard_normal((200, 2)), rng.standard_normal((200, 2)) + np.array([1.0, 0.0])
        low, high = resampled(lambda a, b: float(((a.mean(0) - b.mean(0)) ** 2).sum()), x, y)
        truth = 1.0 + 2 * 2 / 200  # the plug-in value's expectation
        held += low <= truth <= high
    assert 0.88 <= held / 120 <= 1.0


def test_the_interval_of_a_mean_and_of_a_share():
    low, high = bootstrap_mean(np.arange(1000) / 999)
    assert abs((low + high) / 2 - 0.5) < 0.01 and abs((high - low) - 2 * 1.96 * np.sqrt(1 / 12 / 1000)) < 0.004
    assert wilson(1000, 1000)[1] == 1.0 and 0.995 < wilson(1000, 1000)[0] < 1.0
    for few in (
        lambda: bootstrap_mean(np.array([])),
        lambda: wilson(0, 0),
        lambda: resampled(d.frechet_distance, np.zeros((3, 1)), np.zeros((9, 1))),
    ):
        with pytest.raises(EvaluationError):
            few()


def test_an_interval_of_balanced_classes_is_not_that_of_their_shares(rng):
    """Ten far classes, equally many of each in every set: the true spread over fresh sets, measured, is what is stated."""
    labels = np.arange(600) % 10
    centres = rng.normal(size=(10, 6)) * 5

    def fresh() -> np.ndarray:
        return centres[labels] + rng.normal(size=(600, 6))

    true = float(np.std([d.frechet_distance(fresh(), fresh()) for _ in range(40)]))
    x, y = fresh(), fresh()
    low, high = resampled(d.frechet_distance, x, y, labels=(labels, labels))
    blind = resampled(d.frechet_distance, x, y)
    assert 1 < (high - low) / (2 * true) < 5  # 1.96 is ideal; halves of few images spread a little more
    assert blind[1] - blind[0] > 3 * (high - low)


def test_half_keeps_the_shares_of_classes(rng):
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    rows = half(60, labels, rng)
    assert len(set(rows.tolist())) == 30
    assert np.bincount(labels[rows]).tolist() == [5, 10, 15]
