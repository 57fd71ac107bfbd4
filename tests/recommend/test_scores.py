"""Scores of features against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from zoo.recommend.evidence import log_evidence
from zoo.recommend.separation import Collapse, collapse, h_score, ncti, neighbour_accuracy
from zoo.recommend.similarity import SourceAnswers, SourceStatistics

CLASSES = 3


def _blobs(count: int, width: int, apart: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count + width)
    labels = torch.arange(count) % CLASSES
    features = torch.randn(count, width, generator=generator, dtype=torch.float64)
    features[:, :CLASSES] += apart * torch.nn.functional.one_hot(labels, CLASSES)
    return features, labels


def _largest_evidence(features: np.ndarray, targets: np.ndarray) -> float:
    """Per sample, of targets that are normal with covariance 1/beta + F F^T / alpha: searched, from the definition."""
    count = len(targets)

    def minus(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = np.eye(count) / beta + features @ features.T / alpha
        return -float(multivariate_normal.logpdf(targets, np.zeros(count), covariance)) / count

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
    starts = ([0, 0], [3, 3], [5, 1], [-3, 4])
    return -min(minimize(minus, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize(("count", "width"), [(60, 10), (45, 45), (30, 200)])
def test_log_evidence_is_the_largest_there_is(count: int, width: int) -> None:
    features, labels = _blobs(count, width)
    searched = [_largest_evidence(features.numpy(), (labels == label).double().numpy()) for label in range(CLASSES)]
    assert log_evidence(features, labels, CLASSES) == pytest.approx(np.mean(searched), abs=1e-3)


@pytest.mark.parametrize(("count", "width"), [(60, 10), (30, 200)])
def test_columns_of_zeros_tell_nothing(count: int, width: int) -> None:
    features, labels = _blobs(count, width)
    wider = torch.cat([features, torch.zeros(count, 2048)], 1)
    assert log_evidence(wider, labels, CLASSES) == pytest.approx(log_evidence(features, labels, CLASSES), abs=1e-6)


def test_log_evidence_knows_which_features_tell_classes_apart() -> None:
    found = [log_evidence(*_blobs(60, 20, apart), CLASSES) for apart in (0.0, 1.0, 4.0)]
    assert found == sorted(found)


def test_log_evidence_of_features_that_explain_all_or_nothing() -> None:
    labels = torch.arange(30) % CLASSES
    exact, constant = torch.nn.functional.one_hot(labels, CLASSES).double(), torch.ones(30, 4)
    assert math.isfinite(log_evidence(exact, labels, CLASSES))
    assert math.isfinite(log_evidence(constant, labels, CLASSES))
    assert log_evidence(exact, labels, CLASSES) > log_evidence(constant, labels, CLASSES)
    assert math.isfinite(log_evidence(exact, labels, CLASSES + 1)), "a class without samples"


def test_h_score_with_the_identity_as_covariance() -> None:
    # Four points in two classes; mean 0, covariance the identity, class means (1, 0) and (-1, 0): cov = diag(1, 0).
    features = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    labels = np.array([0, 0, 1, 1])
    assert h_score(features, labels, shrink=False) == pytest.approx(1.0)
    # In units twice as large it is the same; turned by any angle, too.
    turned = features @ np.array([[0.6, -0.8], [0.8, 0.6]]) * 2
    assert h_score(turned, labels, shrink=False) == pytest.approx(1.0)
    # As a multiple of the identity the covariance is what it is shrunk to: only the scale is left.
    assert 0 <= h_score(features, labels) <= 1


def test_shrunk_h_score_orders_features_where_there_are_more_of_them_than_samples() -> None:
    features, labels = _blobs(30, 200)
    shuffled = labels[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert h_score(features.numpy(), labels.numpy()) > h_score(features.numpy(), shuffled.numpy())


def test_neighbours() -> None:
    features, labels = _blobs(90, 5, apart=8)
    assert neighbour_accuracy(features.numpy(), labels.numpy()) == 1
    # By hand: the lone sample among three of another class is wrong, these are right.
    line = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.15]])
    assert neighbour_accuracy(line, np.array([0, 0, 0, 1])) == 0.75
    assert neighbour_accuracy(line[:2], np.array([0, 1])) == 0


def test_collapse_orders_features_by_how_well_they_tell_classes_apart() -> None:
    found = [collapse(*(part.numpy() for part in _blobs(90, 20, apart))) for apart in (0.5, 2.0, 8.0)]
    assert [each.fit for each in found] == sorted(each.fit for each in found)
    scores = ncti(found)
    assert scores == sorted(scores)


def test_ncti_adds_parts_between_lowest_and_highest() -> None:
    parts = [Collapse(1.0, 0.5, 2.0), Collapse(3.0, 0.5, 4.0), Collapse(2.0, 0.5, 3.0)]
    assert ncti(parts) == pytest.approx([0 + 0 + 1, 1 + 0 + 0, 0.5 + 0 + 0.5])
    assert ncti(parts[:1]) == [0]


def test_frechet_distance() -> None:
    random = np.random.default_rng(0)
    source = random.normal(size=(4000, 6)) * [1, 2, 3, 1, 1, 1]
    known = SourceStatistics.of(source)
    assert known.distance(source) == 0
    target = random.normal(size=(4000, 6)) * 2 + 1
    first, second = np.diag(source.var(0)), np.diag(target.var(0))
    between = np.square(source.mean(0) - target.mean(0)).sum()
    between += np.trace(first + second - 2 * sqrtm(sqrtm(first) @ second @ sqrtm(first)).real)
    assert known.distance(target) == pytest.approx(between / np.trace(first), rel=1e-9)


def test_answers_of_the_source_classifier() -> None:
    unsure, sure = SourceAnswers.of(np.zeros((3, 10))), SourceAnswers.of(np.eye(10)[:3] * 50)
    assert unsure.confidence == pytest.approx(0.1)
    assert unsure.entropy == pytest.approx(1)
    assert unsure.energy == pytest.approx(math.log(10))
    assert sure.confidence == pytest.approx(1)
    assert sure.entropy == pytest.approx(0, abs=1e-6)
    assert sure.energy == pytest.approx(50)
