import dataclasses
import json

import pytest
from test_tracking import record

from rescaler.record import Record
from rescaler.summary import totals


def test_a_record_comes_back_from_its_json() -> None:
    whole = dataclasses.replace(record(18), compile_s=2.0)
    assert Record.from_json(whole.to_json()) == whole


def test_records_of_other_versions_are_read() -> None:
    values = json.loads(record(18).to_json())
    older = {name: value for name, value in values.items() if name not in ("compile_s", "schema", "check")}
    assert Record.from_json(json.dumps(older)) == dataclasses.replace(record(18), compile_s=0.0)
    newer = dataclasses.replace(record(18), more={"energy_j": 3.5})
    found = Record.from_json(newer.to_json())
    assert found.more == {"energy_j": 3.5}
    assert json.loads(found.to_json()) == json.loads(newer.to_json())


@pytest.mark.parametrize("place", range(0, 1000, 7))
def test_no_bit_of_a_record_can_flip_unseen(place: int) -> None:
    whole = record(18).to_json().encode()
    flipped = bytearray(whole)
    flipped[place % len(whole)] ^= 1 << place % 5
    try:
        text = flipped.decode()
        found = Record.from_json(text)
    except ValueError:
        return
    assert found == record(18), "white space"


@pytest.mark.parametrize("change", [{"train_s": "1"}, {"test_top1": 2.0}, {"key": 3}, {"epoch": True}])
def test_what_no_epoch_can_have_is_no_record(change: dict[str, object]) -> None:
    values = json.loads(record(18).to_json()) | change
    del values["schema"], values["check"]
    with pytest.raises(ValueError, match="not the record of an epoch|an accuracy is not in"):
        Record.from_json(json.dumps(values))


def test_compiling_is_training() -> None:
    compiled = dataclasses.replace(record(1), compile_s=2.0)
    assert compiled.training_s == record(1).training_s + 2
    assert totals([(compiled, False)])["compile_s"] == 2
