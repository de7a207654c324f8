"""What an experiment is: the schema, its metrics, how a command line becomes a checked config, and what identifies it.

`composition` and `sweep_composition` lead from overrides to configs, `schema` holds their types, `identity` their
fingerprint. Nothing here loads TensorFlow, Keras or MLflow.
"""

__all__ = [
    "choices",
    "composition",
    "data_schema",
    "facts",
    "found_facts",
    "identity",
    "keras_table",
    "losses",
    "metrics",
    "model_schema",
    "optimizer_schema",
    "overrides",
    "own_code",
    "registry",
    "schema",
    "sweep_composition",
    "validation",
    "yaml_files",
]
