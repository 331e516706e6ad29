"""Which ONNX file a path means: the file itself, or the one in a folder."""

from pathlib import Path

from tasks.core.errors import UserCodeError

_USUAL = "model.onnx"


def candidates(folder: Path) -> list[str]:
    """Names of the ONNX files that a folder may stand for: its model.onnx alone, where there is one."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix == ".onnx" and path.is_file())
    return [_USUAL] if _USUAL in found else found


def onnx_file(path: Path) -> Path:
    """Return the file that `path` means; raise UserCodeError for a folder that no longer holds exactly one."""
    if not path.is_dir():
        return path
    found = candidates(path)
    if len(found) != 1:
        message, cure = what_is_wrong(str(path), found)
        raise UserCodeError(message, cure)
    return path / found[0]


def what_is_wrong(text: str, found: list[str]) -> tuple[str, str]:
    """Say why a folder does not mean one file, and what to do."""
    if not found:
        return f"the folder {text!r} holds no ONNX file", "name the file, or a folder that holds one"
    return f"the folder {text!r} holds {len(found)} ONNX files: {', '.join(found)}", "name the one that is meant"
