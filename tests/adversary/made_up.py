"""Made-up secrets of 60 kinds, the places in which people and programs write them, and texts without any.

Written from what the issuers document of their formats, before the rules of `corpus/scrub` were widened, and
without a look at them. Rules are made on the seeds in DEVELOPMENT and on PLACES alone. HELD_OUT and
FURTHER_PLACES are for the figure that a page may name: whoever makes a rule must not look at what they miss.
"""

import base64
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DEVELOPMENT, HELD_OUT = (1, 2, 3), 20_261
LETTERS, DIGITS = string.ascii_letters, string.digits
ALNUM, HEX = LETTERS + DIGITS, "0123456789abcdef"
URL_SAFE = ALNUM + "-_"

Draw = random.Random
Maker = Callable[[Draw], str]


def some(alphabet: str, count: int) -> Maker:
    """Return a maker of so many characters, a digit among them."""

    def make(draw: Draw) -> str:
        text = [draw.choice(alphabet) for _ in range(count)]
        if any(letter in DIGITS for letter in alphabet):
            text[draw.randrange(1, count)] = draw.choice(DIGITS)
        return "".join(text)

    return make


def after(prefix: str, alphabet: str, count: int) -> Maker:
    """Return a maker of a prefix and so many characters."""
    rest = some(alphabet, count)
    return lambda draw: prefix + rest(draw)


def joined(*parts: str | Maker) -> Maker:
    """Return a maker of several parts in a row."""
    return lambda draw: "".join(part if isinstance(part, str) else part(draw) for part in parts)


