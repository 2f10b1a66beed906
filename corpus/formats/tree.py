"""Which messages of a tree are the conversation: the branch that is live, without those given up.

Invariant: pure, and every tree has an answer: an unknown parent is the message before, and a circle ends
where it meets itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from corpus.aliases import Json

Node = tuple[str, str | None, bool, bool]
"""Id, id of the parent, whether it is a person's prompt, and whether it is a new beginning."""


def live(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node whether it belongs to the branch of the last prompt.

    Only prompts make branches. The other nodes belong to the prompt above them, because the results of tools
    that ran at the same time are written as branches too.

    Args:
        nodes: The nodes in the order in which they were written.
    """
    above: dict[str, str | None] = {}  # for each node, the prompt at or above it
    parent_prompt: dict[str, str | None] = {}
    before: str | None = None
    last: str | None = None
    for uuid, parent, prompt, root in nodes:
        over = None if root else above.get(parent or "", above.get(before or ""))
        if prompt:
            parent_prompt.setdefault(uuid, over)
            last = uuid
        if uuid not in above:
            above[uuid] = uuid if prompt else over
        before = uuid
    kept: set[str | None] = {None}
    while last not in kept:
        kept.add(last)
        last = parent_prompt.get(last or "")
    return [above[node[0]] in kept for node in nodes]


def path_to(leaf: str, nodes: Mapping[str, Json], parent: str) -> list[Json]:
    """Return the nodes from the root to a leaf.

    Args:
        leaf: Id of the leaf.
        nodes: The nodes by id.
        parent: The field of a node that holds its parent's id.
    """
    path: list[Json] = []
    seen: set[str] = set()
    at: Any = leaf
    while isinstance(at, str) and at in nodes and at not in seen and isinstance(nodes[at], dict):
        seen.add(at)
        path.append(nodes[at])
        at = nodes[at].get(parent)
    return path[::-1]


def last_leaf(nodes: Mapping[str, Json], parent: str) -> str:
    """Return the id of the last node that is no other node's parent; "" without nodes."""
    parents = {str(node.get(parent)) for node in nodes.values() if isinstance(node, dict)}
    backwards = list(nodes)[::-1]
    return next((key for key in backwards if key not in parents), backwards[0] if backwards else "")
