"""The sources of a model: a directory, a GGUF file, the Hugging Face hub, or an installed package.

`named` reads the user's name for a source. `from_gguf`, with `gguf_file`, `gguf_families` and
`gguf_tokenizer`, converts a GGUF file into a Hugging Face directory; `hub` downloads a directory; `installed`
finds the GGUF file of an installed package. `directory` checks that a directory holds a model for
conversations, `card` records the source of a directory, and `folder` makes folders atomically.

Invariant: a directory is made whole or not at all, and holds data only. This package imports large libraries
only inside functions. `loop` may import it.
"""
