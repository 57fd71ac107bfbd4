"""Linear heads are the optima scikit-learn finds, and their confidences are calibrated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from zoo.nn import linear
from zoo.nn.calibrate import fit_temperature
from zoo.nn.head_fit import fit_head
from zoo.nn.linear import L2_GRID, STEPS, Labelled, LinearFit, fit_linear
from zoo.nn.logistic import Problems, solve
from zoo.nn.ridge import Spectrum, left_out_scores
from zoo.nn.tap_choice import choose_taps
from zoo.progress import Silent

CLASSES = 4


def _blobs(per_class: int, seed: int, width: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    centres = np.random.default_rng(0).normal(size=(CLASSES, width))
    return torch.tensor(centres[labels] + random.normal(size=(len(labels), width)) * 2), torch.tensor(labels)


def _one_view(samples: Labelled) -> Labelled:
    return samples[0][:, None], samples[1]


def _fit(train: Labelled, val: Labelled | None, **options: Any) -> LinearFit:
    """The fit to samples of one view each."""
    with Silent().task("", STEPS) as task:
        return fit_linear(
            _one_view(train), _one_view(val) if val is not None else None, classes=CLASSES, seed=0, task=task, **options
        )


def _head(hidden: bool) -> torch.nn.Module:
    layers = [torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES)]
    return torch.nn.Sequential(*layers).double() if hidden else torch.nn.Linear(20, CLASSES).double()


def test_all_strengths_at_once_are_what_scikit_learn_finds_one_by_one() -> None:
    features, labels = _blobs(30, 1)
    weights = torch.ones(len(L2_GRID), len(labels), dtype=torch.float64)
    problems = Problems(features, labels, CLASSES, weights, features.new_tensor(L2_GRID))
    found = solve(problems, iterations=500, tolerance=1e-8)
    for l2, theta in zip(L2_GRID, found, strict=True):
        reference = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=10_000, tol=1e-10)
        reference.fit(features.numpy(), labels.numpy())
        assert np.abs(theta[:, :-1].numpy() - reference.coef_).max() < 1e-3 * np.abs(reference.coef_).max()


def test_a_fold_is_the_problem_without_its_samples() -> None:
    features, labels = _blobs(10, 1)
    weights = torch.ones(1, len(labels), dtype=torch.float64)
    weights[0, ::3] = 0
    kept = weights[0] > 0
    strength = features.new_tensor([0.1])
    masked = solve(Problems(features, labels, CLASSES, weights, strength), iterations=500, tolerance=1e-9)
    fewer = Problems(features[kept], labels[kept], CLASSES, weights[:, kept], strength)
    torch.testing.assert_close(masked, solve(fewer, iterations=500, tolerance=1e-9), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [20, 300], ids=["more samples than features", "more features than samples"])
def test_ridge_left_out_is_exact(width: int) -> None:
    features, labels = _blobs(15, 1, width)
    grid = features.new_tensor([1e-3, 1.0])
    centred = features - features.mean(0)
    found = left_out_scores(Spectrum.of(centred), labels, CLASSES, grid)
    targets = np.eye(CLASSES)[labels]
    for number, l2 in enumerate(grid.tolist()):
        for row in (0, 31):
            others = np.arange(len(labels)) != row
            # The strength stays that of the whole set: only one row's error is taken out.
            design = np.hstack([centred.numpy(), np.full((len(labels), 1), 1.0)])
            penalty = np.diag([l2 * len(labels)] * width + [0.0])
            solution = np.linalg.solve(design[others].T @ design[others] + penalty, design[others].T @ targets[others])
            np.testing.assert_allclose(found[number, row].numpy(), design[row] @ solution, rtol=0, atol=1e-9)


def test_temperature_is_the_best_on_a_fine_grid() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (300,))
    logits = torch.randn(3, 300, CLASSES, dtype=torch.float64)
    logits[:, torch.arange(300), labels] += 1
    logits *= torch.tensor([0.1, 1.0, 8.0]).view(3, 1, 1)
    grid = torch.logspace(-1.3, 1.3, 2001, dtype=torch.float64)
    targets = torch.full((300, CLASSES), 1 / 302 / (CLASSES - 1), dtype=torch.float64)
    targets[torch.arange(300), labels] = 301 / 302
    for rows in logits:
        losses = torch.stack([torch.nn.functional.cross_entropy(rows / t, targets) for t in grid])
        assert fit_temperature(rows, labels) == pytest.approx(float(grid[losses.argmin()]), rel=5e-3)


def test_a_few_right_answers_are_no_certainty() -> None:
    logits = 10 * torch.eye(3, dtype=torch.float64).repeat(2, 1)
    temperature = fit_temperature(logits, torch.arange(3).repeat(2))
    assert float((logits / temperature).softmax(1).amax(1).mean()) == pytest.approx(7 / 8, abs=1e-3)


def test_logits_that_tell_nothing_stay_as_they_are() -> None:
    assert fit_temperature(torch.zeros(6, 3), torch.arange(3).repeat(2)) == 1.0


@pytest.mark.parametrize("held_out", [True, False], ids=["validation", "cross validation"])
def test_as_good_as_the_best_strength_of_scikit_learn(held_out: bool) -> None:
    train, val, test = _blobs(30, 1), _blobs(200, 2), _blobs(500, 3)
    found = _fit(train, val if held_out else None, refit=False)
    losses = []
    for l2 in L2_GRID:
        reference = LogisticRegression(C=1 / (l2 * len(train[0])), max_iter=5000, tol=1e-8)
        reference.fit(train[0].numpy(), train[1].numpy())
        losses.append(log_loss(test[1].numpy(), reference.predict_proba(test[0].numpy())))
    loss = float(torch.nn.functional.cross_entropy(found.logits(test[0]), test[1]))
    assert loss < 1.03 * min(losses)


def test_one_sample_per_class_still_gives_a_head() -> None:
    train = _blobs(1, 1)
    found = _fit(train, None, refit=False)
    assert (found.logits(train[0]).argmax(1) == train[1]).all()


def test_refit_uses_the_validation_samples_too() -> None:
    train, val, test = _blobs(8, 1), _blobs(60, 2), _blobs(500, 3)
    few, all_ = (_fit(train, val, refit=refit) for refit in (False, True))
    assert few.held_out is not None
    assert all_.held_out is not None
    assert torch.equal(few.held_out[0], all_.held_out[0])  # a fit that has not seen them, either way
    losses = [torch.nn.functional.cross_entropy(fit.logits(test[0]), test[1]) for fit in (few, all_)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("tells", "expected"),
    [((0, 0, 3), 0), ((0, 2, 1), 1), ((2, 0, 1), 2)],
    ids=["the embedding", "the tap below it", "the lowest tap"],
)
def test_taps_are_chosen_where_they_tell_more(tells: tuple[int, ...], expected: int) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 60)
    widths = (6, 8, 10)
    groups = []
    for number, width in enumerate(widths):
        noise = random.normal(size=(len(labels), width))
        # A group tells nothing, the one or the other pair of classes apart, or all.
        seen = (labels * 0, labels // 2, labels % 2, labels)[tells[number]]
        groups.append(noise + 3 * random.normal(size=(CLASSES, width))[seen])
    train = torch.tensor(np.hstack(groups)), torch.tensor(labels)
    assert choose_taps(train, widths, classes=CLASSES, seed=0) == expected


def test_groups_of_features_are_brought_to_one_scale() -> None:
    features, labels = _blobs(30, 1)
    stretched = torch.cat([features[:, :5] * 1e4, features[:, 5:]], 1)
    found = [_fit((rows, labels), None, refit=False, widths=(5, 15)) for rows in (features, stretched)]
    torch.testing.assert_close(found[0].logits(features), found[1].logits(stretched), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden", [False, True], ids=["linear", "hidden layer"])
@pytest.mark.parametrize("held_out", [False, True], ids=["cross validation", "validation samples"])
def test_balance_makes_rare_classes_count_as_much(hidden: bool, held_out: bool) -> None:
    features, labels = _blobs(200, 1)
    kept = torch.cat([(labels == label).nonzero()[:count] for label, count in enumerate((200, 60, 20, 6))]).flatten()
    val, test = _blobs(40, 2), _blobs(200, 3)
    recall = {}
    for balance in (False, True):
        torch.manual_seed(0)
        head = _head(hidden)
        fit_head(
            head,
            train=_one_view((features[kept], labels[kept])),
            val=_one_view(val) if held_out else None,
            loss=torch.nn.functional.cross_entropy,
            seed=0,
            refit=False,
            balance=balance,
            progress=Silent(),
            widths=(20,),
        )
        recall[balance] = float((head(test[0]).argmax(1) == test[1])[test[1] == CLASSES - 1].double().mean())
    assert recall[True] > recall[False] + 0.1


def test_balance_goes_by_the_shares_of_all_that_is_fitted() -> None:
    """Validation samples that bring other shares join the fit."""
    features, labels = _blobs(200, 1)
    kept = torch.cat([(labels == label).nonzero()[:count] for label, count in enumerate((200, 60, 20, 6))]).flatten()
    val, test = _blobs(40, 2), _blobs(200, 3)
    found = _fit((features[kept], labels[kept]), val, refit=True, balance=True)
    right = (found.logits(test[0]).argmax(1) == test[1]).view(CLASSES, -1).double().mean(1)
    assert right.max() - right.min() < 0.25


def test_a_fitted_head_leaves_no_gradients_behind() -> None:
    features, labels = _blobs(10, 1)
    head = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU(), torch.nn.Linear(8, CLASSES)).double()
    fit_head(
        head,
        train=_one_view((features, labels)),
        val=None,
        loss=torch.nn.functional.cross_entropy,
        seed=0,
        refit=False,
        progress=Silent(),
        widths=(20,),
    )
    assert (head(features).argmax(1) == labels).double().mean() > 0.9
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_class_with_a_single_sample_leaves_the_choice_to_the_others() -> None:
    """It is in no fold, and the others still choose the strength and calibrate."""
    features, labels = _blobs(60, 1)
    kept = torch.cat([(labels < CLASSES - 1).nonzero().flatten(), (labels == CLASSES - 1).nonzero().flatten()[:1]])
    test = _blobs(500, 3)
    found = _fit((features[kept], labels[kept]), None, refit=False)
    assert found.held_out is not None
    assert not (found.held_out[1] == CLASSES - 1).any()
    assert len(found.held_out[1]) == len(kept) - 1
    common = test[1] < CLASSES - 1
    logits, truth = found.logits(test[0][common]), test[1][common]
    again = torch.nn.functional.cross_entropy(logits / fit_temperature(logits, truth), truth)
    assert float(torch.nn.functional.cross_entropy(logits, truth)) < 1.02 * float(again)


@pytest.mark.parametrize("held_out", [True, False], ids=["validation", "cross validation"])
def test_many_samples_are_not_judged_by_a_fit_to_few(held_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_CHOICE_ROWS", 60)
    train, val, test = _blobs(300, 1), _blobs(200, 2), _blobs(500, 3)
    found = _fit(train, val if held_out else None, refit=True)
    assert found.held_out is not None
    unseen = float((found.held_out[0].argmax(1) == found.held_out[1]).double().mean())
    logits = found.logits(test[0])
    assert abs(unseen - float((logits.argmax(1) == test[1]).double().mean())) < 0.04
    loss = float(torch.nn.functional.cross_entropy(logits, test[1]))
    assert loss < 1.02 * float(torch.nn.functional.cross_entropy(logits / fit_temperature(logits, test[1]), test[1]))
    losses = []
    for l2 in L2_GRID:
        reference = LogisticRegression(C=1 / (l2 * len(train[0])), max_iter=5000, tol=1e-8)
        reference.fit(train[0].numpy(), train[1].numpy())
        losses.append(log_loss(test[1].numpy(), reference.predict_proba(test[0].numpy())))
    assert loss < 1.05 * min(losses)


def test_problems_solved_in_parts_have_the_same_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    train, fits = _blobs(30, 1), []
    for numbers in (2**24, 1):
        monkeypatch.setattr(linear, "_PROBLEM_NUMBERS", numbers)
        fits.append(_fit(train, None, refit=False))
    torch.testing.assert_close(fits[0].weight, fits[1].weight, rtol=1e-4, atol=1e-5)


def _seen_in_views(samples: Labelled, views: int, spread: float = 0.5) -> Labelled:
    """The samples as they are, then in other views that differ from them in the second half of the features."""
    features, labels = samples
    noise = torch.randn(len(labels), views, features.shape[1], generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 0
    noise[..., : features.shape[1] // 2] = 0
    return features[:, None] + spread * noise.to(features), labels


@pytest.mark.parametrize("held_out", [True, False], ids=["validation", "cross validation"])
def test_views_of_a_sample_are_never_judged_by_its_other_views(held_out: bool) -> None:
    """Had they been in two folds, labels at random would look as if they could be learnt."""
    features, labels = _blobs(30, 1)
    train = _seen_in_views((features, labels[torch.randperm(len(labels), generator=torch.manual_seed(0))]), 4)
    val = _seen_in_views(_blobs(30, 2), 4)
    with Silent().task("", STEPS) as task:
        found = fit_linear(train, val if held_out else None, classes=CLASSES, seed=0, refit=True, task=task)
    assert found.held_out is not None
    assert len(found.held_out[1]) == len(labels)  # each once, in its first view
    assert (found.held_out[0].argmax(1) == found.held_out[1]).double().mean() < 0.4


def test_views_that_are_all_the_same_change_nothing() -> None:
    train, val = _blobs(30, 1), _blobs(30, 2)
    same = [(features[:, None].expand(-1, 3, -1), labels) for features, labels in (train, val)]
    with Silent().task("", STEPS) as task:
        thrice = fit_linear(*same, classes=CLASSES, seed=0, refit=True, task=task)  # type: ignore[misc, arg-type]
    once = _fit(train, val, refit=True)
    assert thrice.l2 == once.l2
    torch.testing.assert_close(thrice.weight, once.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [False, True], ids=["linear", "hidden layer"])
def test_views_make_a_head_indifferent_to_what_they_vary(hidden: bool) -> None:
    train, test = _blobs(10, 1), _blobs(200, 3)
    varied = _seen_in_views(test, 2, spread=3)[0][:, 1]
    losses = []
    for views in (1, 6):
        torch.manual_seed(0)
        head = _head(hidden)
        fit_head(
            head,
            train=_seen_in_views(train, views, spread=3),
            val=None,
            loss=torch.nn.functional.cross_entropy,
            seed=0,
            refit=False,
            progress=Silent(),
            widths=(20,),
        )
        losses.append(float(torch.nn.functional.cross_entropy(head(varied), test[1]).detach()))
    assert losses[1] < losses[0]
