"""Removal of secrets that their own form identifies: tokens with a prefix, and some of another shape.

Invariant: pure, linear, idempotent. Each form is searched only in a text that has its mark, a literal. A
token may stand at the start of a word. It may also follow letters that a program sees but a reader does not:
those of an escaped newline (as in JSON inside JSON), of the end of a colour code, or of a percent-encoded
character. The forms are those that the issuers of the tokens document.
"""

import re

HEX = "[0-9a-f]"
ALNUM = "[A-Za-z0-9]"

_PREFIXED: tuple[tuple[str, str, str], ...] = (
    ("api-key", "sk-", r"(?=[\w-]{0,64}\d)[\w-]{12,}"),  # OpenAI, Anthropic and others of that form
    *(("api-key", f"{letter}k_{kind}_", rf"{ALNUM}{{10,}}") for letter in "srp" for kind in ("live", "test")),
    ("webhook-secret", "whsec_", r"[A-Za-z0-9+/=]{16,}"),
    *(("github-token", f"gh{letter}_", rf"{ALNUM}{{20,}}") for letter in "pousr"),
    ("github-token", "github_pat_", r"\w{20,}"),
    *(
        ("gitlab-token", f"{name}-", r"[\w-]{16,}")
        for name in ("glpat", "glrt", "gldt", "glptt", "glcbt", "glft", "glagent", "gloas", "glimt", "glsoat")
    ),
    *(("aws-key", prefix, r"[A-Z0-9]{16}(?![A-Za-z0-9])") for prefix in ("AKIA", "ASIA", "ABIA", "ACCA")),
    ("slack-token", "xox", r"[a-z](?:\.[a-z]+)?-[A-Za-z0-9-]{10,}"),
    ("slack-token", "xapp-", r"[A-Za-z0-9-]{10,}"),
    ("slack-hook", "hooks.slack.com/services/", r"[\w/]{20,}"),
    ("discord-hook", "discord.com/api/webhooks/", r"\d{10,}/[\w-]{40,}"),
    ("google-key", "AIza", r"[\w-]{30,}"),
    ("google-token", "ya29.", r"[\w.-]{20,}"),
    ("google-token", "GOCSPX-", r"[\w-]{20,}"),
    ("hf-token", "hf_", rf"{ALNUM}{{20,}}"),
    ("hf-token", "api_org_", rf"{ALNUM}{{20,}}"),
    ("npm-token", "npm_", rf"{ALNUM}{{30,}}"),
    ("pypi-token", "pypi-", r"[\w-]{30,}"),
    ("rubygems-token", "rubygems_", rf"{HEX}{{40,}}"),
    ("docker-token", "dckr_pat_", r"[\w-]{20,}"),
    ("docker-token", "dckr_oat_", r"[\w-]{20,}"),
    ("sendgrid-key", "SG.", r"[\w-]{16,}\.[\w-]{16,}"),
    ("mailgun-key", "key-", rf"{HEX}{{32}}(?![0-9A-Za-z])"),
    ("twilio-key", "SK", rf"{HEX}{{32}}(?![0-9A-Za-z])"),
    *(("shopify-token", f"shp{kind}_", rf"{HEX}{{32}}") for kind in ("at", "ca", "pa", "ss")),
    *(("square-token", f"sq0{kind}-", r"[\w-]{20,}") for kind in ("atp", "csp", "idp")),
    ("databricks-token", "dapi", rf"{HEX}{{32}}(?:-\d)?"),
    *(("digitalocean-token", f"do{kind}_v1_", rf"{HEX}{{64}}") for kind in "por"),
    ("linear-key", "lin_api_", rf"{ALNUM}{{30,}}"),
    ("notion-token", "ntn_", rf"{ALNUM}{{40,}}"),
    ("notion-token", "secret_", rf"{ALNUM}{{43}}(?![A-Za-z0-9])"),
    ("figma-token", "figd_", r"[\w-]{30,}"),
    ("postman-key", "PMAK-", rf"{HEX}{{24}}-{HEX}{{34}}"),
    ("newrelic-key", "NRAK-", r"[A-Z0-9]{20,}"),
    ("grafana-token", "glsa_", r"\w{30,}"),
    ("grafana-token", "glc_", r"[A-Za-z0-9+/=]{30,}"),
    ("sentry-token", "sntrys_", r"[\w+/=-]{40,}"),
    ("sentry-token", "sntryu_", rf"{HEX}{{60,}}"),
    *(("vault-token", f"hv{kind}.", r"[\w-]{20,}") for kind in "sbr"),
    ("doppler-token", "dp.pt.", rf"{ALNUM}{{40,}}"),
    ("planetscale-token", "pscale_", r"(?:tkn|pw|oauth)_[\w.=-]{30,}"),
    ("replicate-token", "r8_", rf"{ALNUM}{{35,}}"),
    ("api-key", "gsk_", rf"{ALNUM}{{40,}}"),
    ("api-key", "pplx-", rf"{ALNUM}{{40,}}"),
    ("api-key", "xai-", rf"{ALNUM}{{60,}}"),
    ("api-key", "tvly-", r"[\w-]{24,}"),
    ("airtable-token", "pat", rf"{ALNUM}{{14}}\.{HEX}{{64}}"),
    ("cloudflare-token", "v1.0-", rf"{HEX}{{24}}-{HEX}{{100,}}"),
    ("fly-token", "fo1_", r"[\w-]{40,}"),
    ("heroku-key", "HRKU-", r"[\w-]{30,}"),
    ("supabase-key", "sbp_", rf"{HEX}{{40}}"),
    ("age-key", "AGE-SECRET-KEY-1", r"[A-Z0-9]{50,}"),
    ("jwt", "eyJ", r"(?<!-eyJ)[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)*"),
)
"""(kind, prefix, regular expression of the rest) of each sort of token that begins with a prefix."""

