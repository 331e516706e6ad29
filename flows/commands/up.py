"""`trtflow up`."""

from argparse import Namespace

from flows.deploy import registration_of
from flows.options import Options
from flows.up import Place, Up
from tasks.core.names import check_names
from tasks.core.paths import absolute_path
from tasks.core.yaml_source import load_config


def command(parsed: Namespace, options: Options) -> int:
    """Check the YAML, then start everything and stay until told to stop."""
    config = load_config(options.file)
    check_names(config, options.file)
    folder = absolute_path(parsed.data) if parsed.data else options.project / ".trtflow"
    registration = registration_of(config, options.file)
    return Up(options, config, registration, Place(folder, parsed.host, parsed.port), parsed.at_once).run()
