"""``transformers serve`` (its documentation, "Serving").

Loads a model when it is first asked for, so a first answer may take minutes. Without continuous batching it answers
one request at a time. Usage stands in the chunk of the last choice, asked for or not, and streams end without
``[DONE]``. It tells its metrics over OpenTelemetry only, so there is nothing to scrape.
"""

from router.engines.engine import Engine

ENGINE = Engine(base_url="http://127.0.0.1:8000/v1", health="/health")
