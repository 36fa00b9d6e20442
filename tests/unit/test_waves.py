"""The order in which containers stop, for any dependencies: also those that no stack should have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.engines.containers import waves

NAMES = [f"node-{number}" for number in range(6)]


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.integers(1, 5))))
def test_dependents_come_before_what_they_need(reach: dict[str, set[int]]) -> None:
    needs = {
        name: {NAMES[(NAMES.index(name) + step)] for step in reach[name] if name < NAMES[6 - step]} for name in reach
    }
    order = list(waves(needs))
    place = {name: number for number, wave in enumerate(order) for name in wave}
    assert sorted(place) == sorted(needs)
    assert sum(map(len, order)) == len(needs)
    for name, others in needs.items():
        assert all(place[name] < place[other] for other in others if other in place)


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from([*NAMES, "unknown"]))))
def test_dependencies_in_a_circle_come_to_an_end_too(needs: dict[str, set[str]]) -> None:
    assert sorted(name for wave in waves(needs) for name in wave) == sorted(needs)
