"""Scrubbing: secrets are removed, code and prose stay, and the time is bounded."""

import json
import time

import pytest

from corpus.conversation import Conversation, Structure, ToolCall, Turn
from corpus.scrub.patterns import scrub, scrub_conversation, scrub_name

KEY = "MIIEowIBAAKCAQEA1234567890\nabcdefABCDEF0123456789\n"

# What each text must lose. The secrets are made up, and put together so that no scanner takes them for real.
SECRETS = {
    "anthropic key": ("use sk-ant-" + "api03-AbCdEf123456_-xyz now", "AbCdEf123456"),
    "openai key": ("OPENAI_API_KEY=sk-proj-" + "abc123DEF456ghi789", "abc123DEF456"),
    "github token": ("ghp_" + "a1B2" * 9, "a1B2"),
    "github fine-grained": ("github_pat_" + "11ABCDEFG0abcdefghij_xyz", "ABCDEFG0"),
    "gitlab": ("glpat-" + "abcdEFGH12345678wxyz", "EFGH1234"),
    "aws": ("AKIA" + "IOSFODNN7EXAMPLE", "IOSFODNN7"),
    "aws secret": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "wJalrXUtnFEMI"),
    "slack": ("xoxb-" + "1234567890-abcdefghij", "1234567890"),
    "google": ("AIza" + "SyA1234567890abcdefghijklmnopqrstuv", "SyA1234567890"),
    "hugging face": ("hf_" + "abcdefghijABCDEFGHIJ1234", "abcdefghij"),
    "stripe": ("sk_live_" + "abcdefABCDEF1234", "abcdefABCDEF"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.abc-DEF_123", "eyJzdWIi"),
    "bearer header": ("Authorization: Bearer abcdef123456", "abcdef123456"),
    "basic header": ("Authorization: Basic Ym9iOmh1bnRlcjI=", "Ym9iOmh1"),
    "bearer in json": ('{"Authorization": "Bearer abcdefgh-ijkl"}', "abcdefgh"),
    "bearer alone": ("send bearer hunter2hunter2", "hunter2"),
    "environment": ("DB_PASSWORD=correcthorse", "correcthorse"),
    "assignment": ("password=hunter2", "hunter2"),
    "short assignment": ("DB_PASS=hunter2", "hunter2"),
    "yaml": ("  password: swordfish\n", "swordfish"),
    "json": ('{"password": "hunter2", "a": 1}', "hunter2"),
    "json in json": ('{\\"password\\": \\"hunter2\\"}', "hunter2"),
    "annotated": ('password: str = "hunter2"', "hunter2"),
    "subscript": ("config['api_key'] = 'hunter2hunter2'", "hunter2"),
    "escaped quote": ('password = "pa\\"ss"', 'pa\\"ss'),
    "never closed": ("password='hunter2 ", "hunter2"),
    "passphrase": ('passphrase: "correct horse battery staple"', "horse"),
    "api key header": ("x-api-key: hunter2-hunter2", "hunter2"),
    "query": ("GET /?access_token=abc12345&x=1", "abc12345"),
    "markup": ("<password>hunter2</password>", "hunter2"),
    "flag": ("deploy --password hunter2 --now", "hunter2"),
    "prose": ("By the way, my password is hunter2!", "hunter2"),
    "curl": ("curl -s -u bob:hunter2 http://x", "hunter2"),
    "url": ("postgres://bob:hunter2@db/x", "hunter2"),
    "url with @": ("https://bob:p@ss@host/x", "p@ss"),
    "url without user": ("redis://:hunter2@cache:6379", "hunter2"),
    "private key": (f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}-----END RSA PRIVATE KEY-----", "abcdefABCDEF"),
    "escaped private key": ("-----BEGIN PRIVATE KEY-----\\n" + KEY.replace("\n", "\\n"), "abcdefABCDEF"),
    "private key cut off at its end": (f"-----BEGIN EC PRIVATE KEY-----\n{KEY}MIIabc", "MIIabc"),
    "private key cut off at its beginning": (f"{KEY}-----END RSA PRIVATE KEY-----", "abcdefABCDEF"),
    "private key with line numbers": (
        "  1→-----BEGIN PRIVATE KEY-----\n  2→MIIEowIBAAKCAQEA12345\n",
        "MIIEow",
    ),
    "pgp": ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\nlQdGBGN0b3ABCDEFGHIJKLMN\n", "lQdGBGN0"),
}

