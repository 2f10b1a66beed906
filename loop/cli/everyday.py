"""The commands: arguments in, one operation or one query, and how to show what comes back.

Invariant: a command holds no logic of its own; heavy imports wait until it runs, so that --help is quick.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.app import app, behaviours, model, options


@app.command()
def init(
    demo: Annotated[bool, typer.Option("--demo", help="Load the bundled conversations.")] = False,
    url: Annotated[str, typer.Option(help="Address of your own vLLM, such as http://127.0.0.1:8000.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="Hugging Face directory of the model; default: what is served.")
    ] = None,
) -> None:
    """Make a home, with the model as checkpoint 0: the embedded one, or your vLLM's."""
    import anyio

    from loop.cli.show import everyday
    from loop.operations import init as begin

    everyday.set_up_logs()
    helpers.show(
        anyio.run(partial(begin.init, options.home, demo=demo, url=url, model=model)), everyday.began
    )


@app.command()
def run(
    watch: Annotated[
        list[str] | None, typer.Option(help="Follow the logs in this folder; may be repeated.")
    ] = None,
) -> None:
    """The service, in the foreground: follow logs, answer, learn on schedule."""
    import anyio

    from loop.api import host
    from loop.cli.show import everyday
    from store import home

    found = home.find(options.home)
    everyday.set_up_logs()
    anyio.run(partial(host.run, found, watch or [], partial(everyday.ready, found)))


@app.command()
def night(
    seed: Annotated[
        int | None, typer.Option(help="Seed of every draw; default: `seed` in the configuration.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Take up again what was undone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compute the steps of the pairs at hand, and change nothing.")
    ] = False,
) -> None:
    """One whole night now: lessons, dreams, pairs, an update, the verdict."""
    from loop.cli.show import everyday

    told = helpers.perform("night", seed=seed, retry=retry, dry_run=dry_run)
    helpers.show(told, everyday.rehearsed if dry_run else everyday.night)


@app.command()
def ingest(
    paths: list[Path],
    format: Annotated[str | None, typer.Option(help="openai, sharegpt, claude-code or trl.")] = None,
) -> None:
    """Read conversation logs: files, or folders of them."""
    from loop.cli.show import everyday

    told = helpers.perform("ingest", paths=[str(path.absolute()) for path in paths], format=format)
    helpers.show(told, everyday.ingested)
    if told["set_aside"]:
        raise typer.Exit(3)


@app.command()
def forget(
    source: Annotated[str, typer.Argument(help="a source's name, a conversation's id, or a log file")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Take the weights back to before it as well.")
    ] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="As --rollback, then a night that learns the rest again.")
    ] = False,
) -> None:
    """Remove conversations and all that was learnt from them; names the updates that they touched."""
    from loop.cli.show import everyday
    from loop.cli.show import forget as show_forget

    back = rollback or retrain
    told = helpers.perform(
        "forget", source=source, path=str(Path(source).absolute()), dry_run=dry_run, rollback=back
    )
    again = retrain and told["rolled_back"]
    if again:
        told = {**told, "commands": [], "night": helpers.perform("night", retry=True)}
    helpers.show(told, show_forget.forgotten)
    if again and not options.json:
        everyday.night(told["night"])


@app.command()
def status() -> None:
    """Where the home stands; works with the service down."""
    from loop.cli.show import everyday
    from loop.operations import status as standing

    helpers.show(standing.status(options.home), everyday.status)


@app.command()
def pause() -> None:
    """No night begins by itself, and an update in training waits, until `resume`."""
    helpers.show(
        helpers.perform("pause"),
        lambda _: typer.echo("paused: no night begins by itself, an update in training waits"),
    )


@app.command()
def resume() -> None:
    """Nights may begin by themselves again, and an update that waits goes on."""
    helpers.show(helpers.perform("resume"), lambda _: typer.echo("resumed"))


