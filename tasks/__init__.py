"""The steps that turn a trained model into verified engines. Nothing here imports Prefect."""
