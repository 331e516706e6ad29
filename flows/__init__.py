"""The command line and the DAG of a pipeline. Prefect is imported here and nowhere else."""
