"""Names of the files in which the data step keeps its sets; one batch after the other in each."""

GOLDEN = "golden.safetensors"
CALIBRATION = "calibration.safetensors"
EVALUATION = "evaluation.safetensors"
TARGETS = "targets.safetensors"
GOLDEN_OUTPUTS = "golden_outputs.safetensors"
EVALUATION_OUTPUTS = "evaluation_outputs.safetensors"
