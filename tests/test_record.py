import dataclasses
import json

import pytest
from test_tracking import record

from rescaler.record import Record, totals


def test_a_record_comes_back_from_its_json() -> None:
    whole = dataclasses.replace(record(18), compile_s=2.0)
    assert Record.from_json(whole.to_json()) == whole


@pytest.mark.parametrize("change", [{"train_s": None}, {"more": 1}])
def test_what_lacks_a_field_or_has_another_is_no_record(change: dict[str, object]) -> None:
    values = json.loads(record(18).to_json()) | change
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(ValueError, match="not the record of an epoch"):
        Record.from_json(json.dumps(values))


def test_compiling_is_training() -> None:
    compiled = dataclasses.replace(record(1), compile_s=2.0)
    assert compiled.training_s == record(1).training_s + 2
    assert totals([(compiled, False)])["compile_s"] == 2