def b64(count: int) -> Maker:
    """Return a maker of so many random bytes as base64."""
    return lambda draw: base64.b64encode(draw.randbytes(count)).decode()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of secret."""

    name: str
    make: Maker
    """The secret itself."""
    written: str = "{}"
    """How it is always written, if its form alone does not tell it: {} is the secret."""


def _password(draw: Draw) -> str:
    word = "".join(draw.choice(string.ascii_lowercase) for _ in range(draw.randint(5, 8)))
    return word.capitalize() + draw.choice("!#-_.") + some(DIGITS, draw.randint(2, 4))(draw)


KINDS = (
    Kind(name="openai project", make=after("sk-proj-", URL_SAFE, 74)),
    Kind(name="openai", make=after("sk-", ALNUM, 48)),
    Kind(name="anthropic", make=joined("sk-ant-api03-", some(URL_SAFE, 93), "AA")),
    Kind(name="openrouter", make=after("sk-or-v1-", HEX, 64)),
    Kind(name="stripe secret", make=after("sk_live_", ALNUM, 24)),
    Kind(name="stripe restricted", make=after("rk_live_", ALNUM, 24)),
    Kind(name="stripe webhook", make=after("whsec_", ALNUM, 32)),
    Kind(name="github", make=after("ghp_", ALNUM, 36)),
    Kind(name="github app", make=after("ghs_", ALNUM, 36)),
    Kind(name="github fine-grained", make=joined("github_pat_", some(ALNUM, 22), "_", some(ALNUM, 59))),
    Kind(name="gitlab", make=after("glpat-", URL_SAFE, 20)),
    Kind(name="gitlab runner", make=after("glrt-", URL_SAFE, 20)),
    Kind(name="gitlab deploy", make=after("gldt-", URL_SAFE, 20)),
    Kind(name="aws id", make=after("AKIA", string.ascii_uppercase + "234567", 16)),
    Kind(name="aws secret", make=b64(30), written="aws_secret_access_key = {}"),
    Kind(name="aws session", make=b64(180), written="AWS_SESSION_TOKEN={}"),
    Kind(
        name="slack bot", make=joined("xoxb-", some(DIGITS, 12), "-", some(DIGITS, 12), "-", some(ALNUM, 24))
    ),
    Kind(
        name="slack app", make=joined("xapp-1-A", some(DIGITS, 10), "-", some(DIGITS, 13), "-", some(HEX, 64))
    ),
    Kind(
        name="slack hook",
        make=joined("T", some(ALNUM, 10), "/B", some(ALNUM, 10), "/", some(ALNUM, 24)),
        written="https://hooks.slack.com/services/{}",
    ),
    Kind(name="google key", make=after("AIza", URL_SAFE, 35)),
    Kind(name="google oauth", make=after("ya29.", URL_SAFE, 120)),
    Kind(name="google client", make=after("GOCSPX-", URL_SAFE, 28)),
    Kind(name="hugging face", make=after("hf_", LETTERS, 34)),
    Kind(name="npm", make=after("npm_", ALNUM, 36)),
    Kind(name="pypi", make=after("pypi-AgEIcHlwaS5vcmc", URL_SAFE, 120)),
    Kind(name="rubygems", make=after("rubygems_", HEX, 48)),
    Kind(name="docker", make=after("dckr_pat_", URL_SAFE, 27)),
    Kind(name="sendgrid", make=joined("SG.", some(URL_SAFE, 22), ".", some(URL_SAFE, 43))),
    Kind(name="mailgun", make=after("key-", HEX, 32)),
    Kind(name="mailchimp", make=joined(some(HEX, 32), "-us", some("123456789", 2))),
    Kind(name="twilio", make=after("SK", HEX, 32)),
    Kind(name="twilio auth", make=some(HEX, 32), written="TWILIO_AUTH_TOKEN={}"),
    Kind(name="telegram", make=joined(some("123456789", 10), ":AA", some(URL_SAFE, 33))),
    Kind(name="discord", make=joined("M", some(ALNUM, 25), ".G", some(URL_SAFE, 5), ".", some(URL_SAFE, 38))),
    Kind(name="azure storage", make=b64(64), written="AccountName=x;AccountKey={};EndpointSuffix=core"),
    Kind(name="azure client", make=joined(some(ALNUM, 3), "8Q~", some(URL_SAFE, 34))),
    Kind(
        name="azure sas",
        make=joined(some(ALNUM, 20), "%2B", some(ALNUM, 21), "%3D"),
        written="https://x.blob.core.windows.net/c?sv=2022-11-02&sig={}&se=2027",
    ),
    Kind(name="shopify", make=after("shpat_", HEX, 32)),
    Kind(name="square", make=after("sq0atp-", URL_SAFE, 22)),
    Kind(name="databricks", make=after("dapi", HEX, 32)),
    Kind(name="digitalocean", make=after("dop_v1_", HEX, 64)),
    Kind(name="linear", make=after("lin_api_", ALNUM, 40)),
    Kind(name="notion", make=after("ntn_", ALNUM, 46)),
    Kind(name="figma", make=after("figd_", URL_SAFE, 40)),
    Kind(name="postman", make=joined("PMAK-", some(HEX, 24), "-", some(HEX, 34))),
    Kind(name="grafana", make=joined("glsa_", some(ALNUM, 32), "_", some(HEX, 8))),
    Kind(name="vault", make=after("hvs.", URL_SAFE, 90)),
    Kind(name="terraform", make=joined(some(ALNUM, 14), ".atlasv1.", some(URL_SAFE, 66))),
    Kind(name="replicate", make=after("r8_", ALNUM, 37)),
    Kind(name="groq", make=after("gsk_", ALNUM, 52)),
    Kind(name="age", make=after("AGE-SECRET-KEY-1", string.ascii_uppercase + DIGITS, 58)),
    Kind(
        name="jwt",
        make=joined("eyJhbGciOiJIUzI1NiJ9.eyJ", some(ALNUM, 40), ".", some(URL_SAFE, 43)),
    ),
    Kind(name="basic header", make=b64(18), written="Authorization: Basic {}"),
    Kind(name="bearer header", make=some(ALNUM, 40), written="Authorization: Bearer {}"),
    Kind(name="url", make=_password, written="postgres://app:{}@db.internal:5432/app"),
    Kind(name="netrc", make=_password, written="machine api.example.com login bob password {}"),
    Kind(name="cookie", make=some(HEX, 40), written="Cookie: theme=dark; sessionid={}"),
    Kind(name="prose", make=_password, written="the password for it is {}"),
    Kind(name="environment", make=_password, written="SMTP_PASSWORD={}"),
    Kind(name="environment key", make=some(ALNUM, 32), written="STRIPE_WEBHOOK_SIGNING={}\nSESSION_SECRET=x"),
)

ESC = "\x1b"
Place = Callable[[str], str]
PLACES: tuple[Place, ...] = (
    lambda text: text,
    lambda text: f"Here it is: {text}",
    lambda text: f"log line\\n{text}",
    lambda text: f"{ESC}[32m{text}{ESC}[0m",
    lambda text: json.dumps({"output": f"done\n{text}\nok"}),
)
"""The places on which rules may be made."""
FURTHER_PLACES: tuple[Place, ...] = (
    lambda text: f"first:\\t{text}\\r\\nnext",
    lambda text: f"\\u001b[1m{text}\\u001b[0m",
    lambda text: json.dumps({"arguments": json.dumps({"command": f"echo a\n{text}"})}),
    lambda text: f"2026-01-01 12:00:00 INFO got `{text}` from the user",
    lambda text: f"> {text}\n\nand then?",
    lambda text: f"```sh\n{text}\n```",
    lambda text: f"\\x1b[0;36m{text}\\x1b[0m",
    lambda text: f"| field | {text} |",
)
"""Those that only the held-out figure has."""


def secrets(seed: int, count: int, places: tuple[Place, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, secret, text with it), so many of each kind."""
    draw = Draw(seed)
    for kind in KINDS:
        for _ in range(count):
            secret = kind.make(draw)
            yield kind.name, secret, draw.choice(places)(kind.written.format(secret))


