"""Ordinary dialogue for models that the project does not ship, and its loader.

One file a category, one conversation a line (`{"messages": [...]}`). The perplexity on it is compared before
and after an update, so nothing here teaches a style: some answers are long, some short; some have a list,
most have none. Invariant: nothing trains on it. Everyone may import it.
"""
