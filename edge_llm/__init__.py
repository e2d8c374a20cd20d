"""edge-llm: the service that lets an art installation talk."""

__all__ = ["__version__"]

__version__ = "0.1.0"
