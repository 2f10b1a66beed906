"""The tables of proposed behaviours and of the complaints that each of them rests on.

Invariant: a proposal keeps its number and its key for good; its state and its evidence change. The words of
people stay in the turns: a row of evidence names its signal, and what the words say of a check's parameters.
"""

from sqlalchemy import JSON, Column, Integer, String, Table, Text

from store.ledger.schema import metadata

proposals = Table(
    "proposals",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("key", String, nullable=False, unique=True),  # the check and its choices, or words they share
    Column("rule", String, nullable=False),  # a check of the catalogue; "" if none fits
    # open -> accepted (a behaviour file was written), rejected, later, or merged (into another proposal);
    # later and rejected -> open when there is new evidence
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),  # why a person rejected it; "" otherwise
    Column("seen", JSON, nullable=False),  # ids of the signals that the last decision was made on
    Column("behaviour", String),  # name of the behaviour that it became
    Column("merged_into", Integer),  # number of the proposal that took its evidence
    Column("at", String, nullable=False),  # when it was first proposed
)

evidence = Table(
    "proposal_evidence",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("signal_id", String, primary_key=True),
    Column("parameters", JSON, nullable=False),  # what this complaint says of the check's parameters
)
PROPOSALS = (proposals, evidence)
"""The tables of this module."""
