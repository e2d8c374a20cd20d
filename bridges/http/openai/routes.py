"""The table of OpenAI's paths, under each root that its clients and Azure's know."""

from bridges.http.endpoint import Endpoint
from bridges.http.openai.chat import chat_completions
from bridges.http.openai.chat_body import ChatBody
from bridges.http.openai.chat_reply import ChatCompletion, ChatCompletionChunk
from bridges.http.openai.completions import completions
from bridges.http.openai.completions_body import CompletionsBody
from bridges.http.openai.completions_reply import Completion
from bridges.http.openai.models import ModelList, ModelObject, list_models, retrieve_model
from bridges.http.openai.responses import responses
from bridges.http.openai.responses_body import ResponsesBody
from bridges.http.openai.responses_reply import ResponseObject, StreamEvent

__all__ = ["ENDPOINTS", "routes"]

V1 = ("/v1", "/openai/v1")
AZURE = "/openai"
"""Azure's clients add ``api-version``, which does not matter here."""
DEPLOYMENT = "/openai/deployments/{deployment}"
"""And the model in the path, under the name of its deployment."""

ENDPOINTS: tuple[Endpoint, ...] = (
    *(
        Endpoint(
            "POST",
            f"{root}/chat/completions",
            chat_completions,
            ChatCompletion,
            ChatBody,
            ChatCompletionChunk,
        )
        for root in (*V1, DEPLOYMENT)
    ),
    *(
        Endpoint(
            "POST", f"{root}/completions", completions, Completion, CompletionsBody, Completion
        )
        for root in (*V1, DEPLOYMENT)
    ),
    *(
        Endpoint("POST", f"{root}/responses", responses, ResponseObject, ResponsesBody, StreamEvent)
        for root in (*V1, AZURE)
    ),
    *(Endpoint("GET", f"{root}/models", list_models, ModelList) for root in (*V1, AZURE)),
    *(
        Endpoint("GET", f"{root}/models/{{name:.+}}", retrieve_model, ModelObject)
        for root in (*V1, AZURE)
    ),
)

routes = [endpoint.route for endpoint in ENDPOINTS]
