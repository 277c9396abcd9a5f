"""Recipe, sampling, augmentation and outlook."""

import pytest

from dlka_med.planning.choice import Budget
from dlka_med.planning.rules_training import augmentation, duration, optimizer, outlook, oversampling, pace
from dlka_med.planning.summary import Structure


def test_minutes_are_cut_into_epochs_that_validate_a_few_times(cpu):
    choices = duration(cpu, steps=1160, seconds=0.9)
    assert choices["training.minutes"].value == 20
    assert choices["training.epochs"].value is None
    assert choices["training.steps_per_epoch"].value == 100
    assert choices["training.validate_every"].value in (2, 3, 4)
    assert "1160 steps" in choices["training.minutes"].reason


@pytest.mark.parametrize("steps", [1, 7, 60, 10**6])
def test_any_number_of_steps_makes_an_epoch(cpu, steps):
    choices = duration(cpu, steps, 1.0)
    assert choices["training.steps_per_epoch"].value in (5, 10, 25, 50, 100, 250)
    assert choices["training.validate_every"].value >= 1


def test_epochs_are_those_of_nnu_net(gpu):
    choices = duration(gpu, 250_000, 0.2)
    assert [choices[f"training.{key}"].value for key in ("epochs", "minutes", "steps_per_epoch")] == [1000, None, 250]
    assert "14 hours" in choices["training.epochs"].reason


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("growing", [0.0, 0.6, 1.0])
def test_small_patches_make_more_steps(dims, growing):
    """Step by step, of which one of full size takes a second."""

    def cost(progress):
        side = 1 if progress >= growing else 0.5 + 0.5 * progress / growing
        return 0.1 + 0.9 * side**dims

    total, now, made = 2000.0, 0.0, 0
    while now < total:
        now += cost(now / total)
        made += 1
    assert pace(dims, growing, ends_by_time=True) == pytest.approx(made / total, rel=0.01)
    seconds = sum(cost(step / 2000) for step in range(2000))
    assert pace(dims, growing, ends_by_time=False) == pytest.approx(2000 / seconds, rel=0.01)


def test_steps_are_large_where_they_are_few():
    rates = [optimizer(3, steps)["training.optimizer.learning_rate"].value for steps in (10, 1160, 20_000, 10**6)]
    assert rates == [6e-3, 6e-3, 1e-3, 3e-4]
    assert optimizer(2, 1450)["training.optimizer.learning_rate"].value == 3e-3


def test_rare_structures_are_sought(summary):
    def share(extent, patch):
        one = Structure("nodule", 20, 1e-5, extent, 1.0, 5.0)
        return oversampling(summary(structures=(one,)), patch, (400.0, 400.0, 300.0))

    assert share((200.0,) * 3, (400.0, 400.0, 300.0)).value == 0.33
    assert share((80.0,) * 3, (100.0,) * 3).value == 0.5
    assert share((5.0,) * 3, (50.0,) * 3).value == 0.67
    assert "'nodule'" in share((5.0,) * 3, (50.0,) * 3).reason


def test_a_short_run_on_volumes_changes_little(summary):
    short = augmentation(summary(), 3, False, (0, 1, 2))
    assert short["training.augmentation.flip_axes"].value == []
    assert short["training.augmentation.rotate_degrees"].value == 15
    long = augmentation(summary(), 3, True, (1, 2))
    assert long["training.augmentation.flip_axes"].value == [1, 2]
    assert long["training.augmentation.low_resolution_probability"].value == 0.25


def test_only_many_small_things_in_images_have_no_upright(summary):
    def degrees(pieces, dims=2):
        size, axes = ((256, 256), 2) if dims == 2 else ((256, 256, 9), 3)
        many = (Structure("cell", 20, 0.1, (200.0,) * axes, pieces, 20.0),)
        choices = augmentation(summary(size, (1.0,) * axes, structures=many), 2, False, (0, 1))
        return choices["training.augmentation.rotate_degrees"].value

    assert [degrees(30.0), degrees(1.0), degrees(30.0, dims=3)] == [180, 30, 30]


def test_a_run_that_is_too_short_is_told_of_before(summary, cpu):
    short = outlook(summary(), Budget("cpu", 1, minutes=2), steps=100, seconds=1.0, seen=1.0)
    assert "too short" in short[1]
    assert "--minutes 10" in short[1]  # 500 steps
    assert len(outlook(summary(), cpu, steps=1200, seconds=0.9, seen=2.0)) == 1


@pytest.mark.parametrize(
    ("cases", "groups", "seen"),
    [(100, 100, "3125"), (10, 10, "31250"), (20, 2, "25000"), (2, 2, "250000"), (3, 1, "83333")],
)
def test_cases_that_validate_are_not_seen(summary, gpu, cases, groups, seen):
    [line] = outlook(summary(cases=cases, groups=groups), gpu, steps=250_000, seconds=0.2, seen=1.0)
    assert f"is seen {seen} times over" in line


def test_weeks_and_missing_labels_are_told_of(summary, gpu):
    few = tuple(Structure(f"organ_{n}", 20 if n < 42 else 0) for n in range(117))
    weeks, lacking = outlook(summary(structures=few, labels=117), gpu, 250_000, 10.0, 1.0)[1:]
    assert "29 days" in weeks
    assert lacking.startswith("75 of 117 labels are in no case")