ORDINARY = """
max_tokens: 1000
token = get_token()
token = tokens[0]
password = os.environ['PW']
api_key=api_key
connect(password=pw, host=h)
def f(password: str, token: Optional[str] = None) -> str:
    if not password: return
tokens = tokenizer.encode(text)
The token: a word in a sentence.
password: must be at least 8 characters
self.password = password
password=config.password
bearer authentication is used
The bearer of important-documents
next_token = 151643
eos_token = '</s>'
tokenizer.pad_token = tokenizer.eos_token
PWD=/home/user/x
sk-learn is a nice library
class sk-folding-cube-animation
http://localhost:3000/@vite/client
https://example.com:8080/path?email=x@y.com
git@github.com:owner/repo.git
password is incorrect
Forgot your password? Click here.
Authorization: Bearer <token>
Authorization: Bearer ${TOKEN}
secret: the sauce
token_type: bearer
import secrets; secrets.token_hex(16)
password string `json:"password"`
password VARCHAR(255) NOT NULL
token: string;
Password: ********
"password": "<your password>"
"api_key": "YOUR_API_KEY"
hf_hub_download_from_the_hub_now
token is invalid
commit 3f786850e387550fdab836ed7e6dc881de23001b
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
my token was stolen, the secret is out.
const token = req.headers.authorization
Basic understanding of git
token budget: 4096
password = input('x')
for token in tokens: print(token)
access_key: Optional[str] = None
password: SecretStr = Field(...)
I told you the pass: turn left at the key shop.
"""


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_removed_and_its_place_marked(name: str) -> None:
    text, secret = SECRETS[name]
    clean = scrub(f"before it\n{text}\nafter it")
    assert secret not in clean and "[secret:" in clean
    assert clean.startswith("before it\n") and clean.endswith("after it")


@pytest.mark.parametrize("text", ORDINARY.strip().split("\n"))
def test_ordinary_code_and_prose_are_unchanged(text: str) -> None:
    assert scrub(text) == text


def test_scrubbing_twice_equals_scrubbing_once() -> None:
    everything = "\n".join(text for text, _ in SECRETS.values())
    assert scrub(scrub(everything)) == scrub(everything)


def test_only_the_secret_is_removed() -> None:
    assert scrub("https://bob:hunter2@host/x?a=1") == "https://bob:[secret:url-password]@host/x?a=1"
    assert scrub('{"password": "hunter2", "a": 1}') == '{"password": "[secret:password]", "a": 1}'
    assert scrub("What does -----BEGIN PRIVATE KEY----- mean?") == "What does [secret:private-key] mean?"
    assert scrub("İ password=hunter2 x") == "İ password=[secret:password] x"


def test_names_stay_different_when_their_secrets_are_removed() -> None:
    one, two = (scrub_name(f"/logs/sk-ant-{n}23456789abcdef.jsonl") for n in (1, 2))
    assert one != two and "23456789" not in one + two
    assert scrub_name("/logs/app.jsonl") == "/logs/app.jsonl"


def test_every_text_of_a_conversation_is_scrubbed_and_can_be_stored() -> None:
    turn = Turn(
        role="user", text="password=hunter2\0", line=1, edited="token=hunter2hunter2", key="pwd=hunter2"
    )
    clean = scrub_conversation(
        Conversation(source="pwd=hunter2", format="openai", turns=(turn,), key="pwd=hunter2")
    )
    assert "hunter2" not in repr(clean) and "\0" not in clean.turns[0].text
    odd = Turn(role="user", text="\ud800", line=1)
    assert (
        scrub_conversation(Conversation(source="", format="openai", turns=(odd,))).turns[0].text == "\\ud800"
    )


@pytest.mark.parametrize(
    "unit",
    [
        "password=",
        "token: ",
        "sk-",
        "-eyJ",
        "eyJaaaaaaaa.",
        "://a:",
        "curl -u ",
        "password='",
        "token=\\'",
        "bearer ",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----\n",
        "A" * 20 + "\n",
        "--a-",
        "password: a b c [ ",
    ],
)
def test_the_time_is_linear_in_the_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        began = time.process_time()
        scrub(text)
        return time.process_time() - began

    seconds(1_000)
    assert seconds(160_000) < 20 * seconds(20_000) + 0.2  # squared, it would be 64 times


def test_secrets_inside_tool_calls_results_and_definitions_are_removed() -> None:
    token = "ghp_" + "a1B2" * 9
    call = ToolCall(name="deploy", arguments=json.dumps({"password": "hunter2", "day": "monday"}), id=token)
    called = Structure(content=f"With {token}.", calls=(call,), answer="m1")
    tool = {"type": "function", "function": {"name": "deploy", "description": f"Use {token}"}}
    broken = {"type": "function", "function": {"name": "f", "description": "password='hunter2 "}}
    turns = (
        Turn(role="assistant", text="x", line=1, structure=called, tools=(tool, broken)),
        Turn(role="tool", text="x", line=2, structure=Structure(content=f"got {token}", call_id=token)),
    )
    clean = scrub_conversation(Conversation(source="", format="openai", turns=turns))
    assert "hunter2" not in str(clean) and token not in str(clean)
    first, second = (turn.structure for turn in clean.turns)
    assert first is not None and second is not None
    assert first.calls[0].id == second.call_id  # a call and its result still belong together
    assert json.loads(first.calls[0].arguments)["day"] == "monday"
    assert clean.turns[0].tools is not None and clean.turns[0].tools[0]["function"]["name"] == "deploy"
