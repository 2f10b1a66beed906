"""Reader of LiteLLM's spend logs: a row for each call, with the request in one of several columns."""

from corpus.formats.exchange import Paths, paths_format

NAME = "litellm"

FORMAT = paths_format(
    Paths(
        needs=("request_id", "call_type", "messages|proxy_server_request"),
        request=("messages", "proxy_server_request", "proxy_server_request.body"),
        response=("response",),
        source=("end_user", "user"),
        time=("startTime",),
        feedback=("metadata",),
    ),
    name=NAME,
    title="LiteLLM: rows of the spend logs",
    seen="messages as a list, as {} and as text; the request in proxy_server_request",
    link="https://docs.litellm.ai/docs/proxy/spend_logs_deletion",
)
