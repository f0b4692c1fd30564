# SPDX-License-Identifier: Apache-2.0
"""A recording done again gives the same commands to the bit; one changed number, lost event or cut file is noticed."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from control_world import LIMITS, SOURCES, SPEC, TICK, World, values

from runtime.control.blend import Blend, Kind
from runtime.control.controller import Controller
from runtime.control.observation import JOINTS
from runtime.control.policy_link import PolicyFailure
from runtime.control.scheduler import Pace
from runtime.control.state import NotAllowed, State
from runtime.errors import ContractError
from runtime.recording import values as plain
from runtime.recording.mcap_file import EVENTS, McapRecording, McapWriter, RecordingError
from runtime.recording.recorder import RecordedBuffer, RecordedController
from runtime.recording.recording import Recording
from runtime.recording.replay import replay
from runtime.recording.setup import Setup
from runtime.recording.tape import DECISION, Tape
from runtime.safety.limits import Timing
from runtime.telemetry import StopCause


class RecordedWorld(World):
    """The same world, with a tape running."""

    def __init__(self, tape: Callable[[Setup], Tape], **given) -> None:
        super().__init__(**given)
        settings = self.controller.settings
        self.setup = Setup(SPEC, LIMITS, Timing(), settings, SOURCES, (), True, {"artifact_id": "a" * 64})
        kept = tape(self.setup)
        self.buffer = RecordedBuffer(self.setup, kept)
        self.controller = RecordedController(
            settings, self.setup.filter(), self.buffer, self.policy, self.clock, self.wall, kept
        )


def lived(tape: Callable[[Setup], Tape], **given) -> RecordedWorld:
    """A task with everything in it: motion, a camera that fails, a fault, a reset, a refusal, a cancelled task."""
    draw = np.random.default_rng(0)
    world = RecordedWorld(
        tape, answers=lambda call: values(0.2) + draw.normal(0, 0.02, (8, 7)).astype(np.float32), **given
    )
    with pytest.raises(NotAllowed):
        world.controller.start("too early")
    world.ready()
    world.controller.start("go")
    world.step(60)
    world.silent.add(SPEC.observation.image_keys[0])
    world.step(40)
    assert world.controller.state is State.FAULT_LATCHED
    world.silent.clear()
    world.step(3)
    world.controller.reset_fault()
    world.controller.arm(True)
    world.controller.start("go on", 5.0, 0.5)
    world.step(30)
    world.controller.scaled(0.0)
    world.policy.dead = PolicyFailure(StopCause.WORKER_DIED, "killed")
    world.step(40)
    return world


@pytest.fixture(scope="module")
def taped() -> tuple[Setup, list[dict], RecordedWorld]:
    events: list[dict] = []
    world = lived(lambda setup: Tape(events.append))
    return world.setup, events, world


def test_a_replay_gives_the_same_commands_to_the_bit(taped) -> None:
    setup, events, world = taped
    done = replay(setup, events)
    assert done.same, done.difference
    assert done.ticks == len(world.ticks)
    assert done.commands == sum(tick.command is not None for tick in world.ticks) > 50


def test_guidance_is_recorded_and_a_replay_with_another_is_found() -> None:
    """What the policy was told decides its answers, so it must be the same to the bit too."""
    events: list[dict] = []
    world = lived(lambda setup: Tape(events.append), blend=Blend(Kind.RTC, frozen_s=0.1), pace=Pace(8, lead_s=0.25))
    assert sum(said is not None for said in world.policy.guided) >= 3
    setup, told = (json.loads(json.dumps(part)) for part in (world.setup.to_json(), events))
    assert replay(Setup.from_json(setup), told).same
    asked = [said for event in told for said in event["link"] if said[0] == "ask" and len(said) > 4]
    commands = plain.to_array(asked[1][4][0])
    asked[1][4][0] = plain.array(np.nextafter(commands, np.float32(np.inf)))
    assert not replay(Setup.from_json(setup), told).same


def test_decisions_are_told_in_order_and_change_nothing(taped) -> None:
    setup, events, _ = taped
    when, no = {"when": "arm", "motion": True, "reasons": [], "instruction": ""}, ["release: expired", "x"]
    goal = {"when": "goal", "motion": False, "reasons": no, "instruction": "go"}
    with_them = [*events[:1], *({"call": DECISION, "args": told} for told in (when, goal)), *events[1:]]
    empty = {"clock": [], "wall": [], "link": []}
    numbered = [{**empty, **event, "n": n} for n, event in enumerate(with_them)]
    done = replay(setup, numbered)
    assert done.same, done.difference
    assert done.decisions == ("arm: motion", 'goal "go": no motion: release: expired; x')
    assert (done.ticks, done.commands) == (replay(setup, events).ticks, replay(setup, events).commands)
    del numbered[1]["args"]["motion"]
    with pytest.raises(ContractError, match="a decision is damaged"):
        replay(setup, numbered)


def test_events_survive_json(taped) -> None:
    setup, events, _ = taped
    again = json.loads(json.dumps([setup.to_json(), events], allow_nan=False))
    assert replay(Setup.from_json(again[0]), again[1]).same


def _first(events: list[dict], fits: Callable[[dict], bool]) -> dict:
    return next(event for event in events if fits(event))


def test_nothing_that_changes_a_controller_goes_unrecorded() -> None:
    calls = {
        name for name in dir(Controller) if not name.startswith("_") and inspect.isfunction(getattr(Controller, name))
    }
    assert calls - set(vars(RecordedController)) == set()


@pytest.mark.parametrize("what", ["joint", "clock", "chunk", "command", "state", "limit", "instruction", "scaling"])
def test_one_changed_number_is_found(taped, what: str) -> None:
    setup, events, _ = taped
    events = copy.deepcopy(events)
    moving = _first(events, lambda e: e["call"] == "tick" and e["out"]["command"] is not None)
    if what == "joint":
        event = _first(events, lambda e: e["call"] == "put" and "pose" in e["args"]["value"] and e["n"] > 50)
        event["args"]["value"]["pose"][0] = plain.array(np.array([5.0, 0.0, 0.5]))
    elif what == "clock":
        moving["clock"][0] += 0.004
    elif what == "chunk":
        tick = _first(events, lambda e: any(said[0] == "answer" and said[1] for said in e["link"]))
        answer = next(said for said in tick["link"] if said[0] == "answer" and said[1])
        rows = plain.to_array(answer[1][0]["values"])
        rows[3, 0] = np.nextafter(rows[3, 0], np.float32(1))
        answer[1][0]["values"] = plain.array(rows)
    elif what == "command":
        velocities = plain.to_array(moving["out"]["command"]["velocities"])
        velocities[0, 0] = np.nextafter(velocities[0, 0], 9.0)
        moving["out"]["command"]["velocities"] = plain.array(velocities)
    elif what == "scaling":
        _first(events, lambda e: e["call"] == "scaled")["args"]["factor"] = 1.0
    elif what == "state":
        moving["out"]["state"] = "idle"
    elif what == "limit":
        data = setup.to_json()
        data["limits"]["linear_m_s"] = 0.05
        setup = Setup.from_json(data)
    else:
        _first(events, lambda e: e["call"] == "start" and "raised" not in e)["args"]["instruction"] = "elsewhere"
    assert not replay(setup, events).same


def test_a_tick_that_raised_then_and_raises_again_is_the_same(taped, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Controller) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Controller, "tick", broken)
    event = {"n": 0, "call": "tick", "args": {}, "clock": [], "wall": [], "link": [], "raised": "RuntimeError: planted"}
    done = replay(taped[0], [event])
    assert (done.same, done.ticks, done.commands) == (True, 1, 0)
    assert "raised RuntimeError: planted" in replay(taped[0], [event | {"raised": ""}]).difference


def test_a_recording_of_nothing_proves_nothing(taped) -> None:
    done = replay(taped[0], [])
    assert not done.same
    assert "holds no event" in done.difference


def test_a_lost_event_is_named(taped) -> None:
    setup, events, _ = taped
    with pytest.raises(ContractError, match="events are lost"):
        replay(setup, events[:20] + events[21:])


def test_images_are_kept_by_what_makes_them_equal() -> None:
    one, two = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    two[3, 3, 2] = 1
    first, same, other = (plain.to_sample(plain.sample(image)) for image in (one, one.copy(), two))
    assert first.shape == one.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 5e-324, -0.0, 0.1 + 0.2])
def test_numbers_keep_every_bit(value: float) -> None:
    again = plain.to_number(json.loads(json.dumps(plain.number(value), allow_nan=False)))
    assert np.array([again]).tobytes() == np.array([value]).tobytes() or (np.isnan(again) and np.isnan(value))


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(ContractError, match="not an array"):
        plain.to_array({"b64": "AAAA", "dtype": "|O", "shape": [1]})


def test_a_file_is_replayed(tmp_path: Path) -> None:
    path, made = tmp_path / "run.mcap", []

    def begin(setup: Setup) -> Tape:
        made.append(Recording(path, setup, least_free=0))
        return made[0].tape

    world = lived(begin)
    made[0].close()
    assert made[0].trouble == ""
    assert not path.with_name("run.mcap.part").exists()
    found = McapRecording(path)
    done = replay(Setup.from_json(found.setup), found.events())
    assert done.same, done.difference
    assert done.ticks == len(world.ticks)
    assert found.whole


@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_closed_file_is_whole_however_little_is_in_it(tmp_path: Path, taped, count: int) -> None:
    writer = McapWriter(tmp_path / "run.mcap", taped[0].to_json())
    for event in taped[1][:count]:
        writer.add(EVENTS, 1, event)
    writer.close()
    found = McapRecording(tmp_path / "run.mcap")  # while the writer still lives
    assert list(found.events()) == taped[1][:count]
    assert found.whole


def test_a_file_whose_writer_was_killed_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path, made = tmp_path / "run.mcap", []

    def begin(setup: Setup) -> Tape:
        made.append(Recording(path, setup, least_free=0))
        return made[0].tape

    lived(begin)
    made[0].close()
    cut = tmp_path / "cut.mcap"
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 3 // 4])
    found = McapRecording(cut)
    done = replay(Setup.from_json(found.setup), found.events())
    assert done.same
    assert done.events > 0
    assert not found.whole
    for end in range(len(data) // 2, len(data) // 2 + 40):
        cut.write_bytes(data[:end])
        found = McapRecording(cut)
        assert len(list(found.events())) <= done.events
        assert not found.whole


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    setup = RecordedWorld(lambda given: Tape(lambda e: None)).setup
    with pytest.raises(RecordingError, match="free"):
        Recording(tmp_path / "run.mcap", setup, least_free=1 << 60)
    assert list(tmp_path.iterdir()) == [], "the name is still free"
    Recording(tmp_path / "run.mcap", setup, least_free=0).close()


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    setup = RecordedWorld(lambda given: Tape(lambda e: None)).setup
    (tmp_path / "run.mcap").write_bytes(b"old")
    with pytest.raises(RecordingError, match="never overwritten"):
        Recording(tmp_path / "run.mcap", setup)
    assert (tmp_path / "run.mcap").read_bytes() == b"old"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 something else"])
def test_what_is_no_recording_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(data)
    with pytest.raises((RecordingError, ContractError)):
        McapRecording(path)


def test_recording_changes_nothing() -> None:
    plain_world = World(answers=lambda call: values(0.2)).ready()
    taped_world = RecordedWorld(lambda setup: Tape(lambda e: None), answers=lambda call: values(0.2)).ready()
    for world in (plain_world, taped_world):
        world.controller.start("go")
        world.step(50)
    assert JOINTS in taped_world.buffer.names
    assert plain_world.clock.now() == taped_world.clock.now() > TICK
    for one, two in zip(plain_world.ticks, taped_world.ticks, strict=True):
        assert one.state is two.state
        assert (one.command is None) == (two.command is None)
        if one.command is not None and two.command is not None:
            assert plain.command(one.command) == plain.command(two.command)