def _picture(draw: Draw) -> str:
    return "data:image/png;base64,iVBORw0KGgo" + base64.b64encode(draw.randbytes(120)).decode()


_NAMES = ("user", "row", "key", "value", "item", "count", "node", "file", "name", "index", "page", "state")


def _n(draw: Draw) -> str:
    return draw.choice(_NAMES)


INNOCENT: tuple[Maker, ...] = (
    joined("commit ", some(HEX, 40)),
    joined("sha256:", some(HEX, 64)),
    joined("md5 ", some(HEX, 32), "  image.iso"),
    lambda draw: str(uuid.UUID(int=draw.getrandbits(128))),
    lambda draw: f"request_id={uuid.UUID(int=draw.getrandbits(128))}",
    _picture,
    lambda draw: f"fetch('/api/{_n(draw)}', {{ credentials: 'include' }})",
    lambda draw: f"const {_n(draw)} = await get{_n(draw).title()}(token, {{ id }});",
    lambda draw: f"if (!{_n(draw)}.password) throw new Error('password is required');",
    lambda draw: f"def {_n(draw)}(key: str, token: str | None = None) -> int:",
    lambda draw: f"PRIMARY KEY ({_n(draw)}_id), FOREIGN KEY ({_n(draw)}) REFERENCES t",
    lambda draw: f"max_tokens={draw.randint(1, 9999)}, temperature=0.{draw.randint(1, 9)}",
    lambda draw: f"The {_n(draw)} key opens the {_n(draw)}, and the secret is patience.",
    lambda draw: f"I forgot the password for my {_n(draw)}. How do I reset it?",
    lambda draw: f"ssh-rsa {base64.b64encode(draw.randbytes(90)).decode()} bob@laptop",
    lambda draw: f"https://example.com/{_n(draw)}/{some(HEX, 12)(draw)}?page={draw.randint(1, 99)}",
    lambda draw: f"npm i {_n(draw)}-{_n(draw)}@{draw.randint(1, 9)}.{draw.randint(0, 9)}.0",
    lambda draw: f'"integrity": "sha512-{base64.b64encode(draw.randbytes(64)).decode()}"',
    lambda draw: f"export PATH=$HOME/{_n(draw)}/bin:$PATH",
    lambda draw: f"api_key = os.environ['{_n(draw).upper()}_KEY']",
    lambda draw: f"token = tokenizer.{_n(draw)}_token_id or {draw.randint(0, 200_000)}",
    lambda draw: f"<input type='password' name='{_n(draw)}' autocomplete='off'>",
    lambda draw: f"kubectl get secret {_n(draw)}-tls -n {_n(draw)}",
    lambda draw: f"Set-Cookie: theme=dark; Path=/; Max-Age={draw.randint(1, 99999)}; SameSite=Lax",
    lambda draw: f"{_n(draw)}: {draw.randint(1, 999)}ms, cache key {_n(draw)}:{draw.randint(1, 9)}",
)
"""Makers of texts without a secret."""


def innocents(seed: int, count: int) -> Iterator[str]:
    """Yield so many texts without a secret, of every sort in turn."""
    draw = Draw(seed)
    for number in range(count):
        yield INNOCENT[number % len(INNOCENT)](draw)
