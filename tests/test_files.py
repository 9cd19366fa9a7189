"""Files are whole or said to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2.files import read_json


@pytest.mark.parametrize("content", [b"", b'{"stage": "spl', b"\xff\xfe{", b"[" * 100_000])
def test_json_that_is_damaged_is_refused_by_the_name_of_its_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file} is no whole JSON file .*copy or fetch it again, or, .*`dvc repro`"):
        read_json(file)
    file.write_text('{"stage": "split"}')
    assert read_json(file) == {"stage": "split"}
