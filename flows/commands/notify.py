"""`trtflow notify`: announce a checkpoint of a pipeline of the YAML to the server that converts it."""

import json
from argparse import Namespace

from flows.events import Retrained, is_url
from flows.hooks import Server, model_retrained
from flows.options import Options, chosen
from flows.prefect_http import PrefectHttp
from flows.retrained import check_checkpoint, why_unseen
from flows.roots import roots_of
from flows.terminal import tell
from tasks.core.errors import ConfigError
from tasks.core.paths import absolute_path
from tasks.core.yaml_source import load_config, locate


def command(parsed: Namespace, options: Options) -> int:
    """Check what can be checked here, so that the sender hears of it, and send the event."""
    config = load_config(options.file)
    (pipeline,) = chosen(config, [parsed.name], options).values()
    if not pipeline.on_retrain:
        where = locate(options.file, ["pipelines", parsed.name])
        raise ConfigError("this pipeline does not wait for retrained checkpoints", "add on_retrain: true", where)
    given = parsed.checkpoint
    checkpoint = given if is_url(given) else str(absolute_path(given))
    check_checkpoint(checkpoint, roots_of(config, parsed.name, options.project))
    unknown = "" if not is_url(checkpoint) else why_unseen(checkpoint)
    if unknown:
        tell(f"note: {unknown}; the server will try for itself")
    sent = model_retrained(
        parsed.name,
        checkpoint,
        sha256=parsed.sha256,
        metadata=_metadata(parsed.metadata),
        server=Server(patience_s=parsed.wait),
    )
    _tell(sent, options)
    return 0


def _metadata(pairs: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ConfigError(f"{pair!r:.99} is no metadata", "write it as name=value")
        if name in found:
            raise ConfigError(f"the metadata {name!r:.99} is given twice", "give each once")
        found[name] = value
    return found


def _tell(sent: Retrained, options: Options) -> None:
    server = PrefectHttp.of(None, None, 0)
    if options.json:
        print(json.dumps({"api": server.url, "id": str(sent.id), **sent.payload}))
        return
    digest = f" (sha256 {sent.sha256})" if sent.sha256 else ""
    print(f"told {server.url}: {sent.pipeline} was retrained, {sent.checkpoint}{digest}\nevent {sent.id}")
