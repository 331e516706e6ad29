"""The `trtflow` command: parse, dispatch, and turn expected errors into one paragraph and an exit code."""

import importlib
import json
import logging
import signal
import sys
import traceback
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from flows.options import DEFAULT_FILE, Options, options_from
from tasks.core.config_operations import size_bytes
from tasks.core.errors import ConfigError, Interrupted, TrtflowError

# Which module of flows.commands serves which subcommand.
_MODULES = {
    "run": "run",
    "plan": "plan",
    "list": "look",
    "show": "look",
    "report": "report",
    "promote": "promotion",
    "rollback": "promotion",
    "keygen": "keygen",
    "verify": "verify",
    "gc": "gc",
    "repro": "repro",
    "notify": "notify",
    "doctor": "doctor",
    "schema": "schema",
    "validate": "schema",
    "up": "up",
    "deploy": "deploy",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # What is told about arguments that cannot be parsed is told as they ask for all the same.
    defaults = Namespace(file=DEFAULT_FILE, store=None, cache=None, json="--json" in given, debug=False)
    options = options_from(defaults)
    try:
        parsed = _parser().parse_args(given, defaults)
    except ConfigError as error:
        _tell(error, options)
        return error.exit_code
    options = options_from(parsed)
    logging.basicConfig(
        stream=sys.stderr, format="%(message)s", level=logging.DEBUG if options.debug else logging.WARNING
    )
    try:
        return dispatch(parsed, options)
    except TrtflowError as error:
        _tell(error, options)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"trtflow: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return 141


def dispatch(parsed: Namespace, options: Options) -> int:
    """Import what the subcommand needs, and no more, and call it: a start costs what is imported."""
    module = importlib.import_module(f"flows.commands.{_MODULES[parsed.command]}")
    command: Callable[[Namespace, Options], int] = module.command
    return command(parsed, options)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    # A second signal ends the process at once: the first one's clean-up may be what hangs.
    signal.signal(signum, signal.SIG_DFL)
    raise Interrupted(signum)


def _tell(error: TrtflowError, options: Options) -> None:
    if options.debug:
        traceback.print_exc()
        if error.detail:
            print(error.detail, file=sys.stderr)
    if options.json:
        where = error.where if isinstance(error, ConfigError) else None
        told = {
            "file": where.file if where else "",
            "line": where.line if where else None,
            "path": where.path if where else "",
            "message": error.message,
            "cure": error.cure,
        }
        print(json.dumps({"error": told}))
    else:
        print(f"trtflow: {error}", file=sys.stderr)


class _Parser(ArgumentParser):
    """Takes options by their whole names only, and reports wrong usage like any other error."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 -- passed through as they are
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, f"see: {self.prog} --help")


def _parser() -> ArgumentParser:
    shared = _shared_options()
    parser = _Parser(
        prog="trtflow", description="From trained models to verified, benchmarked inference engines.", parents=[shared]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, names: str | int | None = None) -> ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[shared])
        if names:
            path = "" if name == "gc" else ", or the path of an ONNX file or folder"
            text = f"a pipeline of the YAML{' (default: all)' if names == '*' else ''}{path}"
            command.add_argument("names", metavar="NAME", nargs=names, help=text)
        return command

    _run_options(add("run", "convert, verify, benchmark and promote", "*"))
    add("plan", "show which steps are cached, which would run, and why", "*")
    add("list", "list the pipelines with their last run and what is promoted")
    show = add("show", "show the last run of a pipeline", 1)
    text = "name the tensors at which a precision's error is made: of a result, a precision, or (default) the worst"
    show.add_argument("--where", nargs="?", const="", metavar="ID", help=text)
    text = "list an engine's layers with their times: of a result, a precision, or (default) what is promoted"
    show.add_argument("--layers", nargs="?", const="", metavar="ID", help=text)
    report = add("report", "make the page of a run, and of its pipeline, anew from what is kept", 1)
    report.add_argument("--run", metavar="ID", help="a run by its id, or the beginning of it (default: the last)")
    _promotion_options(
        add("promote", "put an engine of the last run in force by hand"),
        add("rollback", "bar what is promoted and put back what was before"),
    )
    _key_options(
        add("keygen", "make a pair of keys to sign promotions with; needs no YAML"),
        add("verify", "check that what is in force is what a trusted key signed", "*"),
    )
    _gc_options(add("gc", "remove what no recent run and no promotion needs", "*"))
    _repro_options(add("repro", "run the request that made an artifact again, and compare"))
    _notify_options(add("notify", "announce a retrained checkpoint to the server that waits for it"))
    add("doctor", "say which runtimes work here, and what to install for the rest")
    documents = ("pipelines", "run", "report")
    add("schema", "print a JSON Schema").add_argument(
        "document", choices=documents, metavar="DOCUMENT", help=f"one of {documents}"
    )
    _operation_options(
        add("up", "serve the pipelines: Prefect server and UI, schedules, triggers, in the foreground"),
        add("deploy", "register the pipelines, schedules and triggers with the Prefect API of PREFECT_API_URL"),
    )
    add("validate", "check the YAML and the files and names in it, without running anything")
    return parser


def _shared_options() -> _Parser:
    """Options that may stand before or after the command; a default here would undo what stands before it."""
    shared = _Parser(add_help=False, argument_default=SUPPRESS)
    shared.add_argument("-f", "--file", help=f"the YAML (default: {DEFAULT_FILE}); paths in it are relative to it")
    shared.add_argument("--store", metavar="URL", help="the store (default: the YAML's, else artifacts/)")
    shared.add_argument("--cache", metavar="FOLDER", help="keep copies of a remote store there (or TRTFLOW_CACHE)")
    shared.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    shared.add_argument("--debug", action="store_true", help="tracebacks, and what workers printed")
    return shared


def _run_options(run_parser: ArgumentParser) -> None:
    add = run_parser.add_argument
    add("--checkpoint", metavar="PATH|URL", help="use this checkpoint, for one pipeline")
    add("--sha256", metavar="DIGEST", help="and only if it is that one")
    add("--prefect", action="store_true", help="run as a Prefect flow (so it does with PREFECT_API_URL)")
    add("--rebenchmark", action="store_true", help="measure again, although nothing changed")
    add("--verify", action="store_true", help="hash every cached file, not only look at its stat")
    text = "where packages of a step are not installed, take what the store holds of a host that has them"
    add("--resume", action="store_true", help=text)
    text = "stop a step that waits longer than this for a worker (default: 3600)"
    add("--timeout", type=_seconds, default=3600.0, metavar="SECONDS", help=text)


def _promotion_options(promote: ArgumentParser, rollback: ArgumentParser) -> None:
    promote.add_argument("name", metavar="NAME", help="a pipeline of the YAML")
    promote.add_argument("id", metavar="ID", help="<engine>/<precision>")
    rollback.add_argument("name", metavar="NAME", help="a pipeline of the YAML")
    rollback.add_argument("--reason", type=_text, default="rolled back by hand", help="kept in the record")


def _key_options(keygen: ArgumentParser, verify: ArgumentParser) -> None:
    keygen.add_argument("--out", default=".", metavar="FOLDER", help="where to write them (default: here)")
    keygen.add_argument("--name", default="trtflow", metavar="NAME", help="of the files (default: trtflow)")
    add = verify.add_argument
    add("--key", action="append", metavar="PUB", help="a public key to check with, in place of the YAML's `trust`")
    add("--promotion", metavar="FILE", help="check a copied promoted.json, without YAML and store; needs --engine")
    add("--engine", metavar="FOLDER", help="the engine's files that belong to --promotion")


def _repro_options(repro: ArgumentParser) -> None:
    repro.add_argument("artifact", help="<pipeline>/<step>/<key>, as reports name it")
    repro.add_argument("--polygraphy", action="store_true", help="print the polygraphy line that does the same")


def _notify_options(notify: ArgumentParser) -> None:
    add = notify.add_argument
    add("name", metavar="NAME", help="a pipeline of the YAML")
    add("--checkpoint", metavar="PATH|URL", required=True, help="what was trained: below one of the YAML's roots")
    add("--sha256", metavar="DIGEST", help="refuse any other file (default: of a path, its digest now)")
    add("--metadata", metavar="NAME=VALUE", action="append", help="kept beside the run; may be given several times")
    text = "how long to ask again where no server answers (default: 30)"
    add("--wait", type=_wait, default=30.0, metavar="SECONDS", help=text)


def _gc_options(gc: ArgumentParser) -> None:
    text = "runs to keep of each pipeline (default: as `keep` of the YAML says, else 10)"
    gc.add_argument("--keep-runs", type=_count, default=None, metavar="N", help=text)
    text = "keep also every run that is younger"
    gc.add_argument("--keep-days", type=_days, default=None, metavar="D", help=text)
    text = "then drop the oldest runs of each pipeline, but for its newest, until it takes no more (as 20GB, 512MiB)"
    gc.add_argument("--max-size", type=_size, default=None, metavar="SIZE", help=text)
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--yes", action="store_true", help="do not ask on a terminal")


def _operation_options(up: ArgumentParser, deploy: ArgumentParser) -> None:
    add = up.add_argument
    add(
        "--host", default="127.0.0.1", help="address that the server listens at (default: 127.0.0.1, this machine only)"
    )
    add("--port", type=_port, default=4200, help="its port (default: 4200)")
    add("--data", metavar="FOLDER", help="its database and logs (default: .trtflow beside the YAML)")
    add("--at-once", type=_count, metavar="N", help="runs at once (default: 2, or a quarter of the cores)")
    deploy.add_argument("--dry-run", action="store_true", help="only say what would change")
    deploy.add_argument("--remove", action="store_true", help="remove all that this YAML has registered")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of another encoding, which no record can hold
        raise ArgumentTypeError(f"{text!r} is not UTF-8") from error
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _wait(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36500:  # noqa: PLR2004 - a hundred years: more is a typing error, and beyond what a date can be
        raise ArgumentTypeError(f"{text!r} is no number of days above 0")
    return days


def _size(text: str) -> int:
    found = size_bytes(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no size: write it as 20GB, 1.5TB or 512MiB")
    return found


def _port(text: str) -> int:
    if _count(text) > 65535:  # noqa: PLR2004 - the last one
        raise ArgumentTypeError(f"{text} is no port: the last one is 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
