"""Names of the files in which the data step keeps its sets; one batch after the other in each."""

GOLDEN = "golden.safetensors"
CALIBRATION = "calibration.safetensors"
EVALUATION = "evaluation.safetensors"
TARGETS = "targets.safetensors"
GOLDEN_OUTPUTS = "golden_outputs.safetensors"
EVALUATION_OUTPUTS = "evaluation_outputs.safetensors"
# The points of the range at which a step ran, and the outputs there, one batch a point.
RANGE = "range.json"
RANGE_OUTPUTS = "range_outputs.safetensors"
