"""`trtflow schema` and `trtflow validate`."""

import json
from argparse import Namespace

from pydantic import BaseModel

from flows.authority import authority_of
from flows.options import Options
from tasks.core.config import Config
from tasks.core.names import check_names
from tasks.core.outcome import RunsOutcome
from tasks.core.report import Report
from tasks.core.yaml_source import load_config

DOCUMENTS: dict[str, type[BaseModel]] = {"pipelines": Config, "run": RunsOutcome, "report": Report}


def command(parsed: Namespace, options: Options) -> int:
    """Print a JSON Schema, or check the YAML."""
    if parsed.command == "schema":
        print(json.dumps(DOCUMENTS[parsed.document].model_json_schema(), indent=1))
        return 0
    config = load_config(options.file)
    check_names(config, options.file)
    authority_of(config, options, signs=True)
    if options.json:
        print(json.dumps({"valid": True, "pipelines": sorted(config.pipelines)}))
        return 0
    print(f"{options.file.name} is valid: {', '.join(config.pipelines)}")
    later = [name for name, pipeline in config.pipelines.items() if pipeline.schedule or pipeline.on_retrain]
    if later:
        print(f"note: `trtflow up` or `trtflow deploy` starts {', '.join(later)} on schedule or after retraining")
    return 0