START = r"(?:(?<![A-Za-z0-9_])|(?<=\\[abefnrtv])|(?<=[\d;\[]m)|(?<=%[0-9A-Fa-f]{2})|(?<=\\u00[0-9A-Fa-f]{2}))"
"""The start of a word, or what is one to a program: after an escape, or after a colour code."""

_SHAPED: tuple[tuple[str, str, str], ...] = (
    ("telegram-token", ":AA", r"(?<!\d)\d{8,10}:AA[\w-]{32,}"),
    ("discord-token", ".", rf"{START}[MNO][\w-]{{23,27}}\.[\w-]{{6}}\.[\w-]{{27,}}"),
    ("azure-secret", "Q~", r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,}"),
    ("mailchimp-key", "-us", rf"{HEX}{{32}}-us\d{{1,2}}(?!\d)"),
    ("terraform-token", ".atlasv1.", rf"{ALNUM}{{14}}\.atlasv1\.[\w-]{{60,}}"),
    ("signature", "sig", r"(?<=[?&;6]sig=)[A-Za-z0-9%+/=_-]{20,}"),
    ("signature", "Signature=", rf"(?<=-Signature=)(?:{HEX}{{64,}}|[A-Za-z0-9%+/=_-]{{40,}})"),
)
"""(kind, mark, regular expression) of each sort of token without a prefix."""


def _at_start(literal: str) -> str:
    """Return the pattern of a literal at the start of a word, or after an escape or a colour code.

    The literal comes first in the pattern, because the search is ten times as fast with a literal there.
    """
    text = re.escape(literal)
    escapes = (r"\\[abefnrtv]", r"[\d;\[]m", r"%[0-9A-Fa-f]{2}", r"\\u00[0-9A-Fa-f]{2}", r"\\x[0-9A-Fa-f]{2}")
    after = "".join(rf"|(?<={escape}{text})" for escape in escapes)
    return rf"{text}(?:(?<![A-Za-z0-9_]{text}){after})"


_TOKENS = [
    *((kind, prefix, re.compile(_at_start(prefix) + rest)) for kind, prefix, rest in _PREFIXED),
    *((kind, mark, re.compile(shape)) for kind, mark, shape in _SHAPED),
]


SHORTEST = 15
"""Fewest characters of a token of any form: no token has a space in it."""


def scrub_tokens(text: str) -> str:
    """Return the text with `[secret:kind]` for every token that its form identifies."""
    if max(map(len, text.split()), default=0) < SHORTEST:  # words alone
        return text
    for kind, mark, shape in _TOKENS:
        if mark in text:
            text = shape.sub(f"[secret:{kind}]", text)
    return text
