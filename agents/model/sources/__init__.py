"""Where a model comes from: a directory, a GGUF file, a name on the hub, an installed package.

`named` reads what the user wrote; `from_gguf`, with `gguf_file`, `gguf_families` and `gguf_tokenizer`, turns
a GGUF file into a Hugging Face directory; `hub` downloads one; `installed` finds the file of an installed
package; `directory` checks that a directory is a model for conversations; `card` records its source.

Invariant: a directory is made whole or not at all, and holds data only. This package imports nothing heavy
before it is called. `loop` may import it.
"""
