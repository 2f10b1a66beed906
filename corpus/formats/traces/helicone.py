"""Reader of Helicone's requests, as its interface and its export give them."""

from corpus.formats.exchange import Paths, paths_format

NAME = "helicone"

FORMAT = paths_format(
    Paths(
        needs=("request_body|signed_body_url", "response_body|response_id|response_status"),
        request=("request_body",),
        response=("response_body",),
        source=("request_user_id", "helicone_user"),
        time=("request_created_at",),
    ),
    name=NAME,
    title="Helicone: exported requests",
    seen="rows of the interface for queries and of its export",
    link="https://docs.helicone.ai/rest/request/post-v1requestquery",
)