@app.command()
def cancel() -> None:
    """End the update that is being trained; the weights are as before it."""
    from loop.cli.show import everyday

    helpers.show(helpers.perform("cancel"), everyday.cancelled)


@app.command()
def ledger(
    what: Annotated[
        str, typer.Argument(help="conversations, updates, pairs, dreams, signals, events or why")
    ],
    id: Annotated[str | None, typer.Argument(help="for why: an update or a pair")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest rows.")] = 20,
) -> None:
    """Look into the ledger; `why ID` walks an update or a pair back to the log lines."""
    from loop.cli.show import everyday
    from loop.operations import sweep
    from store.nights import report

    if what == "why":
        if id is None:
            raise UsageError("ledger why needs the id of an update or a pair")
        told = helpers.read(report.why, id)
        if "predictions" in told:
            told["predictions"] = [sweep.compared(one) for one in told["predictions"]]
        helpers.show(told, everyday.why)
    elif what in report.LISTS:
        helpers.show({what: helpers.read(report.listing, what, limit)}, partial(everyday.rows, what))
    else:
        raise UsageError(f"there is no list {what!r}; there are {', '.join(report.LISTS)} and why ID")


@app.command()
def ask(
    text: str,
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT=STRENGTH", help="Steer by a concept; may be repeated."),
    ] = None,
) -> None:
    """Ask the served model."""
    from loop.cli.steering import steering

    more = {"steer": steering(steer)} if steer else {}
    helpers.show(helpers.perform("ask", text=text, **more), lambda told: typer.echo(told["answer"]))


@behaviours.command("list")
def behaviours_list() -> None:
    """The behaviours of this home, each with its counter-behaviour."""
    from loop.cli.show import everyday
    from store import home
    from store.nights import report

    found = report.ordered(home.find(options.home).behaviours())
    keys = ("name", "counter_of", "condition", "do", "required_rate")
    helpers.show({"behaviours": [{key: getattr(b, key) for key in keys} for b in found]}, everyday.behaviours)


@behaviours.command("validate")
def behaviours_validate(file: Path) -> None:
    """Check a behaviour file."""
    from corpus.behaviour import load_file

    names = [behaviour.name for behaviour in load_file(file)]
    helpers.show(
        {"valid": True, "behaviours": names}, lambda _: typer.echo(f"{file}: fine ({' and '.join(names)})")
    )


@behaviours.command("measure")
def behaviours_measure(seed: Annotated[int | None, typer.Option(help="As in `night`.")] = None) -> None:
    """Pass rates of the active weights on the held-out scenarios."""
    from loop.cli.show import everyday

    helpers.show(helpers.perform("measure", seed=seed), everyday.measured)


@model.command("build")
def model_build(
    out: Annotated[Path, typer.Argument(help="a folder for config, tokenizer and safetensors")],
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="Training steps; default: the recipe's.")] = None,
) -> None:
    """Train the embedded model from its recipe: a few minutes on 2 cores."""
    from corpus import recipe
    from loop.cli.show import everyday

    with everyday.progress() as listener:
        total = steps or recipe.STEPS
        recipe.build(
            out, seed=seed, steps=total, on_step=lambda step, _: listener("build", str(out), step + 1, total)
        )
    helpers.show({"model": str(out)}, lambda _: typer.echo(f"built {out}"))


@app.command()
def doctor() -> None:
    """Look for what would keep a night from working."""
    from loop.cli.show import everyday
    from loop.operations import status as standing

    told = standing.doctor(options.home)
    helpers.show(told, everyday.doctor)
    if not all(check["ok"] for check in told["checks"]):
        raise typer.Exit(1)


@app.command()
def config() -> None:
    """Print the effective configuration."""
    from loop.config import load_settings, shown
    from store import home

    helpers.show(
        shown(load_settings(home.find(options.home).config_file)),
        lambda value: typer.echo(json.dumps(value, indent=2)),
    )
