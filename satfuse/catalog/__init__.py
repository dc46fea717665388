"""STAC services: their properties (`specs`), their items (`search`) and their files (`access`)."""
