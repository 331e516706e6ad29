"""The example models that pipelines.yaml converts; yours may live beside your own YAML."""
