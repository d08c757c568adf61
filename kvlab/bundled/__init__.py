"""The bundled model: its text generators, tokenizer, training, evaluation and head analysis."""
