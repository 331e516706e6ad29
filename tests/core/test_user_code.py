"""What the user's code raises is told in words, with the line; a class of theirs keeps its name."""

from pathlib import Path

import pytest

from tasks.core.errors import UserCodeError
from tasks.core.user_code import call_user, load_function

CASES = {
    "{}['label 17']": "failed: there is no such key: 'label 17'",
    "[][3]": "failed: list index out of range",
    "''.missing": "failed: 'str' object has no attribute 'missing'",
    "nowhere": "failed: name 'nowhere' is not defined",
    "1 + 'a'": "failed: unsupported operand",
    "recurse()": "failed: maximum recursion depth exceeded",
    "fail(AssertionError())": "failed: an assertion does not hold",
    "fail(ValueError('bad metric'))": "raised ValueError: bad metric",
    "fail(Mine('seen'))": "failed: there is no such key: seen",
    "fail(Other('seen'))": "raised Other: seen",
}
MODULE = """\
class Mine(KeyError):
    def __str__(self): return "".join(self.args)
class Other(Exception): ...
def fail(error): raise error
def recurse(): return recurse()
def called(): return {}
"""


@pytest.mark.parametrize("expression", CASES)
def test_an_error_is_told_in_words(tmp_path: Path, expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"raising_{abs(hash(expression))}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{}", expression))
    with pytest.raises(UserCodeError) as caught:
        call_user(f"{name}:called", load_function(f"{name}:called", tmp_path))
    assert caught.value.message.startswith(f"{name}:called {CASES[expression]}")
    assert "Error:" not in caught.value.message.replace("ValueError:", "")
    assert f"{name}.py:" in caught.value.cure
