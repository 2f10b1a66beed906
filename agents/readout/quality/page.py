"""The quality report as a page that a person reads: Markdown, from the report's own JSON.

Invariant: pure; every figure on the page is in the JSON. Knows no metric.
"""

from corpus.aliases import Json

NOTHING = "**That is no better than chance: these vectors say nothing.** "
HOW = """\
## How to read it

| column | what it is |
|---|---|
| PC 1 | the first principal component's share of the variance of the concept's texts about the mean of all others: \
over {clean:g} clean, under {fragmented:g} fragmented; in brackets what as many random texts stay under 19 times in \
20. Split: the texts lie on both sides of their line; off its line: the vector is not that line |
| alignment | mean cosine of a text with the vector that was estimated without it, and the worst |
| found again | share of the texts that score highest on their own concept when the vectors are made without them |
| neuron | the neuron of this layer's MLP that writes most nearly along the vector: over {one_neuron:g}, it is the \
concept; in brackets what vectors of random texts stay under |
| R\u00b2 | share of the vector that a ridge regression (lambda {ridge_lambda:g}) on all other concepts explains, they \
being estimated as if it did not exist: over {redundant:g} redundant; in brackets the share of a random direction |
| heads | the attention head whose output differs most in the mean, as layer.head: the length of that difference, and \
how far it sets the concept apart (d', in standard deviations); concentration is 1 where one head does it all |
"""


def markdown(told: Json) -> str:
    """The whole page."""
    apart = told["leave_one_out"]
    head = [
        f"# Quality of {len(told['concepts'])} concept vectors",
        "",
        f"Layer {told['layer']} ({told['relative_depth']:.0%} of the depth), {told['texts']} texts and "
        f"{told['baselines']} baselines, weights `{told['weights_sha256'][:12]}`; vectors estimated on "
        f"`{told['weights_version'][:12]}`.",
        "",
        f"Leaving one story out, {apart['accuracy']:.1%} of the texts are found again (by chance "
        f"{apart['by_chance']:.1%}). {'' if apart['above_chance'] else NOTHING}{_cohesion(told['cohesion'])}",
        "",
    ]
    skipped = [f"* skipped: {reason}" for reason in told["skipped"]]
    sections = [_section(name, found) for name, found in told["concepts"].items()]
    how = HOW.format(**told["bounds"])
    return "\n".join([*head, *skipped, *([""] if skipped else []), *_table(told), "", how, *sections])


def _cohesion(told: Json) -> str:
    if told["gap"] is None:
        return f"No cohesion: {told['reason']}."
    worst = min(told["clusters"].items(), key=lambda item: item[1]["gap"])
    return (
        f"Members of a cluster are nearer to each other than to the rest by a cosine of {told['gap']:.2f} on "
        f"average; least in {worst[0]} ({worst[1]['gap']:.2f})."
    )


def _table(told: Json) -> list[str]:
    rows = [
        "| concept | verdict | texts | PC 1 | alignment | found again | neuron | R\u00b2 | heads |",
        "|---" * 9 + "|",
    ]
    for name, found in told["concepts"].items():
        cells = [
            name,
            found["verdict"],
            str(found["texts"]),
            f"{found['first_pc']:.2f} ({found['first_pc_by_chance']:.2f})",
            _alignment(found),
            "" if found["accuracy"] is None else f"{found['accuracy']:.0%}",
            "" if found["neuron"] is None else _neuron(found["neuron"]),
            f"{found['r2']:.2f} ({found['r2_by_chance']:.2f})",
            _head(found["heads"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _alignment(found: Json) -> str:
    known = [one["alignment"] for one in found["alignment"] if one["alignment"] is not None]
    return f"{sum(known) / len(known):.2f}, {min(known):.2f}" if known else ""


def _neuron(found: Json) -> str:
    return f"{abs(found['cosine']):.2f} ({found['by_chance']:.2f})"


def _head(found: Json | None) -> str:
    if found is None:
        return ""
    first = found["top"][0]
    apart = round(first["selectivity"], 1) + 0.0
    return f"{_place(first)}: {first['norm']:.2f}, d' {apart:.1f}; {found['concentration']:.2f}"


def _place(head: Json) -> str:
    return f"{head['layer']}.{head['head']}"


def _section(name: str, found: Json) -> str:
    """One concept at length."""
    lines = [f"## {name}", "", f"{found['verdict'].capitalize()}.", ""]
    near = ", ".join(f"{one['concept']} {one['cosine']:+.2f}" for one in found["nearest"])
    summed = ", ".join(f"{one['coefficient']:+.2f} {one['concept']}" for one in found["contributors"])
    lines += [f"* nearest: {near or 'none'}", f"* made of: {summed or 'nothing'} (R\u00b2 {found['r2']:.2f})"]
    if found["heads"]:
        told = ", ".join(
            f"{_place(one)} ({one['norm']:.2f}, {one['selectivity']:+.1f})" for one in found["heads"]["top"]
        )
        lines.append(f"* heads, as layer.head (length, d'): {told}")
    for one in found["outliers"]:
        lines.append(
            f"* worst aligned: {one['text']} ({one['alignment']:+.2f}): \u201c{_quoted(one['opening'])}\u201d"
        )
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """A text's words, so that no sign of Markdown in them counts."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
