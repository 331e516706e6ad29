"""What a flow run of the `gc` deployment executes: `trtflow gc` as `keep` of the YAML says."""

from typing import TYPE_CHECKING

import prefect
from prefect.states import Completed, Failed

from flows.commands.gc import collect_all
from flows.options import open_store
from flows.retention import Rules
from flows.served import flow_run_name, loaded
from tasks.core.errors import ConfigError, TrtflowError

if TYPE_CHECKING:
    from typing import Any

    from prefect.client.schemas.objects import State


@prefect.flow(name="gc", flow_run_name=flow_run_name, persist_result=False)
def flow() -> "State[Any]":
    """Remove what neither `keep` of the YAML nor any promotion wants."""
    try:
        options, config = loaded()
        if config.keep is None:
            raise ConfigError(
                "the YAML has no `keep` any more", "run `trtflow deploy`, which takes this deployment away"
            )
        store = open_store(options, config)
        return Completed(message=collect_all(store, list(config.pipelines), Rules.of(config.keep)))
    except TrtflowError as error:
        return Failed(message=str(error))
