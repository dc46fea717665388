"""STAC services: what they offer (`specs`), what they hold (`search`), and how their files are reached (`access`)."""
