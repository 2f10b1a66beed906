"""Ordinary dialogue for models that the project does not ship, and its loader.

Each category has a file with one conversation on each line (`{"messages": [...]}`). The perplexity on these
conversations is compared before and after an update. So they have no common style: some answers are long,
some short; some have a list, most have none. Invariant: nothing trains on the dialogue. Every package may
import this one.
"""
