"""Configuration-driven experiments for Keras and TensorFlow: Hydra YAML in, a tracked MLflow run out."""
