"""The loop: it learns, it goes on bit for bit where it was, and it comes to its end in time."""

import numpy as np
import pytest
import torch
from support_threads import one_thread
from support_train import discs, one_scene

from seggeo.errors import ModelError, ResourceError, StoreError
from seggeo.models.unet_arch import UNetShape
from seggeo.train.augment import Augmentation
from seggeo.train.fit import Trainer
from seggeo.train.sampler import Sampler
from seggeo.train.schedule import Progress, Schedule, is_due, rate_at, share_of
from seggeo.train.unet_task import UNetTask

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return one_scene(tmp_path_factory.mktemp("fit"), discs(0))


def trainer(scene, steps=6, seed=0, **schedule):
    torch.manual_seed(seed)
    task = UNetTask(UNetShape(widths=(8, 8, 16)))
    sampler = Sampler([scene], size=64, augmentation=Augmentation(), seed=seed)
    plan = Schedule(**{"minutes": 0, "steps": steps, "batch": 2, "rate": 0.01, "epoch": 4, **schedule})
    return Trainer(task, sampler, plan, CPU)


def run(one, count=None, threads=1):
    """Progress of some steps; then the iteration is closed."""
    seen = []
    steps = one.run(threads)
    for progress in steps:
        seen.append(progress)
        if len(seen) == count:
            break
    steps.close()
    return seen


def state(one, path):
    one.save(path)
    return torch.load(path, weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def without_clock(values):
    return {name: value for name, value in values.items() if name != "seconds"}


def test_the_loss_falls(scene):
    seen = run(trainer(scene, steps=30, epoch=1))
    total = [sum(p.losses.values()) for p in seen]

    assert np.mean(total[-6:]) < 0.6 * np.mean(total[:4])


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_is_uninterrupted_bit_for_bit(scene, tmp_path, stop):
    whole = trainer(scene)
    seen = run(whole)
    first = trainer(scene)
    run(first, stop)
    first.save(tmp_path / "state.pt")
    second = trainer(scene, seed=0)
    for parameter in second.task.network.parameters():
        torch.nn.init.constant_(parameter, 0.5)  # whatever it was before
    second.resume(tmp_path / "state.pt")
    second.settle()
    rest = run(second, threads=3)

    assert same(without_clock(state(whole, tmp_path / "a.pt")), without_clock(state(second, tmp_path / "b.pt")))
    assert [p.losses for p in rest] == [p.losses for p in seen[stop:]]
    assert [(p.step, p.rate, p.is_epoch, p.is_last) for p in rest] == [
        (p.step, p.rate, p.is_epoch, p.is_last) for p in seen[stop:]
    ]


def test_seeds_differ(scene):
    first, other = (run(trainer(scene, seed=seed), 2)[-1].losses for seed in (0, 1))

    assert first != other


def test_losses_are_means_since_the_last_epoch(scene):
    each = [sum(p.losses.values()) for p in run(trainer(scene, epoch=1))]
    mean = [sum(p.losses.values()) for p in run(trainer(scene, epoch=4))]

    np.testing.assert_allclose(mean[:4], np.cumsum(each[:4]) / [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(mean[4:6], np.cumsum(each[4:6]) / [1, 2], rtol=1e-6)


def test_averaged_weights_follow_the_trained_ones(scene):
    one = trainer(scene, steps=5, average=0.9)
    expected = {name: value.clone() for name, value in one.task.network.state_dict().items()}
    for step, _ in enumerate(one.run()):
        keep = min(0.9, (1 + step) / (10 + step))
        for name, value in one.task.network.state_dict().items():
            expected[name] = expected[name] * keep + value * (1 - keep) if value.is_floating_point() else value.clone()

    for name, value in one.averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert not one.averaged.training
    assert not any(p.requires_grad for p in one.averaged.parameters())


def test_biases_and_normalisation_do_not_decay(scene):
    decayed, kept = trainer(scene)._optimiser.param_groups

    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in kept["params"])


def test_a_loss_that_is_no_number_is_refused(scene):
    one = trainer(scene)
    with torch.no_grad():
        next(one.task.network.parameters()).fill_(float("nan"))

    with pytest.raises(ModelError, match="no longer a number at batch 1"):
        run(one)


def test_a_longer_budget_goes_on(scene, tmp_path):
    first = trainer(scene, steps=3)
    run(first)
    first.save(tmp_path / "state.pt")
    longer = trainer(scene, steps=7)
    longer.resume(tmp_path / "state.pt")
    longer.settle()

    assert longer.progress.share == pytest.approx(3 / 7)
    assert [p.step for p in run(longer)] == [4, 5, 6, 7]


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "text"])
def test_a_damaged_state_is_refused(scene, tmp_path, damage):
    path = tmp_path / "state.pt"
    trainer(scene).save(path)
    if damage == "other":
        torch.save({"step": 3}, path)
    else:
        content = {"cut": path.read_bytes()[:5000], "empty": b"", "text": b"not a state"}
        path.write_bytes(content[damage])

    with pytest.raises(StoreError, match="cannot be gone on from"):
        trainer(scene).resume(path)


def test_memory_that_does_not_hold_a_batch_is_said_so(scene):
    class Greedy(UNetTask):
        def loss(self, batch):
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    one = trainer(scene)
    one.task = Greedy(UNetShape(widths=(8, 8, 16)))

    with pytest.raises(ResourceError, match="--batch"):
        run(one)


def test_the_rate_rises_then_falls_to_a_hundredth():
    schedule = Schedule(minutes=0, steps=1000, rate=1.0, warmup=50)
    rates = [rate_at(schedule, Progress(step=i, share=i / 1000)) for i in range(1001)]

    assert (np.diff(rates[:50]) > 0).all()
    assert (np.diff(rates[50:]) <= 0).all()
    assert 0.98 < max(rates) <= 1.0
    assert rates[-1] == pytest.approx(0.01)


def test_a_short_budget_warms_up_in_a_tenth_of_it():
    schedule = Schedule(minutes=0, steps=30, rate=1.0, warmup=200)
    rates = [rate_at(schedule, Progress(step=i, share=i / 30)) for i in range(30)]

    assert max(rates) > 0.9
    assert int(np.argmax(rates)) <= 3


@pytest.mark.parametrize("step_s", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("judge_s", [0.0, 2.0, 40.0, 200.0])
@pytest.mark.parametrize("epoch", [20, 200, 10**6])
def test_a_budget_of_minutes_holds_validation_and_the_rate_comes_to_its_end(step_s, judge_s, epoch):
    """Simulated trainings: at the end the rate is low, and the time is kept as far as anyone could know."""
    schedule, p, last_rate = Schedule(minutes=20, steps=0, epoch=epoch, rate=1.0), Progress(), 0.0
    while not p.is_last:
        last_rate = rate_at(schedule, p)
        p.step += 1
        p.seconds += step_s
        p.share = share_of(schedule, p)
        p.is_last = p.share >= 1
        if is_due(schedule, p):
            p.note_judged(judge_s)
    first_is_a_surprise = judge_s if p.judged == 1 else 0

    assert p.judged >= 1
    assert last_rate < 0.05
    assert p.seconds <= 20 * 60 + 2 * step_s + first_is_a_surprise + 1e-6
    assert p.seconds >= 20 * 60 - 2 * step_s - judge_s
